"""Pieces of tissue that repeat on one slide: the same clot, cut and mounted several times.

Each piece is turned about its centre, mirrored or not, and laid over every other of nearly its area. Two pieces are
one section when their outlines overlap and what lies inside them correlates, too. Two round pieces of different tissue
share an outline and not the inside.
"""

from dataclasses import dataclass
from itertools import combinations, product

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB, Bools, FloatImage, Mask
from wsi.tissue.density import largest_density
from wsi.tissue.pieces import disk, odd

Labels = NDArray[np.int32]
"""int32 (h, w): 0 where nothing repeats, and on the first piece of a group; k on the repeats of group k."""

JOIN_UM = 100.0
"""Fragments nearer than this belong to one piece."""
MIN_AREA_UM2 = 60_000.0
"""Smaller pieces have no shape to compare."""
MAX_PIECES = 40
"""Only the largest pieces are compared."""
_SHARE = 0.05
"""Pieces of less than this part of the largest one are fragments."""
_RATIO = 1.25
"""Most that areas and slenderness may differ."""
_OUTLINE = 0.82
"""Least intersection over union of the outlines."""
_INSIDE = 0.60
"""Least correlation of the density inside both."""
_TOGETHER = 1.5
"""Least sum of the two. Serial sections of one block reached 1.68 in trials, pieces of different slides not this."""
_CANVAS = 64
_SIDE = 30.0
"""Square root of a piece's area on the canvas."""
_STEP_DEGREES = 6
_FINE_DEGREES = (-3, -1.5, 0, 1.5, 3)
_SHIFTS = (-1.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Repeats:
    """Which pieces of a slide repeat another."""

    labels: Labels
    pieces: int
    """Pieces that were compared."""
    groups: tuple[tuple[int, ...], ...]
    """Pieces of one section, by number from 1 in order of size; the first is the one that is kept."""

    @property
    def copies(self) -> int:
        """How many pieces repeat another one."""
        return sum(len(group) - 1 for group in self.groups)


@dataclass(frozen=True, slots=True)
class _Piece:
    density: FloatImage
    """float32 (h, w), cut out of the overview; 0 outside of the piece."""
    inside: FloatImage
    """float32 (h, w), 1 inside."""
    centre: tuple[float, float]
    """(x, y) in the cut."""
    slenderness: float
    """Longest over shortest standard deviation of its pixels' places: turning and mirroring do not change it."""
    area: float


def find_repeats(
    overview: RGB,
    mask: Mask,
    um_per_px: float,
    background: tuple[int, int, int],
    *,
    dark_background: bool = False,
) -> Repeats:
    """Compare the pieces of a tissue mask with each other.

    Parameters
    ----------
    overview
        uint8 (h, w, 3).
    mask
        Its tissue mask.
    um_per_px
        um/px of both.
    background
        Colour of the empty slide.
    dark_background
        Brightness is compared in place of density.
    """
    if dark_background:
        overview, background = 255 - overview, (255, 255, 255)
    joined, pieces = _pieces(overview, mask, um_per_px, background)
    group_of = list(range(len(pieces)))
    upright = [_placed(piece, 0.0, False) for piece in pieces]
    for one, two in combinations(range(len(pieces)), 2):
        fits = _alike(pieces[one].area, pieces[two].area) and _alike(pieces[one].slenderness, pieces[two].slenderness)
        if fits and group_of[one] != group_of[two] and _same(upright[one], pieces[two]):
            joins = group_of[two]
            group_of = [group_of[one] if g == joins else g for g in group_of]
    groups = [tuple(i + 1 for i, g in enumerate(group_of) if g == first) for first in sorted(set(group_of))]
    groups = [group for group in groups if len(group) > 1]
    labels = np.zeros(mask.shape, np.int32)
    for number, group in enumerate(groups, start=1):
        labels[np.isin(joined, group[1:])] = number
    labels[mask == 0] = 0
    return Repeats(labels, len(pieces), tuple(groups))


def _alike(one: float, two: float) -> bool:
    return max(one, two) <= _RATIO * min(one, two)


def _pieces(
    overview: RGB, mask: Mask, um_per_px: float, background: tuple[int, int, int]
) -> tuple[Labels, list[_Piece]]:
    """Return the pieces, largest first, and their numbers (from 1) as a picture."""
    # Where fragments join, the gap between them belongs to no piece: the mask decides what is compared.
    count, labels = cv2.connectedComponents(cv2.dilate(mask, disk(odd(JOIN_UM / um_per_px))), connectivity=8)
    labels[mask == 0] = 0
    areas = np.bincount(labels.ravel(), minlength=count)
    areas[0] = 0
    least = max(MIN_AREA_UM2 / um_per_px**2, _SHARE * areas.max())
    order = [int(i) for i in np.argsort(-areas, kind="stable") if areas[i] >= least][:MAX_PIECES]
    numbered = np.zeros(count, np.int32)
    numbered[order] = np.arange(1, len(order) + 1)
    joined = numbered[labels]
    return joined, [_cut(overview, joined == i + 1, background) for i in range(len(order))]


def _cut(overview: RGB, inside: Bools, background: tuple[int, int, int]) -> _Piece:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    shape = inside[box].astype(np.float32)
    y, x = np.nonzero(shape)
    density = largest_density(np.ascontiguousarray(overview[box]), background) * shape
    short, long = np.linalg.eigvalsh(np.cov(np.stack([y, x])))
    slenderness = float(np.sqrt(long / max(short, 1e-6)))
    sigma = 0.5 * float(np.sqrt(len(y))) / _SIDE  # every pose shrinks it as much: smoothed once for all
    if sigma > 0.5:
        density, shape = (np.asarray(cv2.GaussianBlur(p, (0, 0), sigma), np.float32) for p in (density, shape))
    return _Piece(density, shape, (float(x.mean()), float(y.mean())), slenderness, float(len(y)))


_Placed = tuple[FloatImage, FloatImage]
"""Density and inside on the canvas, float32 (64, 64) each."""


def _placed(piece: _Piece, degrees: float, mirrored: bool, shift: tuple[float, float] = (0.0, 0.0)) -> _Placed:
    """Scale a piece to the canvas' area, turn it about its centre, mirror it, shift it (x, y)."""
    scale = _SIDE / np.sqrt(piece.area)
    angle = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        turn = turn @ np.diag([-1.0, 1.0])
    offset = np.array([_CANVAS / 2, _CANVAS / 2]) + shift - turn @ piece.centre
    matrix = np.column_stack([turn, offset])
    density, inside = (
        np.asarray(cv2.warpAffine(picture, matrix, (_CANVAS, _CANVAS), flags=cv2.INTER_LINEAR), np.float32)
        for picture in (piece.density, piece.inside)
    )
    return density, inside


def _same(fixed: _Placed, moving: _Piece) -> bool:
    """Tell whether a piece, turned and mirrored in any way, matches another."""
    poses = product((False, True), range(0, 360, _STEP_DEGREES))
    ranked = sorted(poses, key=lambda pose: -sum(_match(fixed, _placed(moving, pose[1], pose[0]))))[:3]
    for mirrored, degrees in ranked:
        if min(_match(fixed, _placed(moving, degrees, mirrored))) < 0.3:
            continue
        for fine, y, x in product(_FINE_DEGREES, _SHIFTS, _SHIFTS):
            outline, inside = _match(fixed, _placed(moving, degrees + fine, mirrored, (x, y)))
            if outline >= _OUTLINE and inside >= _INSIDE and outline + inside >= _TOGETHER:
                return True
    return False


def _match(one: _Placed, two: _Placed) -> tuple[float, float]:
    """Return the intersection over union of the outlines, and the correlation of the density inside both."""
    both = (one[1] > 0.5) & (two[1] > 0.5)
    either = (one[1] > 0.5) | (two[1] > 0.5)
    # A pixel within the outline of both is needed, else the falling edge would correlate with itself.
    core = cv2.erode(both.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    if core.sum() < 20:
        return 0.0, 0.0
    a, b = one[0][core], two[0][core]
    a, b = a - a.mean(), b - b.mean()
    strength = float(np.sqrt((a @ a) * (b @ b)))
    return float(both.sum() / either.sum()), float(a @ b) / strength if strength > 1e-6 else 0.0

"""Pieces of tissue that repeat on one slide: the same clot, cut and mounted several times.

Each piece is turned about its centre, mirrored or not, and laid over every other of nearly its area. Two pieces are
one section when their outlines overlap and what lies inside them correlates, too. Two round pieces of different tissue
share an outline and not the inside.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, product

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB, Bools, FloatImage, Mask
from wsi.tissue.density import largest_density
from wsi.tissue.pieces import disk, odd
from wsi.tissue.pieces import pieces as connected

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


class _Piece:
    """One piece; what comparing it takes is made when it is compared: most slides have no two of one size."""

    def __init__(self, overview: RGB, inside: Bools, background: tuple[int, int, int]) -> None:
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        self._overview, self._shape, self._background = overview[box], inside[box].astype(np.float32), background
        y, x = np.nonzero(self._shape)
        short, long = np.linalg.eigvalsh(np.cov(np.stack([y, x])))
        self.area = float(len(y))
        self.centre = (float(x.mean()), float(y.mean()))
        """(x, y) in the cut."""
        self.slenderness = float(np.sqrt(long / max(short, 1e-6)))
        """Longest over shortest standard deviation of its pixels' places: turning and mirroring do not change it."""

    @cached_property
    def pictures(self) -> tuple[FloatImage, FloatImage]:
        """Density, 0 outside of the piece, and 1 inside, float32 (h, w) each, cut out of the overview."""
        shape = self._shape
        density = largest_density(np.ascontiguousarray(self._overview), self._background) * shape
        sigma = 0.5 * float(np.sqrt(self.area)) / _SIDE  # every pose shrinks it as much: smoothed once for all
        if sigma > 0.5:
            density, shape = (np.asarray(cv2.GaussianBlur(p, (0, 0), sigma), np.float32) for p in (density, shape))
        return density, shape

    @cached_property
    def upright(self) -> "_Placed":
        """It as it lies."""
        return _placed(self, 0.0, False)


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
    labels, order, areas = _pieces(mask, um_per_px)
    fitting = [pair for pair in combinations(range(len(order)), 2) if _alike(*areas[list(pair)].tolist())]
    pieces = {i: _Piece(overview, (labels == order[i]) & (mask > 0), background) for i in sorted({*chain(*fitting)})}
    group_of = list(range(len(order)))
    for one, two in fitting:
        if not _alike(pieces[one].slenderness, pieces[two].slenderness) or group_of[one] == group_of[two]:
            continue
        if _same(pieces[one].upright, pieces[two]):
            joins = group_of[two]
            group_of = [group_of[one] if g == joins else g for g in group_of]
    groups = [tuple(i + 1 for i, g in enumerate(group_of) if g == first) for first in sorted(set(group_of))]
    groups = [group for group in groups if len(group) > 1]
    repeated = np.zeros(mask.shape, np.int32)
    for number, group in enumerate(groups, start=1):
        repeated[np.isin(labels, [order[i - 1] for i in group[1:]]) & (mask > 0)] = number
    return Repeats(repeated, len(order), tuple(groups))


def _alike(one: float, two: float) -> bool:
    return max(one, two) <= _RATIO * min(one, two)


def _pieces(mask: Mask, um_per_px: float) -> tuple[Labels, list[int], NDArray[np.int64]]:
    """Return labels of what is joined, those of the pieces that are compared, largest first, and their areas.

    Where fragments join, the gap between them has their label and belongs to no piece: the mask decides.
    """
    joined = cv2.dilate(mask, disk(odd(JOIN_UM / um_per_px)))
    labels, areas = connected(joined, counted=mask > 0)
    least = max(MIN_AREA_UM2 / um_per_px**2, _SHARE * areas.max())
    order = [int(i) for i in np.argsort(-areas, kind="stable") if areas[i] >= least][:MAX_PIECES]
    return labels, order, areas[order]


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
        for picture in piece.pictures
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

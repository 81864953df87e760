"""Where a slide's tissue lies and what it is made of: smooth fields on a coarse grid, so any size fits in memory."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sample_data.noise import octaves, smooth_noise
from sample_data.spec import SlideSpec, Square
from sample_data.spots import CLASS_ARRANGEMENT, SPOT_PX, Arrangement, Spot
from sample_data.stains import Look, draw_look
from wsi.arrays import Bools, FloatImage

GRID_PX = 32
"""Step of the coarse grid, level-0 pixels."""
SPOT_SHARE = 0.045
"""Share of the tissue's area that lies in class-bearing spots."""

_CLEAR_PX = 40


@dataclass(frozen=True, slots=True)
class TissueMap:
    """One slide, before its pixels are painted. Sample (i, j) of a field lies at level-0 pixel (32 i, 32 j)."""

    spec: SlideSpec
    look: Look
    fields: FloatImage
    """float32 (h, w, 4): depth inside the tissue in pixels (negative outside), blood, cellular (each above 0 where it
    prevails), thickness of the section (about 1)."""
    shift: FloatImage
    """float32 (h, w, 4): displacement (y, x) of the texture in pixels; pale rows, pale islands (above 0: there)."""
    spots: tuple[Spot, ...]
    """Class-bearing spots, then distractors."""
    truth: tuple[Square, ...]
    """Squares of the class-bearing spots."""


def lay_out(spec: SlideSpec) -> TissueMap:
    """Decide a slide's shape, mix, colours and spots. The label changes only the arrangement named in its spots."""
    rng = np.random.default_rng(spec.seed)
    look = draw_look(rng, spec.center_id, spec.background)
    shape = (_grid_length(spec.height_px), _grid_length(spec.width_px))
    depth = _depth(rng, spec, shape)
    blood = _patches(rng, shape, look.blood_share, depth > 0)
    cellular = _patches(rng, shape, look.cellular_share, depth > 0)
    thickness = 1 + 0.10 * octaves(rng, shape, 1500 / GRID_PX, 2)
    shift = [130 * smooth_noise(rng, shape, 1300 / GRID_PX) for _ in range(2)]
    pale = [_patches(rng, shape, share, depth > 0) for share in look.pale_share]
    corners, spot_count = _choose_corners(rng, spec, depth, look.crowd)
    spots = tuple(_spots(rng, spec, corners, spot_count))
    _deepen(depth, spots)
    return TissueMap(
        spec=spec,
        look=look,
        fields=np.stack([depth, blood, cellular, thickness], axis=2).astype(np.float32),
        shift=np.stack([*shift, *pale], axis=2).astype(np.float32),
        spots=spots,
        truth=tuple(Square(spot.l0_y, spot.l0_x, SPOT_PX) for spot in spots[:spot_count]),
    )


def _grid_length(side_px: int) -> int:
    """Return grid samples that cover the side, its last block and one more."""
    return -(-side_px // 256) * (256 // GRID_PX) + 2


def _depth(rng: np.random.Generator, spec: SlideSpec, shape: tuple[int, int]) -> FloatImage:
    """Return float32 (h, w): a few rounded, ragged clots that cover the wanted share of the slide."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    height, width = spec.height_px / GRID_PX, spec.width_px / GRID_PX
    side = min(height, width)
    clots = np.full(shape, -9, dtype=np.float32)
    for _ in range(int(rng.integers(1, 5)) if spec.tissue_share > 0.05 else 1):
        middle = rng.uniform((0.22 * height, 0.22 * width), (0.78 * height, 0.78 * width))
        long, angle, slender = side * rng.uniform(0.16, 0.34), rng.uniform(0, np.pi), rng.uniform(0.40, 0.95)
        u = (y - middle[0]) * np.cos(angle) + (x - middle[1]) * np.sin(angle)
        v = (x - middle[1]) * np.cos(angle) - (y - middle[0]) * np.sin(angle)
        np.maximum(clots, 1 - np.hypot(u / long, v / (long * slender)), out=clots)
    uneven = 0.16 * octaves(rng, shape, side / 5, 4)
    to_border = np.minimum(np.minimum(y, height - 1 - y) / height, np.minimum(x, width - 1 - x) / width)
    raw = clots + uneven - 1.6 * np.square(np.clip(0.17 - to_border, 0, None) / 0.17)
    inside = raw[: int(height), : int(width)]
    threshold = np.quantile(inside, 1 - spec.tissue_share)
    return np.asarray((raw - threshold) * (0.25 * side * GRID_PX), dtype=np.float32)


def _patches(rng: np.random.Generator, shape: tuple[int, int], share: float, tissue: Bools) -> FloatImage:
    """Return smooth noise that is above 0 on ``share`` of the tissue."""
    noise = octaves(rng, shape, 1100 / GRID_PX, 4)
    return np.asarray(noise - np.quantile(noise[tissue], 1 - share), dtype=np.float32)


def _choose_corners(
    rng: np.random.Generator, spec: SlideSpec, depth: FloatImage, crowd: float
) -> tuple[list[tuple[int, int]], int]:
    """Choose squares inside the tissue that do not touch, and how many of them carry the class (at least two).

    In a clot too small for two, the rest lie where the tissue is deepest, and `_deepen` grows the tissue around them.
    """
    rows, columns = (spec.height_px - SPOT_PX) // GRID_PX, (spec.width_px - SPOT_PX) // GRID_PX
    tissue_px = float((depth > 0).sum()) * GRID_PX**2
    spot_count = max(2, round(SPOT_SHARE * tissue_px / (np.pi / 4 * SPOT_PX**2)))
    wanted = spot_count + round(crowd * spot_count)
    half = SPOT_PX // 2 // GRID_PX
    here = (slice(half, half + rows), slice(half, half + columns))
    inset = (cv2.distanceTransform((depth > 0).astype(np.uint8), cv2.DIST_L2, 5) * GRID_PX)[here]
    corners: list[tuple[int, int]] = []
    blocked = np.zeros(inset.shape, dtype=bool)
    everywhere = np.argwhere(inset >= SPOT_PX // 2 + _CLEAR_PX)
    _take_apart(everywhere[rng.permutation(len(everywhere))], blocked, corners, wanted)
    deepest_first = np.argsort(-depth[here], axis=None, kind="stable")
    _take_apart(np.stack(np.unravel_index(deepest_first, inset.shape), axis=1), blocked, corners, spot_count)
    return [(GRID_PX * y, GRID_PX * x) for y, x in corners], spot_count


def _take_apart(candidates: npt.NDArray[np.intp], blocked: Bools, corners: list[tuple[int, int]], wanted: int) -> None:
    """Add candidates in their order to ``corners`` until there are ``wanted``; mark around each what would touch it."""
    apart = SPOT_PX // GRID_PX
    for y, x in candidates:
        if len(corners) >= wanted:
            return
        if not blocked[y, x]:
            corners.append((int(y), int(x)))
            blocked[max(0, y - apart) : y + apart + 1, max(0, x - apart) : x + apart + 1] = True


def _spots(rng: np.random.Generator, spec: SlideSpec, corners: list[tuple[int, int]], spot_count: int) -> list[Spot]:
    carrier = CLASS_ARRANGEMENT[spec.label]
    distractors: tuple[Arrangement, ...] = ("scatter", "stripes")
    kinds = [carrier if i < spot_count else distractors[int(rng.integers(2))] for i in range(len(corners))]
    return [
        Spot(l0_y=y, l0_x=x, arrangement=kind, seed=(*spec.seed, 1 + number))
        for number, ((y, x), kind) in enumerate(zip(corners, kinds, strict=True))
    ]


def _deepen(depth: FloatImage, spots: tuple[Spot, ...]) -> None:
    """Raise the tissue around every spot, so that no spot hangs over the clot's edge."""
    reach = SPOT_PX // GRID_PX
    for spot in spots:
        y, x = spot.l0_y // GRID_PX, spot.l0_x // GRID_PX
        window = depth[y : y + reach + 1, x : x + reach + 1]
        np.maximum(window, 2 * _CLEAR_PX, out=window)

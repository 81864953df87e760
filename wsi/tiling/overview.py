"""A small picture of any slide, in one bounded pass: the base of mask, quality control, report and viewer.

The overview is averaged down by a whole factor from the coarsest level that is still finer than wanted, in bands of
rows, so that a single-level slide of 6 gigapixels needs no more memory than a small one. Bands are independent: they
can be made by different workers.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.pixels.resample import area_average
from wsi.readers.protocol import Slide
from wsi.tiling.overview_tiles import average_tiles, can_average_tiles
from wsi.units import YX, Box, ceil_div

TARGET_UM = 8.0
"""Wanted um/px of overview and mask."""
MAX_PIXELS = 3_000_000
"""The overview is made coarser where it would have more pixels than this: so no slide needs more memory than a small
one. At 0.25 um/px, slides of 3 to 12 gigapixels get 16 um/px."""
_BAND_BYTES = 96 << 20
"""Source pixels read for one band, as RGB bytes."""
_BAND_ROWS = 1024
"""Source rows of one band at most: several workers share even a small slide."""
_BLOCK_PX = 4096
"""Source columns read at once within a band."""


@dataclass(frozen=True, slots=True)
class OverviewPlan:
    """From which level of the slide the overview is made, and how much smaller it is."""

    level: int
    factor: int
    """Pixels of that level per overview pixel, along each side."""
    shape: YX
    """Overview pixels."""
    band: int
    """Overview rows made in one piece."""
    l0_per_o: float
    """Level-0 pixels per overview pixel."""

    @property
    def bands(self) -> int:
        """Number of pieces."""
        return ceil_div(self.shape.y, self.band)


def plan_overview(slide: Slide, mpp: float) -> OverviewPlan:
    """Choose the level and the factor for an overview of about 8 um/px."""
    wanted = max(1.0, TARGET_UM / mpp)
    usable = [i for i, level in enumerate(slide.levels) if level.downsample <= wanted * 1.42]
    level = max(usable, key=lambda i: slide.levels[i].downsample)
    source = slide.levels[level]
    # A power of two divides the tiles of nearly every file, so that each tile can be averaged on its own.
    factor = 2 ** max(0, round(math.log2(wanted / source.downsample)))
    while source.shape.y * source.shape.x > MAX_PIXELS * factor**2:
        factor *= 2
    # Bands end at tile edges where memory allows, so that no tile is decoded for two of them.
    unit = math.lcm(source.tile.y, factor) if source.tile else factor
    if unit * source.shape.x * 3 > _BAND_BYTES:
        unit = factor
    rows = min(_BAND_BYTES // (3 * source.shape.x), _BAND_ROWS) // unit
    return OverviewPlan(
        level=level,
        factor=factor,
        shape=YX(ceil_div(source.shape.y, factor), ceil_div(source.shape.x, factor)),
        band=max(1, rows) * unit // factor,
        l0_per_o=source.downsample * factor,
    )


def overview_band(slide: Slide, plan: OverviewPlan, index: int) -> tuple[RGB, NDArray[np.uint8]]:
    """Make one band of the overview.

    Returns
    -------
    rgb
        uint8 (rows, width, 3).
    damaged
        uint8 (rows, width), 1 where pixels of the slide cannot be decoded.
    """
    source, factor = slide.levels[plan.level].shape, plan.factor
    y0, y1 = index * plan.band, min((index + 1) * plan.band, plan.shape.y)
    rgb = np.empty((y1 - y0, plan.shape.x, 3), np.uint8)
    damage = np.zeros((y1 - y0, plan.shape.x), np.uint8)
    if can_average_tiles(slide, plan.level, factor) and y0 * factor % slide.stored_levels[plan.level].tile.y == 0:
        average_tiles(slide, plan.level, factor, YX(y0, 0), rgb, damage)
        return rgb, damage
    step = max(1, _BLOCK_PX // factor)
    for x0 in range(0, plan.shape.x, step):
        out = Box(y0, x0, y1, min(x0 + step, plan.shape.x))
        box = Box(*(edge * factor for edge in out)).clipped(source)
        damaged: list[Box] = []
        pixels = _extended(slide.read(plan.level, box, damaged), YX(*(side * factor for side in out.shape)))
        rgb[:, out.x0 : out.x1] = area_average(pixels, YX(box.y0, box.x0), out, factor)
        for part in damaged:
            rows = slice(part.y0 // factor - y0, ceil_div(part.y1, factor) - y0)
            damage[rows, part.x0 // factor : ceil_div(part.x1, factor)] = 1
    return rgb, damage


def _extended(pixels: RGB, shape: YX) -> RGB:
    """Repeat the last row and column up to the wanted size, so that edges are not averaged with emptiness."""
    missing = (shape.y - pixels.shape[0], shape.x - pixels.shape[1])
    if not any(missing):
        return np.ascontiguousarray(pixels)
    return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")

"""A small picture of any slide, in one bounded pass: the base of mask, quality control, report and viewer.

The overview is averaged down by a whole factor from the coarsest level that is still finer than wanted, in bands of
rows, so that a single-level slide of 6 gigapixels needs no more memory than a small one. Bands are independent: they
can be made by different workers.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi.resample import area_average
from wsi.slide import RGB, Slide
from wsi.units import YX, Box, ceil_div

TARGET_UM = 8.0
"""Wanted um/px of overview and mask."""
MAX_PIXELS = 24_000_000
"""The overview is made coarser where it would have more pixels than this."""
_BAND_BYTES = 96 << 20
"""Source pixels read for one band, as RGB bytes."""
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
    shape = slide.levels[0].shape
    wanted = max(1.0, TARGET_UM / mpp, math.sqrt(shape.y * shape.x / MAX_PIXELS))
    usable = [i for i, level in enumerate(slide.levels) if level.downsample <= wanted * 1.01]
    level = max(usable, key=lambda i: slide.levels[i].downsample)
    source = slide.levels[level]
    factor = max(1, round(wanted / source.downsample))
    tile_rows = source.tile.y if source.tile else factor
    rows = max(
        factor,
        math.lcm(tile_rows, factor) if math.lcm(tile_rows, factor) * source.shape.x * 3 <= _BAND_BYTES else factor,
    )
    rows *= max(1, _BAND_BYTES // (3 * source.shape.x * rows))
    return OverviewPlan(
        level=level,
        factor=factor,
        shape=YX(ceil_div(source.shape.y, factor), ceil_div(source.shape.x, factor)),
        band=max(1, min(rows, max(1024, tile_rows)) // factor),
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

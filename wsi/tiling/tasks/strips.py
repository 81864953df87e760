"""The slide's pixels at the store's scale: rows of neighbouring tiles, read in pieces that fit into memory."""

import math
from collections.abc import Iterator

import numpy as np

from wsi.arrays import RGB
from wsi.pixels.resample import area_average, source_box
from wsi.progress.step_times import StepTimes
from wsi.readers.tiles import DAMAGED_RGB
from wsi.tiling.opened import slide_errors
from wsi.tiling.plan import SlidePlan
from wsi.units import YX, Box

PIECE_BYTES = 16 << 20
"""Source pixels read at once, as RGB bytes, and what is made of them: whatever slide and scale."""


def read_strip(plan: SlidePlan, times: StepTimes, row: int, columns: range) -> tuple[RGB, list[int]]:
    """Read one row of neighbouring tiles at the store's scale.

    Returns
    -------
    strip
        uint8 (T, n * T, 3).
    damaged
        Columns of tiles that hold pixels which could not be decoded, where the options allow to skip these.
    """
    side, factor = plan.grid.tile_px, plan.scaling.factor
    out = Box(row * side, columns.start * side, (row + 1) * side, columns.stop * side)
    damaged: list[Box] | None = [] if plan.options.on_damage == "skip" else None
    pieces = list(_pieces(plan, out))
    if len(pieces) == 1:
        strip = _pixels(plan, times, out, damaged)
    else:
        strip = np.empty((*out.shape, 3), np.uint8)
        for piece in pieces:
            y, x = piece.y0 - out.y0, piece.x0 - out.x0
            strip[y : y + piece.shape.y, x : x + piece.shape.x] = _pixels(plan, times, piece, damaged)
    lost = {
        column
        for part in damaged or ()
        if row in averaging_tiles(part.y0, part.y1, side, factor)
        for column in averaging_tiles(part.x0, part.x1, side, factor)
    }
    for column in lost.intersection(columns):
        strip[:, (column - columns.start) * side : (column - columns.start + 1) * side] = DAMAGED_RGB
    return strip, sorted(lost.intersection(columns))


def _pieces(plan: SlidePlan, s_out: Box) -> Iterator[Box]:
    """Cut a box into pieces whose source pixels fit into memory; rather square, for tiles at edges decode twice."""
    if plan.reduction > 1:  # decoded tile by tile
        yield s_out
        return
    native = plan.slide().levels[plan.scaling.level].tile
    height, width = piece_shape(s_out.shape, plan.scaling.factor, native)
    for y in range(s_out.y0, s_out.y1, height):
        for x in range(s_out.x0, s_out.x1, width):
            yield Box(y, x, min(y + height, s_out.y1), min(x + width, s_out.x1))


def _pixels(plan: SlidePlan, times: StepTimes, s_out: Box, damaged: list[Box] | None) -> RGB:
    """Return a box of the store's level 0, uint8 (h, w, 3)."""
    level, factor = plan.scaling.level, plan.scaling.factor
    source = source_box(s_out, factor)
    slide = plan.slide()
    with times.decoding(slide), slide_errors(plan.path):
        if plan.reduction > 1 and (tiles := slide.tiles(level)):
            return tiles.read_reduced(source, plan.reduction, damaged)
        pixels = slide.read(level, source, damaged)
    with times.timed("scale"):
        return area_average(np.ascontiguousarray(pixels), YX(source.y0, source.x0), s_out, factor)


def piece_shape(out: YX, factor: float, native: YX | None) -> YX:
    """Return the size of the pieces in which a box is read, so that none takes more than 16 MiB of source pixels.

    Parameters
    ----------
    out
        Size of the box, in the store's pixels.
    factor
        Source pixels per store pixel.
    native
        Size of the slide's own tiles: one is never cut across its width, as strips would be decoded again and again.
    """
    most = PIECE_BYTES / (3 * factor**2)
    tile = native or YX(1, 1)
    height = min(out.y, max(1, int(max(most**0.5, tile.y / factor))))
    width = min(out.x, max(1, int(max(most / height, tile.x / factor))))
    return YX(max(1, min(height, int(most / width))), width)


def averaging_tiles(start: int, stop: int, tile_px: int, factor: float) -> range:
    """Return the rows (or columns) of tiles that average any source pixel from ``start`` to ``stop``.

    Parameters
    ----------
    start, stop
        In pixels of the level that is read.
    tile_px, factor
        Side of a tile, and source pixels per store pixel. Below 1, pixels are interpolated: a tile reaches further.
    """
    reach, tile_v = max(0.0, (1 - factor) / 2), tile_px * factor
    return range(max(0, math.floor((start - reach) / tile_v + 1e-9)), math.ceil((stop + reach) / tile_v - 1e-9))

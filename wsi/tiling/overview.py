"""A small picture of any slide, in one bounded pass: the base of mask, quality control, report and viewer.

The overview is averaged down by a whole factor from the coarsest level that is still finer than wanted, in bands of
rows, so that a single-level slide of 6 gigapixels needs no more memory than a small one. Bands are independent: they
can be made by different workers.

Where the slide gives its tiles, each is averaged on its own, and equal ones only once: most of a single-level slide is
background whose compressed tiles are the same bytes over and over. JPEG tiles are decoded at an eighth of their size in
the frequency domain, which is all that an overview needs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.errors import says_damage
from wsi.pixels.resample import area_average
from wsi.progress.stalls import moved
from wsi.readers.protocol import Slide
from wsi.readers.tiles import DAMAGED_RGB, Tiles, shrunk
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
    by_tiles: bool
    """Whether tiles are averaged one by one, where the slide gives them."""

    def tiles(self, slide: Slide) -> Tiles | None:
        """Return the tiles that are averaged one by one; None where they are not."""
        tiles = slide.tiles(self.level) if self.by_tiles and self.factor > 1 else None
        return tiles if tiles and tiles.divides(self.factor) else None

    @property
    def bands(self) -> int:
        """Number of pieces."""
        return ceil_div(self.shape.y, self.band)


def plan_overview(slide: Slide, mpp: float, *, by_tiles: bool = True) -> OverviewPlan:
    """Choose the level and the factor for an overview of about 8 um/px; ``by_tiles`` as in `OverviewPlan`."""
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
        by_tiles=by_tiles,
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
    tiles = plan.tiles(slide)
    if tiles and y0 * factor % tiles.cut.tile.y == 0:
        average_tiles(tiles, factor, YX(y0, 0), rgb, damage)
        return rgb, damage
    step = max(1, _BLOCK_PX // factor)
    for x0 in range(0, plan.shape.x, step):
        out = Box(y0, x0, y1, min(x0 + step, plan.shape.x))
        box = Box(*(edge * factor for edge in out)).clipped(source)
        moved()
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


def average_tiles(
    tiles: Tiles, factor: int, o_corner: YX, rgb: RGB, damage: NDArray[np.uint8], *, keep: bool = False
) -> None:
    """Fill a part of the overview.

    Parameters
    ----------
    tiles, factor
        The tiles, and how many of their pixels make one of the overview's, along each side.
    o_corner
        Overview row and column at which the part begins; a tile's corner.
    rgb, damage
        uint8 (rows, columns, 3) and uint8 (rows, columns), written in place.
    keep
        Whether the tiles' pixels will be read again at once: they stay in the slide's cache.
    """
    rows, columns = (side // factor for side in tiles.cut.tile)
    average = _averager(tiles, factor, tiles.decode_and_keep if keep else tiles.decode)
    first = YX(o_corner.y // rows, o_corner.x // columns)
    for row in range(ceil_div(rgb.shape[0], rows)):
        for column in range(ceil_div(rgb.shape[1], columns)):
            moved()
            place = np.s_[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            view = rgb[place]
            try:
                small = average(first.y + row, first.x + column)
                view[:] = 255 if small is None else small[: view.shape[0], : view.shape[1]]
            except Exception as error:  # codecs raise nearly anything on damaged bytes; the damage tells the caller
                if not says_damage(error):
                    raise
                view[:] = DAMAGED_RGB
                damage[place] = 1


def _averager(tiles: Tiles, factor: int, decode: Callable[[int], RGB | None]) -> Callable[[int, int], RGB | None]:
    """Return a function from a tile's row and column to its average, None where there is nothing."""
    stored, tile, across = tiles.cut.stored, tiles.cut.tile, tiles.cut.grid.x
    size = (tile.x // factor, tile.y // factor)
    reduction = min(8, factor)
    by_dct = tiles.can_reduce(reduction)
    known: tuple[RGB | None, RGB | None] = (None, None)

    def average(row: int, column: int) -> RGB | None:
        nonlocal known
        height, width = min(stored.y - row * tile.y, tile.y), min(stored.x - column * tile.x, tile.x)
        inside = height == tile.y and width == tile.x
        index = row * across + column
        if by_dct and inside:
            pixels = tiles.reduced(index, reduction)
            return (
                None if pixels is None else np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
            )
        pixels = decode(index)
        if pixels is None:
            return None
        if pixels is known[0] and inside:  # equal payloads come back as the same array
            return known[1]
        visible = pixels[:height, :width]  # what a tile holds beyond the slide may be anything
        if visible.shape[:2] != (height, width):
            raise ValueError(f"expected a tile of {height} x {width} px, found {pixels.shape}")
        if not inside:
            return shrunk(visible, factor)
        known = (pixels, np.asarray(cv2.resize(visible, size, interpolation=cv2.INTER_AREA), np.uint8))
        return known[1]

    return average

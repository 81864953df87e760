"""The overview straight from a TIFF's tiles: each is averaged on its own, and equal ones only once.

Most of a single-level slide is background whose compressed tiles are the same bytes over and over; they cost one
decode. JPEG tiles are decoded at an eighth of their size in the frequency domain (libjpeg's scaled inverse DCT), which
is all that an overview needs.
"""

from collections.abc import Callable
from typing import TypeGuard

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.errors import says_damage
from wsi.readers.protocol import DAMAGED_RGB, Slide
from wsi.readers.tiff.reader import TiffReader
from wsi.tiling.reduced_jpeg import can_reduce, reduced_tile
from wsi.units import YX, ceil_div


def can_average_tiles(slide: Slide, level: int, factor: int) -> TypeGuard[TiffReader]:
    """Tell whether the tiles of a level are whole multiples of the factor, and stand upright."""
    if not isinstance(slide, TiffReader) or slide.orientation != 1 or factor == 1:
        return False
    layout = slide.stored_levels[level]
    return layout.page.is_tiled and layout.tile.y % factor == 0 and layout.tile.x % factor == 0


def average_tiles(
    slide: TiffReader, level: int, factor: int, corner: YX, rgb: RGB, damage: NDArray[np.uint8], *, keep: bool = False
) -> None:
    """Fill a part of the overview.

    Parameters
    ----------
    slide, level, factor
        The tiles, and how many of their pixels make one of the overview's, along each side.
    corner
        Overview row and column at which the part begins; a tile's corner.
    rgb, damage
        uint8 (rows, columns, 3) and uint8 (rows, columns), written in place.
    keep
        Whether the tiles' pixels will be read again at once: they stay in the slide's cache.
    """
    layout = slide.stored_levels[level]
    rows, columns = layout.tile.y // factor, layout.tile.x // factor
    average, average_edge = _averager(slide, level, factor, keep), _edge_averager(slide, level, factor, keep)
    whole = (layout.stored.y // layout.tile.y, layout.stored.x // layout.tile.x)
    first = YX(corner.y // rows, corner.x // columns)
    for row in range(ceil_div(rgb.shape[0], rows)):
        for column in range(ceil_div(rgb.shape[1], columns)):
            place = np.s_[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            view, tile = rgb[place], YX(first.y + row, first.x + column)
            inside = tile.y < whole[0] and tile.x < whole[1]
            try:
                small = (average if inside else average_edge)(tile.y * layout.grid.x + tile.x)
                view[:] = 255 if small is None else small[: view.shape[0], : view.shape[1]]
            except Exception as error:  # codecs raise nearly anything on damaged bytes; the damage tells the caller
                if not says_damage(error):
                    raise
                view[:] = DAMAGED_RGB
                damage[place] = 1


def _edge_averager(slide: TiffReader, level: int, factor: int, keep: bool) -> Callable[[int], RGB | None]:
    """Return the function for tiles that reach beyond the slide: what they hold there may be anything."""
    layout = slide.stored_levels[level]

    def average(index: int) -> RGB | None:
        pixels = slide.tile(level, index, keep=keep)
        if pixels is None:
            return None
        row, column = divmod(index, layout.grid.x)
        height, width = layout.stored.y - row * layout.tile.y, layout.stored.x - column * layout.tile.x
        visible = pixels[: min(height, layout.tile.y), : min(width, layout.tile.x)]
        if visible.shape[:2] != (min(height, layout.tile.y), min(width, layout.tile.x)):
            raise ValueError(f"expected {width} x {height} px at the edge, found {pixels.shape}")
        missing = [(0, -side % factor) for side in visible.shape[:2]]
        padded = np.pad(visible, (*missing, (0, 0)), mode="edge")
        size = (padded.shape[1] // factor, padded.shape[0] // factor)
        return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.uint8)

    return average


def _averager(slide: TiffReader, level: int, factor: int, keep: bool) -> Callable[[int], RGB | None]:
    """Return a function from a tile's index to its average, None where there is nothing."""
    layout = slide.stored_levels[level]
    size = (layout.tile.x // factor, layout.tile.y // factor)
    reduction = min(8, factor)
    if can_reduce(slide, level, reduction):

        def from_jpeg(index: int) -> RGB | None:
            pixels = reduced_tile(slide, level, index, reduction)
            return (
                None if pixels is None else np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
            )

        return from_jpeg

    known: tuple[RGB | None, RGB | None] = (None, None)

    def from_pixels(index: int) -> RGB | None:
        nonlocal known
        pixels = slide.tile(level, index, keep=keep)
        if pixels is None:
            return None
        if pixels is not known[0]:  # equal payloads come back as the same array
            whole = pixels[: layout.tile.y, : layout.tile.x]
            if whole.shape[:2] != layout.tile:
                raise ValueError(f"expected a tile of {layout.tile}, found {whole.shape}")
            known = (pixels, np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8))
        return known[1]

    return from_pixels

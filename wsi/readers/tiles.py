"""A level's own tiles, each by itself: the quick ways through a slide, the same for every reader that has them.

A reader gives `Tiles` for a level whose tiles stand upright and decode one by one; of colour JPEG they can also be had
as files, undecoded, and decoded at a part of their size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from wsi.arrays import RGB
from wsi.errors import DamagedSlideError, described, says_damage
from wsi.pixels.jpeg_file import REDUCTIONS, complete_jpeg, reduced_jpeg
from wsi.units import YX, Box, ceil_div

DAMAGED_RGB = (255, 0, 255)
"""What stands where pixels could not be decoded: no tissue and no background looks like it."""

MAX_TILE_BYTES = 1 << 29
"""A decoded tile or strip larger than this is refused: no scanner writes one, and a broken file may claim any size."""


@dataclass(frozen=True, slots=True)
class TileGrid:
    """How one level is cut into tiles."""

    stored: YX
    """Pixels of the level as stored."""
    tile: YX
    grid: YX = field(init=False)
    """Tiles down and across."""

    def __post_init__(self) -> None:
        """Count the tiles once: `place` asks for every one of them."""
        counts = YX(ceil_div(self.stored.y, self.tile.y), ceil_div(self.stored.x, self.tile.x))
        object.__setattr__(self, "grid", counts)

    def place(self, index: int) -> Box:
        """Return where a tile lies; at the edges it may reach beyond the level."""
        row, column = divmod(index, self.grid.x)
        y0, x0 = row * self.tile.y, column * self.tile.x
        return Box(y0, x0, y0 + self.tile.y, x0 + self.tile.x)

    def under(self, box: Box) -> Iterator[int]:
        """Give the tiles that a box inside the level touches."""
        if box.shape.y > 0 and box.shape.x > 0:
            for row in range(box.y0 // self.tile.y, (box.y1 - 1) // self.tile.y + 1):
                for column in range(box.x0 // self.tile.x, (box.x1 - 1) // self.tile.x + 1):
                    yield row * self.grid.x + column


@dataclass(frozen=True, slots=True)
class JpegForm:
    """How a level's JPEG tiles become files."""

    tables: bytes | None
    """That all of them share; None where each carries its own."""
    tag: str
    """``RGB`` or ``YCBCR``, what the slide says of their colours."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """One level's tiles."""

    name: str
    """The slide's, for messages."""
    level: int
    cut: TileGrid
    decode: Callable[[int], RGB | None]
    """Gives a tile's pixels, uint8 (rows, columns, 3), None where neither it nor a finer level holds anything; equal
    small payloads give the same array. Raises anything on damage."""
    decode_and_keep: Callable[[int], RGB | None]
    """The same; the pixels stay in the slide's cache for a `read` that follows."""
    payload: Callable[[int], bytes]
    """Gives a tile's compressed bytes, empty where it was never written. `EOFError` where the file ends before it."""
    coloured: Callable[[RGB], RGB]
    """Takes decoded pixels to the colours that are asked for."""
    jpeg: JpegForm | None
    """Set where the tiles are colour JPEG, for `file` and `reduced`."""

    def divides(self, factor: float) -> bool:
        """Tell whether a tile's sides are whole multiples of a factor."""
        return not (self.cut.tile.y % factor or self.cut.tile.x % factor)

    def can_reduce(self, reduction: float) -> bool:
        """Tell whether the tiles can be decoded that many times smaller."""
        return self.jpeg is not None and reduction in REDUCTIONS and self.divides(reduction)

    def file(self, index: int) -> bytes:
        """Return a tile of colour JPEG as a complete file, undecoded; empty where it was never written.

        Raises
        ------
        EOFError, ValueError
            The bytes are missing, or are not a whole JPEG of the tile's size.
        """
        assert self.jpeg is not None
        payload = self.payload(index)
        return complete_jpeg(payload, self.jpeg.tables, self.jpeg.tag, self.cut.tile) if payload else b""

    def reduced(self, index: int, reduction: int) -> RGB | None:
        """Decode a tile of colour JPEG at a part of its size; None where there is nothing.

        Of a tile that the slide does not hold, and that reaches beyond it, only the part on the slide is given.
        """
        if file := self.file(index):
            return self.coloured(reduced_jpeg(file, reduction))
        pixels = self.decode(index)
        return None if pixels is None else shrunk(pixels, reduction)

    def read_reduced(self, box: Box, reduction: int, damaged: list[Box] | None) -> RGB:
        """Return the pixels of a box at a part of its size.

        Parameters
        ----------
        box
            Pixels of the level, whole multiples of ``reduction``; what lies beyond the level is white.
        reduction
            One for which `can_reduce` holds.
        damaged
            Where given, boxes of tiles that cannot be decoded are added to it, and painted.

        Raises
        ------
        DamagedSlideError
            A tile cannot be decoded and ``damaged`` is not given.
        """
        out = np.full((box.shape.y // reduction, box.shape.x // reduction, 3), 255, np.uint8)
        height, width = (side // reduction for side in self.cut.tile)
        for index in self.cut.under(box.clipped(self.cut.stored)):
            place = self.cut.place(index)
            y0, x0 = (place.y0 - box.y0) // reduction, (place.x0 - box.x0) // reduction
            view = out[max(y0, 0) : y0 + height, max(x0, 0) : x0 + width]
            try:
                pixels = self.reduced(index, reduction)
                if pixels is not None:
                    part = pixels[max(-y0, 0) :, max(-x0, 0) :][: view.shape[0], : view.shape[1]]
                    view[: part.shape[0], : part.shape[1]] = part
            except Exception as error:  # codecs raise nearly anything on damaged bytes
                if not says_damage(error):
                    raise
                if damaged is None:
                    raise damaged_tile(self.name, self.level, index, error) from None
                view[:] = DAMAGED_RGB
                damaged.append(place.clipped(self.cut.stored))
        return out


def shrunk(pixels: RGB, factor: int) -> RGB:
    """Average to a part of the size, rounded up; uint8 (h, w, 3). The last row and column are repeated."""
    missing = [(0, -side % factor) for side in pixels.shape[:2]]
    padded = np.pad(pixels, (*missing, (0, 0)), mode="edge")
    size = (padded.shape[1] // factor, padded.shape[0] // factor)
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.uint8)


def damaged_tile(name: str, level: int, index: int, error: Exception) -> DamagedSlideError:
    """Return the error that names a tile which cannot be decoded, and why."""
    return DamagedSlideError(
        f"{name}: tile {index} of level {level} cannot be decoded ({described(error)}): "
        "copy the file again, or give --on-damage skip"
    )

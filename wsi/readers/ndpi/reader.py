"""Hamamatsu NDPI read directly: stripes of the level's one JPEG are put together to JPEG tiles, each decoded once.

Restart intervals decode by themselves, so that those of a rectangle, numbered anew behind a head that declares its
size, are a JPEG: no stripe is decoded by a call of its own, and chroma is interpolated as in the whole.
"""

import os
import weakref
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB, Bools
from wsi.pixels.colour import jpeg_codec_spaces
from wsi.pixels.jpeg import END, check_jpeg
from wsi.readers.mosaic import Mosaic
from wsi.readers.ndpi.layout import NdpiLevel, read_layout
from wsi.readers.protocol import Level, Opening, level_downsample
from wsi.readers.scenes import refuse_scene
from wsi.readers.tiles import JpegForm, TileGrid, Tiles
from wsi.units import Box

_COLOURS = "YCBCR"
_RESTART = 0xD0


class NdpiReader(Mosaic):
    """An NDPI slide, its stripes decoded straight from the file."""

    reader = "ndpi"
    format = "hamamatsu"
    chosen_because = "NDPI whose restart intervals decode directly"

    def __init__(self, path: Path, threads: int = 1) -> None:
        layout = read_layout(path)
        super().__init__(path.name, [TileGrid(level.stored, level.tile) for level in layout.levels], threads)
        self.path = path
        self._levels = layout.levels
        first = layout.levels[0].stored
        self.levels = tuple(
            Level(level.stored, level_downsample(level.stored, first, first.x / level.stored.x), level.tile)
            for level in layout.levels
        )
        self.mpp_claims = layout.mpp_claims
        self.objective_power = layout.objective_power
        self.notes = layout.notes + ((layout.missing,) if layout.missing else ())
        self.missing = layout.missing
        self._descriptor = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._descriptor).st_size
        self._closed = weakref.finalize(self, os.close, self._descriptor)
        self._probe(range(self._grids[0].grid.y * self._grids[0].grid.x))

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """See `wsi.readers.protocol.Slide.read`."""
        return self._read_stored(level, box, damaged)

    def tiles(self, level: int) -> Tiles | None:
        """See `wsi.readers.protocol.Slide.tiles`."""
        return self._tiles_of(level, self.payload, JpegForm(None, _COLOURS))

    def _written(self, level: int) -> Bools:
        return np.ones(self._grids[level].grid, bool)

    def _position(self, level: int, index: int) -> int:
        return index

    def _decode(self, level: int, index: int) -> RGB | None:
        payload = self.payload(level, index)
        inside, wanted = jpeg_codec_spaces(check_jpeg(payload, self._levels[level].tile), _COLOURS)
        return self._coloured(imagecodecs.jpeg8_decode(payload, colorspace=inside, outcolorspace=wanted))

    def payload(self, level: int, index: int) -> bytes:
        """Return a tile as a JPEG: its stripes behind one head, their restart markers numbered anew.

        Raises
        ------
        EOFError
            The file ends before the tile does, or a stripe does not end where it is said to.
        """
        layout = self._levels[level]
        row, column = divmod(index, self._grids[level].grid.x)
        rows = np.minimum(row * layout.group.y + np.arange(layout.group.y), layout.stripes.y - 1)
        columns = np.minimum(column * layout.group.x + np.arange(layout.group.x), layout.stripes.x - 1)
        numbers = rows[:, None] * layout.stripes.x + columns
        parts = [self._row(layout, row_numbers) for row_numbers in numbers]
        return b"".join([layout.head, _renumbered(layout, numbers.ravel(), bytearray().join(parts)), END])

    def _row(self, layout: NdpiLevel, numbers: NDArray[np.int64]) -> bytes:
        """Return the stripes beside each other; where the level ends, the last of them again."""
        first, last = int(numbers[0]), int(numbers[-1])
        start, stop = int(layout.starts[first]), int(layout.starts[last + 1])
        data = self._bytes_at(self._descriptor, self._size, start, stop - start)
        again = len(numbers) - (last - first + 1)
        if last + 2 == len(layout.starts):  # the last of all has no restart marker behind it
            data += bytes((0xFF, _RESTART + last % 8))
        return data + data[int(layout.starts[last]) - start :] * again if again else data

    def close(self) -> None:
        """See `wsi.readers.protocol.Slide.close`."""
        self._closed()


def _renumbered(layout: NdpiLevel, numbers: NDArray[np.int64], data: bytearray) -> bytes:
    """Return stripes with the restart markers between them counted from 0, without the last one."""
    sizes = np.diff(layout.starts)[numbers]
    sizes[numbers + 2 == len(layout.starts)] += 2
    ends = np.cumsum(sizes)
    view = np.frombuffer(data, np.uint8)
    right = (view[ends - 2] == 0xFF) & (view[ends - 1] == _RESTART + numbers % 8)
    if not right.all() or not (layout.last_marked or numbers[-1] + 2 < len(layout.starts)):
        raise EOFError(f"stripe {int(numbers[int(np.argmin(right))])} does not end where it is said to")
    view[ends - 1] = _RESTART + np.arange(len(numbers)) % 8
    return bytes(data[:-2])


def open_with_ndpi(path: Path, opening: Opening) -> NdpiReader:
    """Open an NDPI slide, or raise `UnreadableSlideError` with the reason. It has no ICC profile."""
    refuse_scene(opening.scene)
    return NdpiReader(path, opening.threads)

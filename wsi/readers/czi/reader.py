"""Zeiss CZI slides, read directly: imagecodecs decodes subblocks, which lie on each other as in Zeiss's own library.

Levels whose subblocks form a grid are read tile by tile. Of others (the overlapping camera frames of a scan that was
not fused) each box is put together from the frames under it.
"""

import itertools
import os
import struct
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from wsi.arrays import RGB, Bools
from wsi.errors import says_damage
from wsi.machine.ordered import ordered
from wsi.readers.czi.decode import rgb
from wsi.readers.czi.frames import FRAMES
from wsi.readers.czi.layout import BGR_48, GREY_8, GREY_16, CziLayout, CziLevel, read_layout
from wsi.readers.mosaic import Mosaic
from wsi.readers.protocol import Level, MppClaim, Opening
from wsi.readers.tiles import DAMAGED_RGB, TileGrid, Tiles, damaged_tile
from wsi.units import YX, Box

_SEGMENT, _FIXED, _BEFORE_PIXELS = 32, 16, 256
"""Bytes of a segment's header, of a subblock's sizes, and of all that stands before its own metadata, at least."""
_NUMBERS = itertools.count()
_Cells = tuple[TileGrid, dict[int, int]]
"""A level's grid, and the subblock of each of its cells."""


class CziReader(Mosaic):
    """A scene of a CZI, its subblocks decoded straight from the file."""

    reader = "czi"
    format = "czi"
    chosen_because = "Zeiss CZI whose subblocks decode directly"

    def __init__(self, path: Path, threads: int = 1, scene: int | None = None) -> None:
        layout = read_layout(path, scene)
        self.path = path
        self._czi = layout.levels
        self._cells = [_cells(own) for own in layout.levels]
        self._edges = [np.array(own.places, np.int64).T for own in layout.levels]
        grids = [
            cells[0] if cells else TileGrid(own.shape, own.shape)
            for cells, own in zip(self._cells, self._czi, strict=True)
        ]
        super().__init__(path.name, grids, threads)
        self.levels = tuple(
            Level(own.shape, float(own.factor), cells[0].tile if cells else None)
            for own, cells in zip(self._czi, self._cells, strict=True)
        )
        facts = layout.facts
        self._bits = facts.bits if layout.pixel_type in {GREY_16, BGR_48} and facts.bits in range(9, 16) else None
        self.mpp_claims = (MppClaim(facts.mpp_yx, "CZI Scaling"),) if facts.mpp_yx else ()
        self.objective_power = facts.objective_power
        self.scenes, self.scene = layout.scenes, layout.scene
        self._number = next(_NUMBERS)
        self._descriptor = os.open(path, os.O_RDONLY)
        self._closed = weakref.finalize(self, _close, self._descriptor, self._number)
        self._size = os.fstat(self._descriptor).st_size
        self.missing = self._find_missing()
        self.notes = layout.notes + ((self.missing,) if self.missing else ()) + self._hole_notes()
        self.notes += _sample_notes(layout, self._bits)
        self._probe(range(len(self._czi[0].blocks)), partial(self._frame, 0), "subblocks")

    def _find_missing(self) -> str:
        for number, level in enumerate(self._czi):
            past = sum(block.position + _SEGMENT + _BEFORE_PIXELS > self._size for block in level.blocks)
            if past:
                cut = f"{past} of {len(level.blocks)} subblocks of level {number} lie past the end of the file"
                return f"{cut} ({self._size} bytes)"
        return ""

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """See `wsi.readers.protocol.Slide.read`."""
        if self._cells[level]:
            return self._read_stored(level, box, damaged)
        return self._laid(level, box, damaged)

    def _laid(self, level: int, box: Box, damaged: list[Box] | None) -> RGB:
        """Put a box together from the frames under it, the last on top."""
        out = np.full((*box.shape, 3), 255, np.uint8)
        inside = box.clipped(self._czi[level].shape)
        places = self._czi[level].places
        for number, pixels in self._decoded(level, self._under_box(level, inside)):
            part = _overlap(places[number], inside)
            view = out[part.y0 - box.y0 : part.y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0]
            if isinstance(pixels, Exception):
                if damaged is None:
                    raise damaged_tile(self._name, level, number, pixels) from None
                view[:] = DAMAGED_RGB
                damaged.append(part)
                continue
            y, x = part.y0 - places[number].y0, part.x0 - places[number].x0
            view[:] = pixels[y : y + view.shape[0], x : x + view.shape[1]]
        return out

    def _under_box(self, level: int, inside: Box) -> list[int]:
        """Return the frames that a box inside the level touches, in the order in which they are laid."""
        y0, x0, y1, x1 = self._edges[level]
        touched = (y0 < inside.y1) & (y1 > inside.y0) & (x0 < inside.x1) & (x1 > inside.x0)
        return [int(number) for number in np.flatnonzero(touched)] if min(inside.shape) > 0 else []

    def _decoded(self, level: int, numbers: Sequence[int]) -> Iterator[tuple[int, RGB | Exception]]:
        """Give frames in order, decoded side by side; in place of a damaged one, its error."""

        def one(number: int) -> tuple[int, RGB | Exception]:
            try:
                return number, self._frame(level, number)
            except Exception as error:  # codecs raise nearly anything on damaged bytes
                if not says_damage(error):
                    raise
                return number, error

        threads = min(self._threads, len(numbers))
        return ordered(one, numbers, threads) if threads > 1 else map(one, numbers)

    def _frame(self, level: int, number: int) -> RGB:
        """Return one subblock's pixels, uint8 (rows, columns, 3); raises anything on damage."""
        key = (self._number, level, number)
        pixels = FRAMES.get(key)
        if pixels is None:
            block = self._czi[level].blocks[number]
            pixels = rgb(self._bytes(level, number), block, self._bits)
            FRAMES.put(key, pixels)
        return pixels

    def _bytes(self, level: int, number: int) -> bytes:
        """Return a subblock's compressed bytes; `EOFError` where the file ends before them."""
        position = self._czi[level].blocks[number].position
        head = self._bytes_at(self._descriptor, self._size, position, _SEGMENT + _BEFORE_PIXELS)
        if head[:16].rstrip(b"\0") != b"ZISRAWSUBBLOCK":
            raise ValueError("no subblock lies where the directory says")
        metadata, _, count = struct.unpack_from("<iiq", head, _SEGMENT)
        (n_dimensions,) = struct.unpack_from("<i", head, _SEGMENT + _FIXED + 28)
        before = max(_BEFORE_PIXELS, _FIXED + 32 + 20 * n_dimensions)
        if min(metadata, count, n_dimensions) < 0:
            raise ValueError("a subblock of negative size")
        return self._bytes_at(self._descriptor, self._size, position + _SEGMENT + before + metadata, count)

    def _written(self, level: int) -> Bools:
        grid, cells = self._grids[level].grid, self._cells[level]
        if level or not cells:  # of coarser levels only those that hold everything are used
            return np.ones(grid, bool)
        there = np.zeros(grid, bool)
        there.flat[list(cells[1])] = True
        return there

    def _position(self, level: int, index: int) -> int:
        cells = self._cells[level]
        number = cells[1].get(index) if cells else None
        return self._czi[level].blocks[number].position if number is not None else 0

    def tiles(self, level: int) -> Tiles | None:
        """See `wsi.readers.protocol.Slide.tiles`; frames that overlap are no tiles."""
        return self._tiles_of(level, self._payload, None) if self._cells[level] else None

    def _payload(self, level: int, index: int) -> bytes:
        cells = self._cells[level]
        number = cells[1].get(index) if cells else None
        return b"" if number is None else self._bytes(level, number)

    def _decode(self, level: int, index: int) -> RGB | None:
        cells = self._cells[level]
        number = cells[1].get(index) if cells else None
        if number is not None:
            return self._frame(level, number)
        return np.full((*self._grids[level].tile, 3), 255, np.uint8) if level else None

    def close(self) -> None:
        """See `wsi.readers.protocol.Slide.close`."""
        self._closed()


def open_with_czi(path: Path, opening: Opening) -> CziReader:
    """Open a CZI, or raise `UnreadableSlideError` with the reason."""
    return CziReader(path, opening.threads, opening.scene)


def _close(descriptor: int, number: int) -> None:
    FRAMES.drop(number)
    os.close(descriptor)


def _sample_notes(layout: CziLayout, bits: int | None) -> tuple[str, ...]:
    notes = []
    if layout.pixel_type in {GREY_16, BGR_48}:
        notes.append(f"{bits or 16}-bit samples scaled to 8 bits: round(value * 255 / {2 ** (bits or 16) - 1})")
    if layout.pixel_type in {GREY_8, GREY_16}:
        notes.append("grey converted to RGB")
    return tuple(notes)


def _cells(level: CziLevel) -> _Cells | None:
    """Return the grid that a level's subblocks form; None where they overlap, or lie anywhere."""
    tile = YX(*(max(block.stored[axis] for block in level.blocks) for axis in (0, 1)))
    if not level.exact:
        return None
    grid = TileGrid(level.shape, tile)
    cells: dict[int, int] = {}
    for number, place in enumerate(level.places):
        row, column = place.y0 // tile.y, place.x0 // tile.x
        index = row * grid.grid.x + column
        inside = 0 <= row < grid.grid.y and 0 <= column < grid.grid.x
        if not inside or place.y0 % tile.y or place.x0 % tile.x or index in cells:
            return None
        visible = grid.place(index).clipped(level.shape)
        if place.shape.y < visible.shape.y or place.shape.x < visible.shape.x:
            return None
        cells[index] = number
    return grid, cells


def _overlap(place: Box, inside: Box) -> Box:
    return Box(*map(max, place[:2], inside[:2]), *map(min, place[2:], inside[2:]))

"""A box of pixels put together from the file's own tiles: each decoded once, in file order, on several threads.

Every reader that decodes tiles itself (TIFF, DICOM, OME-Zarr) stands on this; it knows no file format.
"""

import os
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property, partial
from threading import Lock
from typing import Any

import cv2
import numpy as np

from wsi.arrays import RGB, Bools
from wsi.errors import UnreadableSlideError, described, says_damage
from wsi.pages import agreeing, plural
from wsi.pixels.icc import checked_profile, to_srgb
from wsi.pixels.resample import area_average, source_box
from wsi.readers.protocol import Slide
from wsi.readers.tiles import DAMAGED_RGB, JpegForm, TileGrid, Tiles, damaged_tile
from wsi.units import YX, Box

CACHE_BYTES = 16 << 20
"""Decoded tiles kept, so that boxes that cut through a tile decode it once."""

_FILL_PIXELS = 4 << 20
"""Pixels of a finer level read at once, to fill what a coarser one lacks."""


class Mosaic(Slide):
    """Boxes out of tiles; a reader says where a tile lies and how it is decoded.

    A base class and no part of the reader: a part would hold the reader as the reader holds it, and dropped slides
    would keep their file and 64 MiB of tiles until the garbage collector came round.

    Parameters
    ----------
    name
        The file's name, for messages.
    grids
        One per level.
    threads
        Tiles of one box decoded at once; codecs release the interpreter's lock.
    """

    _colours: Callable[[RGB], RGB] | None = None
    """From the slide's colours to sRGB, where that is asked for."""

    def __init__(self, name: str, grids: Sequence[TileGrid], threads: int) -> None:
        self._name = name
        self._grids = tuple(grids)
        self._threads = threads
        self._cache: OrderedDict[tuple[int, int], RGB] = OrderedDict()
        self._cached_bytes = 0
        self._shared: set[int] = set()
        """Identities of arrays that a reader keeps by itself, so that they need no place in the cache."""
        self._lock = Lock()

    @abstractmethod
    def _decode(self, level: int, index: int) -> RGB | None:
        """Return one tile, uint8 (rows, columns, 3), None where it was never written; raise anything on damage.

        Called from several threads.
        """

    def _profiled(self, profile: Any, *, srgb: bool) -> None:
        """Take the file's ICC profile; called before a tile is decoded."""
        self.icc = checked_profile(profile)
        if srgb and self.icc:
            self._colours = to_srgb(self.icc)

    def _tiles_of(self, level: int, payload: Callable[[int, int], bytes], jpeg: JpegForm | None) -> Tiles:
        """Give a level's tiles one by one; ``payload`` as in `Tiles`, of a level and an index."""

        def decode(index: int) -> RGB | None:
            pixels = self._decode(level, index)
            return self._filled(level, index) if pixels is None else pixels

        keep, compressed = partial(self._tile, level), partial(payload, level)
        return Tiles(self._name, level, self._grids[level], decode, keep, compressed, self._coloured, jpeg)

    def _bytes_at(self, descriptor: int, size: int, offset: int, count: int) -> bytes:
        """Read bytes of a file of that size, and count the time; `EOFError` where it ends before them.

        Positioned reads share nothing, so that a handle is safe across threads and forks.
        """
        there = min(count, max(0, size - offset))  # a broken file may declare any length
        start = time.perf_counter()
        data = os.pread(descriptor, there, offset) if there else b""
        self.seconds_reading += time.perf_counter() - start
        if len(data) != count:
            raise EOFError(f"expected {count} bytes at {offset}, found {len(data)}")
        return data

    def _coloured(self, pixels: RGB) -> RGB:
        """Return decoded pixels, uint8 (h, w, 3), in the colours that are asked for."""
        return self._colours(pixels) if self._colours else pixels

    @abstractmethod
    def _written(self, level: int) -> Bools:
        """Return which tiles of a level the file holds, bool (rows, columns)."""

    @cached_property
    def _there(self) -> list[Bools]:
        """For each level the tiles that have pixels: in the file, or at their place in a finer level."""
        there = [self._written(0)]
        for level in range(1, len(self._grids)):
            written = self._written(level)
            there.append(written if written.all() else written | self._under(level, there[-1]))
        return there

    def _under(self, level: int, finer: Bools) -> Bools:
        """Return the tiles of a level over any tile of the next finer one that has pixels."""
        grid, below = self._grids[level], self._grids[level - 1]
        ratio = self.levels[level].downsample / self.levels[level - 1].downsample
        edges = []
        for count, side, finer_side, finer_count in zip(grid.grid, grid.tile, below.tile, below.grid, strict=True):
            starts = np.arange(count) * side * ratio / finer_side
            stops = np.minimum(np.ceil(starts + side * ratio / finer_side - 1e-9), finer_count).astype(int)
            edges.append((np.minimum(np.floor(starts + 1e-9).astype(int), finer_count), stops))
        table = cv2.integral(finer.astype(np.uint8))
        (y0, y1), (x0, x1) = edges
        total = table[np.ix_(y1, x1)] - table[np.ix_(y0, x1)] - table[np.ix_(y1, x0)] + table[np.ix_(y0, x0)]
        found: Bools = total > 0
        return found

    def _hole_notes(self) -> tuple[str, ...]:
        """Say which tiles the file does not hold, and what stands in their place."""
        notes = []
        for level, there in enumerate(self._there):
            written = self._written(level)
            filled, absent = int((there & ~written).sum()), int((~there).sum())
            if filled:
                notes.append(
                    f"{plural(filled, 'tile', f'of level {level}', 'are')} not in the file: taken from the finer level"
                )
            if absent and not level:
                notes.append(
                    f"{absent} of {plural(there.size, 'tile')} {agreeing(absent, 'are')} not in the file: background"
                )
        return tuple(notes)

    def _filled(self, level: int, index: int) -> RGB | None:
        """Return what a tile that the file does not hold shows in the next finer level, None where that is empty.

        Raises
        ------
        DamagedSlideError
            Pixels of the finer level cannot be decoded.
        """
        if not level or not self._there[level].flat[index]:
            return None
        grid = self._grids[level]
        ratio = self.levels[level].downsample / self.levels[level - 1].downsample
        out = _overlap(grid.place(index), Box(0, 0, *grid.stored))
        rows = max(1, int(_FILL_PIXELS / (out.shape.x * ratio**2)))
        bands = (Box(y, out.x0, min(y + rows, out.y1), out.x1) for y in range(out.y0, out.y1, rows))
        parts = []
        for band in bands:
            box = source_box(band, ratio)
            pixels = np.ascontiguousarray(self._read_stored(level - 1, box, None))
            inside = box.clipped(self._grids[level - 1].stored)  # a level may be rounded up beyond the finer one
            pixels[max(0, inside.y1 - box.y0) :] = pixels[max(0, inside.y1 - box.y0 - 1)]
            pixels[:, max(0, inside.x1 - box.x0) :] = pixels[:, max(0, inside.x1 - box.x0 - 1)][:, None]
            parts.append(area_average(pixels, YX(box.y0, box.x0), band, ratio))
        return np.concatenate(parts)

    @abstractmethod
    def _position(self, level: int, index: int) -> int:
        """Return where a tile lies in the file: tiles are decoded in this order."""

    def _probe(
        self, written: Sequence[int], decode: Callable[[int], object] | None = None, what: str = "tiles"
    ) -> None:
        """Refuse a slide none of whose middle, first and last tiles of level 0 decode: good metadata, no pixels.

        Parameters
        ----------
        written
            Indices of the tiles that are there.
        decode
            Decodes what has such an index; otherwise the tile of level 0.
        what
            What these are, for messages.
        """
        decode, errors = decode or partial(self._tile, 0), []
        for index in dict.fromkeys((written[len(written) // 2], written[0], written[-1])) if written else ():
            try:
                decode(index)
            except Exception as error:  # codecs raise nearly anything on damaged bytes
                if not says_damage(error):
                    raise
                errors.append(described(error))
            else:
                return
        raise UnreadableSlideError(
            f"opens, but its {what} cannot be decoded: {errors[0]}" if errors else f"not one of its {what} was written"
        )

    def _read_stored(self, level: int, box: Box, damaged: list[Box] | None) -> RGB:
        """Return the pixels of a box in the stored frame; see `wsi.slide.Slide.read`."""
        grid = self._grids[level]
        out = np.full((*box.shape, 3), 255, np.uint8)
        inside = box.clipped(grid.stored)
        indices = sorted(grid.under(inside), key=lambda index: self._position(level, index))

        def copy(index: int) -> tuple[int, Box, Exception] | None:
            place = grid.place(index)
            part = _overlap(place, inside)
            view = out[part.y0 - box.y0 : part.y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0]
            try:
                pixels = self._tile(level, index)
                if pixels is not None:  # else the scanner saw nothing there
                    view[:] = pixels[part.y0 - place.y0 : part.y1 - place.y0, part.x0 - place.x0 : part.x1 - place.x0]
            except Exception as error:  # codecs raise nearly anything on damaged bytes
                if not says_damage(error):
                    raise
                view[:] = DAMAGED_RGB
                return index, part, error
            return None

        with ExitStack() as opened:
            each: Any = map
            if self._threads > 1 and len(indices) > 1:
                # A pool of its own for each box: nothing to carry over a fork, and far cheaper than the decoding.
                each = opened.enter_context(ThreadPoolExecutor(min(self._threads, len(indices)))).map
            failures = filter(None, each(copy, indices))
            if damaged is not None:
                damaged.extend(sorted(part for _, part, _ in failures))
            elif failure := next(failures, None):
                raise damaged_tile(self._name, level, failure[0], failure[2]) from None
        return out

    def _tile(self, level: int, index: int) -> RGB | None:
        """Return one decoded tile, uint8 (rows, columns, 3), None where neither it nor a finer level holds anything.

        Raises
        ------
        Exception
            Whatever the codec raises on damage; `ValueError` where the tile is smaller than its visible part.
        """
        key = (level, index)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        pixels = self._decode(level, index)
        if pixels is None:
            pixels = self._filled(level, index)
        if pixels is None:
            return None
        grid = self._grids[level]
        if pixels.shape[:2] != grid.tile:
            visible = _overlap(grid.place(index), Box(0, 0, *grid.stored)).shape
            if pixels.shape[0] < visible.y or pixels.shape[1] < visible.x:
                raise ValueError(f"expected a tile of {tuple(visible)} px, found {pixels.shape[:2]}")
        if id(pixels) not in self._shared:
            self._remember(key, pixels)
        return pixels

    def _remember(self, key: tuple[int, int], pixels: RGB) -> None:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = pixels
                self._cached_bytes += pixels.nbytes
            while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes


def _overlap(place: Box, inside: Box) -> Box:
    return Box(*map(max, place[:2], inside[:2]), *map(min, place[2:], inside[2:]))

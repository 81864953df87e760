"""A box of pixels put together from the file's own tiles: each decoded once, in file order, on several threads.

Every reader that decodes tiles itself (TIFF, DICOM, OME-Zarr) stands on this; it knows no file format.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.errors import DamagedSlideError, UnreadableSlideError, says_damage
from wsi.pixels.icc import checked_profile, to_srgb
from wsi.pixels.resample import area_average, source_box
from wsi.readers.protocol import DAMAGED_RGB, Level, Scene
from wsi.units import YX, Box, ceil_div

CACHE_BYTES = 16 << 20
"""Decoded tiles kept, so that boxes that cut through a tile decode it once."""

_FILL_PIXELS = 4 << 20
"""Pixels of a finer level read at once, to fill what a coarser one lacks."""


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


class Mosaic(ABC):
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

    levels: tuple[Level, ...]
    """See `wsi.slide.Slide`."""
    scenes: tuple[Scene, ...] = ()
    scene = 0
    icc = b""
    _colours: Callable[[RGB], RGB] | None = None
    """From the slide's colours to sRGB, where that is asked for."""

    def __init__(self, name: str, grids: Sequence[TileGrid], threads: int) -> None:
        self._name = name
        self._grids = tuple(grids)
        self._threads = threads
        self._cache: OrderedDict[tuple[int, int], RGB] = OrderedDict()
        self._cached_bytes = 0
        self._lock = Lock()

    def grid(self, level: int) -> TileGrid:
        """Return how a level is cut into tiles, as stored."""
        return self._grids[level]

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

    def coloured(self, pixels: RGB) -> RGB:
        """Return decoded pixels, uint8 (h, w, 3), in the colours that are asked for."""
        return self._colours(pixels) if self._colours else pixels

    def _is_known(self, pixels: RGB) -> bool:
        """Tell whether a reader keeps these pixels by itself, so that they need no place in the cache."""
        return False

    def _written(self, level: int) -> NDArray[np.bool_]:
        """Return which tiles of a level the file holds, bool (rows, columns)."""
        return np.ones(self._grids[level].grid, bool)

    @cached_property
    def _there(self) -> list[NDArray[np.bool_]]:
        """For each level the tiles that have pixels: in the file, or at their place in a finer level."""
        there = [self._written(0)]
        for level in range(1, len(self._grids)):
            written = self._written(level)
            there.append(written if written.all() else written | self._under(level, there[-1]))
        return there

    def _under(self, level: int, finer: NDArray[np.bool_]) -> NDArray[np.bool_]:
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
        found: NDArray[np.bool_] = total > 0
        return found

    def _hole_notes(self) -> tuple[str, ...]:
        """Say which tiles the file does not hold, and what stands in their place."""
        notes = []
        for level, there in enumerate(self._there):
            written = self._written(level)
            filled, absent = int((there & ~written).sum()), int((~there).sum())
            if filled:
                notes.append(f"{filled} tiles of level {level} are not in the file: taken from the finer level")
            if absent and not level:
                notes.append(f"{absent} of {there.size} tiles are not in the file: background")
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

    def _probe(self, written: Sequence[int]) -> None:
        """Refuse a slide none of whose middle, first and last tiles of level 0 decode: good metadata, no pixels.

        Parameters
        ----------
        written
            Indices of the tiles that are there.
        """
        errors = []
        for index in dict.fromkeys((written[len(written) // 2], written[0], written[-1])) if written else ():
            try:
                self._tile(0, index)
            except Exception as error:  # codecs raise nearly anything on damaged bytes
                if not says_damage(error):
                    raise
                errors.append(one_line(error))
            else:
                return
        raise UnreadableSlideError(
            f"opens, but its tiles cannot be decoded: {errors[0]}" if errors else "not one of its tiles was written"
        )

    def _read_stored(self, level: int, box: Box, damaged: list[Box] | None) -> RGB:
        """Return the pixels of a box in the stored frame; see `wsi.slide.Slide.read`."""
        grid = self._grids[level]
        out = np.full((*box.shape, 3), 255, np.uint8)
        inside = box.clipped(grid.stored)
        indices = sorted(grid.under(inside), key=lambda index: self._position(level, index))

        def copy(index: int) -> tuple[int, Box, Exception] | None:
            part = _overlap(grid.place(index), inside)
            view = out[part.y0 - box.y0 : part.y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0]
            try:
                self._copy_tile(view, level, index, part)
            except Exception as error:  # codecs raise nearly anything on damaged bytes
                if not says_damage(error):
                    raise
                view[:] = DAMAGED_RGB
                return index, part, error
            return None

        if self._threads > 1 and len(indices) > 1:
            # A pool of its own for each box: nothing to carry over a fork, and far cheaper than the decoding.
            with ThreadPoolExecutor(min(self._threads, len(indices))) as pool:
                failures = [failure for failure in pool.map(copy, indices) if failure]
        else:
            failures = self._copy_in_turn(copy, indices, stop_at_first=damaged is None)
        if failures:
            self._report(level, failures, damaged)
        return out

    @staticmethod
    def _copy_in_turn(
        copy: Callable[[int], tuple[int, Box, Exception] | None], indices: list[int], *, stop_at_first: bool
    ) -> list[tuple[int, Box, Exception]]:
        failures = []
        for index in indices:
            failure = copy(index)
            if failure:
                failures.append(failure)
                if stop_at_first:
                    break
        return failures

    def _report(self, level: int, failures: list[tuple[int, Box, Exception]], damaged: list[Box] | None) -> None:
        index, _, error = failures[0]
        if damaged is None:
            raise DamagedSlideError(
                f"{self._name}: tile {index} of level {level} cannot be decoded ({one_line(error)}): "
                "copy the file again, or give --on-damage skip"
            ) from None
        damaged.extend(sorted(part for _, part, _ in failures))

    def _copy_tile(self, out: RGB, level: int, index: int, part: Box) -> None:
        pixels = self._tile(level, index)
        if pixels is None:  # the scanner saw nothing there
            return
        grid = self._grids[level]
        y0, x0 = index // grid.grid.x * grid.tile.y, index % grid.grid.x * grid.tile.x
        out[:] = pixels[part.y0 - y0 : part.y1 - y0, part.x0 - x0 : part.x1 - x0]

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
        if not self._is_known(pixels):
            self._remember(key, pixels)
        return pixels

    def _remember(self, key: tuple[int, int], pixels: RGB) -> None:
        with self._lock:
            if key not in self._cache:
                self._cache[key] = pixels
                self._cached_bytes += pixels.nbytes
            while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes


def one_line(error: BaseException) -> str:
    """Return a codec's error as one line of at most 200 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _overlap(place: Box, inside: Box) -> Box:
    return Box(*map(max, place[:2], inside[:2]), *map(min, place[2:], inside[2:]))

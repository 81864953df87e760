"""MIRAX: the JPEG images of levels on which they lie at whole pixels are decoded directly, the rest by OpenSlide.

OpenSlide moves images that lie between pixels by interpolation. Level 0 has none, coarser levels have in slides of
which the camera's positions are told. All facts are OpenSlide's.
"""

import itertools
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import imagecodecs
import numpy as np

from wsi.arrays import RGB
from wsi.errors import says_damage
from wsi.machine.ordered import ordered
from wsi.pixels.colour import jpeg_codec_spaces
from wsi.pixels.jpeg import check_jpeg
from wsi.readers.czi.frames import Frames
from wsi.readers.mirax.layout import MiraxLevel, read_layout
from wsi.readers.openslide_reader import OpenSlideReader
from wsi.readers.protocol import Opening, Slide
from wsi.readers.scenes import refuse_scene
from wsi.readers.tiles import DAMAGED_RGB, damaged_tile
from wsi.units import Box

_NUMBERS = itertools.count()
_KEPT = Frames(64 << 20)
"""Decoded images of all slides of this process: rows of tiles cut through them."""


class MiraxReader(Slide):
    """A MIRAX slide, its images decoded straight from the data files wherever that gives OpenSlide's pixels."""

    reader = "mirax"

    def __init__(self, path: Path, threads: int = 1, *, srgb: bool = False) -> None:
        layout = read_layout(path)
        self.path = path
        self._files, self._direct = layout.files, layout.levels
        self._openslide = OpenSlideReader(path, srgb=srgb)
        self._threads = threads
        self._number = next(_NUMBERS)
        self._closed = weakref.finalize(self, _drop, self._number)
        self.format, self.levels = self._openslide.format, self._openslide.levels
        direct = [str(number) for number, level in enumerate(layout.levels) if level]
        self.chosen_because = f"MIRAX whose images decode directly on level {', '.join(direct)}"
        self.mpp_claims, self.objective_power = self._openslide.mpp_claims, self._openslide.objective_power
        self.icc = self._openslide.icc
        lost = [file.name for file in self._files if not file.is_file()]
        self.missing = f"{len(lost)} of {len(self._files)} data files are missing, {lost[0]} first" if lost else ""
        self.notes = self._openslide.notes + ((self.missing,) if lost else ())

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """See `wsi.readers.protocol.Slide.read`."""
        own = self._direct[level]
        return self._openslide.read(level, box, damaged) if own is None else self._laid(level, own, box, damaged)

    def _laid(self, level: int, own: MiraxLevel, box: Box, damaged: list[Box] | None) -> RGB:
        """Put a box together from the images under it, the last on top."""
        out = np.full((*box.shape, 3), 255, np.uint8)
        inside = box.clipped(self.levels[level].shape)
        if min(inside.shape) <= 0:
            return out
        on_slide = out[inside.y0 - box.y0 : inside.y1 - box.y0, inside.x0 - box.x0 : inside.x1 - box.x0]
        on_slide[:] = np.tile(
            self._empty(), (1, inside.shape.x, 1)
        )  # by rows: pixel by pixel takes NumPy ten times as long
        for number, pixels in self._decoded(level, own, _under(own, inside)):
            y0, x0 = own.corners[number].tolist()
            part = _overlap(Box(y0, x0, y0 + own.image.y, x0 + own.image.x), inside)
            view = out[part.y0 - box.y0 : part.y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0]
            if isinstance(pixels, Exception):
                if damaged is None:
                    raise damaged_tile(self.path.name, level, number, pixels) from None
                view[:] = DAMAGED_RGB
                damaged.append(part)
                continue
            view[:] = pixels[part.y0 - y0 : part.y1 - y0, part.x0 - x0 : part.x1 - x0]
        return out

    def _empty(self) -> RGB:
        """Return the colour of where no image lies, uint8 (1, 1, 3)."""
        return self._openslide.coloured(self._openslide.background[None, None].astype(np.uint8))

    def _decoded(self, level: int, own: MiraxLevel, numbers: Sequence[int]) -> Iterator[tuple[int, RGB | Exception]]:
        """Give images in order, decoded side by side; in place of a damaged one, its error."""

        def one(number: int) -> tuple[int, RGB | Exception]:
            try:
                return number, self._image(level, own, number)
            except Exception as error:  # codecs raise nearly anything on damaged bytes
                if not says_damage(error):
                    raise
                return number, error

        threads = min(self._threads, len(numbers))
        return ordered(one, numbers, threads) if threads > 1 else map(one, numbers)

    def _image(self, level: int, own: MiraxLevel, number: int) -> RGB:
        """Return one image, uint8 (rows, columns, 3); raises anything on damage."""
        key = (self._number, level, number)
        pixels = _KEPT.get(key)
        if pixels is None:
            payload = self._bytes(*own.places[number].tolist())
            header = check_jpeg(payload, own.image)
            if header.size != own.image or len(header.ids) != 3:
                raise ValueError(f"expected a colour JPEG of {own.image.x} x {own.image.y} px, found {header.size}")
            inside, wanted = jpeg_codec_spaces(header, "YCBCR")
            decoded = imagecodecs.jpeg8_decode(payload, colorspace=inside, outcolorspace=wanted)
            pixels = self._openslide.coloured(decoded)
            _KEPT.put(key, pixels)
        return pixels

    def _bytes(self, number: int, offset: int, count: int) -> bytes:
        """Read an image's bytes. A slide may have hundreds of data files: none is kept open."""
        start = time.perf_counter()
        try:
            descriptor = os.open(self._files[number], os.O_RDONLY)
        except FileNotFoundError:
            raise EOFError(f"{self._files[number].name} is missing") from None
        try:
            there = min(count, max(0, os.fstat(descriptor).st_size - offset))
            data = os.pread(descriptor, there, offset)
        finally:
            os.close(descriptor)
        self.seconds_reading += time.perf_counter() - start
        if len(data) != count:
            raise EOFError(f"expected {count} bytes at {offset} of {self._files[number].name}, found {len(data)}")
        return data

    def tiles(self, level: int) -> None:
        """See `wsi.readers.protocol.Slide.tiles`; images that overlap are no tiles."""

    def close(self) -> None:
        """See `wsi.readers.protocol.Slide.close`."""
        self._closed()
        self._openslide.close()


def open_with_mirax(path: Path, opening: Opening) -> MiraxReader:
    """Open a MIRAX slide, or raise `UnreadableSlideError` with the reason."""
    refuse_scene(opening.scene)
    return MiraxReader(path, opening.threads, srgb=opening.srgb)


def _under(own: MiraxLevel, inside: Box) -> list[int]:
    """Return the images that a box touches, in the order in which they are laid."""
    y0, x0 = own.corners.T
    touched = (y0 < inside.y1) & (y0 + own.image.y > inside.y0) & (x0 < inside.x1) & (x0 + own.image.x > inside.x0)
    return [int(number) for number in np.flatnonzero(touched)]


def _overlap(place: Box, inside: Box) -> Box:
    return Box(*map(max, place[:2], inside[:2]), *map(min, place[2:], inside[2:]))


def _drop(number: int) -> None:
    _KEPT.drop(number)

"""Olympus VSI slides: the .vsi says what there is, the .ets files of the folder beside it hold the tiles.

Untried on a real slide with its pixels: none could be had. Tags are read right of a real .vsi; made files are read as
Bio-Formats reads them.
"""

import os
import weakref
from pathlib import Path

import imagecodecs
import numpy as np

from wsi.arrays import RGB, Bools
from wsi.errors import UnreadableSlideError
from wsi.pixels.colour import Samples, eight_bits, grey_to_rgb, jpeg2000_space, jpeg_codec_spaces, ycbcr_to_rgb
from wsi.pixels.jpeg import check_jpeg
from wsi.pixels.jpeg2000 import check_jpeg2000
from wsi.readers.mosaic import Mosaic
from wsi.readers.protocol import Level, MppClaim, Opening, Scene
from wsi.readers.scenes import choose_scene, is_beside, scene_notes
from wsi.readers.tiles import JpegForm, TileGrid, Tiles
from wsi.readers.vsi.ets import JPEG, JPEG_2000, MOST_TILES, Ets, read_ets
from wsi.readers.vsi.tags import Stack, read_fields, stacks
from wsi.units import YX, Box, ceil_div

_UNTRIED = "VSI reading was tested on made files only: compare the first slides with another program"


class VsiReader(Mosaic):
    """One picture of a VSI, its tiles decoded straight from its ETS file."""

    reader = "vsi"
    format = "vsi"
    chosen_because = "Olympus VSI whose tiles decode directly"

    def __init__(self, path: Path, threads: int = 1, scene: int | None = None) -> None:
        self.path = path
        pictures = _pictures(path)
        scenes = tuple(Scene(i, stack.name, stack.shape) for i, (stack, _) in pictures.items())
        chosen = choose_scene(scenes, scene)
        stack, self._ets = pictures[chosen.index]
        self.scenes, self.scene = scenes if len(scenes) > 1 else (), chosen.index
        shapes = [YX(*(ceil_div(length, 2**i) for length in stack.shape)) for i in range(len(self._ets.tiles))]
        grids = [TileGrid(shape, self._ets.tile) for shape in shapes]
        super().__init__(path.name, grids, threads)
        self.levels = tuple(Level(shape, float(2**i), self._ets.tile) for i, shape in enumerate(shapes))
        self.mpp_claims = (MppClaim(stack.mpp_yx, "VSI calibration"),) if stack.mpp_yx else ()
        self.objective_power = stack.objective_power
        self._descriptor = os.open(self._ets.path, os.O_RDONLY)
        self._closed = weakref.finalize(self, os.close, self._descriptor)
        self._size = os.fstat(self._descriptor).st_size
        self.missing = self._find_missing()
        self.notes = (_UNTRIED, *scene_notes(scenes, chosen), *((self.missing,) if self.missing else ()))
        self.notes += _sample_notes(self._ets) + self._hole_notes()
        self._probe(np.flatnonzero(self._written(0)).tolist())

    def _find_missing(self) -> str:
        for level, tiles in enumerate(self._ets.tiles):
            past = sum(offset + count > self._size for offset, count in tiles.values())
            if past:
                cut = f"{past} of {len(tiles)} tiles of level {level} lie past the end of {self._ets.path.name}"
                return f"{cut} ({self._size} bytes)"
        return ""

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """See `wsi.readers.protocol.Slide.read`."""
        return self._read_stored(level, box, damaged)

    def _written(self, level: int) -> Bools:
        there = np.zeros(self._grids[level].grid, bool)
        for row, column in self._ets.tiles[level]:
            if row < there.shape[0] and column < there.shape[1]:
                there[row, column] = True
        return there

    def _span(self, level: int, index: int) -> tuple[int, int] | None:
        return self._ets.tiles[level].get(divmod(index, self._grids[level].grid.x))

    def _position(self, level: int, index: int) -> int:
        span = self._span(level, index)
        return span[0] if span else 0

    def tiles(self, level: int) -> Tiles | None:
        """See `wsi.readers.protocol.Slide.tiles`."""
        colour_jpeg = self._ets.compression == JPEG and (self._ets.samples, self._ets.bits) == (3, 8)
        return self._tiles_of(level, self._payload, JpegForm(None, "YCBCR") if colour_jpeg else None)

    def _payload(self, level: int, index: int) -> bytes:
        span = self._span(level, index)
        return self._bytes_at(self._descriptor, self._size, *span) if span else b""

    def _decode(self, level: int, index: int) -> RGB | None:
        payload = self._payload(level, index)
        return _rgb(payload, self._ets) if payload else None

    def close(self) -> None:
        """See `wsi.readers.protocol.Slide.close`."""
        self._closed()


def open_with_vsi(path: Path, opening: Opening) -> VsiReader:
    """Open a VSI, or raise `UnreadableSlideError` with the reason."""
    return VsiReader(path, opening.threads, opening.scene)


def _pictures(path: Path) -> dict[int, tuple[Stack, Ets]]:
    """Return the slide's pictures by number, without overview, label and macro image."""
    found = stacks(read_fields(path))
    files = sorted(path.with_name(f"_{path.stem}_").glob("*/*.ets"))
    if len(files) != len(found):
        raise UnreadableSlideError(
            f"{len(files)} .ets files for {len(found)} pictures: which holds which is not known: convert the slide to "
            "OME-TIFF (Bio-Formats' bfconvert does)"
        )
    kept = {
        i: (stack, file)
        for i, (stack, file) in enumerate(zip(found, files, strict=True))
        if stack.kind == 0 and not is_beside(stack.name)
    }
    if not kept:
        raise UnreadableSlideError("holds overview, label or macro images alone")
    pictures = {}
    for i, (stack, file) in kept.items():
        ets = read_ets(file)
        wanted = YX(*(ceil_div(length, side) for length, side in zip(stack.shape, ets.tile, strict=True)))
        if ets.grid.y > wanted.y or ets.grid.x > wanted.x or wanted.y * wanted.x > MOST_TILES:
            raise UnreadableSlideError(
                f"{file.name} does not fit the {stack.shape.x} x {stack.shape.y} px that the VSI tells"
            )
        pictures[i] = stack, ets
    return pictures


def _sample_notes(ets: Ets) -> tuple[str, ...]:
    wide = (f"16-bit samples scaled to 8 bits: round(value * 255 / {2**16 - 1})",) if ets.bits == 16 else ()
    return wide + (("grey converted to RGB",) if ets.samples == 1 else ())


def _rgb(payload: bytes, ets: Ets) -> RGB:
    """Decode one tile to uint8 (rows, columns, 3); raises anything on damage."""
    pixels = _samples(payload, ets)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.shape[-1] != ets.samples or pixels.dtype.itemsize * 8 != ets.bits:
        raise ValueError(f"expected {ets.samples} samples of {ets.bits} bits, found {pixels.shape} {pixels.dtype}")
    narrow = eight_bits(pixels)
    return grey_to_rgb(narrow, inverted=False) if ets.samples == 1 else narrow


def _samples(payload: bytes, ets: Ets) -> Samples:
    if ets.compression == JPEG:
        inside, wanted = jpeg_codec_spaces(check_jpeg(payload, ets.tile), "YCBCR")
        return np.asarray(imagecodecs.jpeg8_decode(payload, colorspace=inside, outcolorspace=wanted))
    if ets.compression == JPEG_2000:
        header = check_jpeg2000(payload, ets.tile)
        pixels = np.asarray(imagecodecs.jpeg2k_decode(payload))
        is_ycbcr = ets.samples == 3 and jpeg2000_space(header, "RGB") == "YCBCR"
        return ycbcr_to_rgb(eight_bits(pixels)) if is_ycbcr else pixels
    n_bytes = ets.tile.y * ets.tile.x * ets.samples * ets.bits // 8
    if len(payload) < n_bytes:
        raise EOFError(f"expected {n_bytes} bytes, found {len(payload)}")
    dtype = np.dtype("u1" if ets.bits == 8 else "<u2")
    stored = np.frombuffer(payload, dtype, n_bytes // dtype.itemsize).reshape(*ets.tile, ets.samples)
    return stored[..., ::-1] if ets.blue_first and ets.samples == 3 else stored

"""TIFF slides read directly: tifffile parses, imagecodecs decodes, each tile once.

Takes tiled and striped TIFF and BigTIFF of every flavour whose pixels are 8- or 16-bit RGB, grey, palette or CMYK:
generic pyramids, Aperio SVS, OME-TIFF with SubIFDs, Philips TIFF. What it cannot read right it refuses.
"""

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np

from wsi.errors import DamagedSlideError, UnreadableSlideError
from wsi.readers.tiff_decode import decoder
from wsi.readers.tiff_layout import TiffLevel, read_layout
from wsi.slide import DAMAGED_RGB, RGB
from wsi.units import YX, Box

_CACHE_BYTES = 64 << 20
"""Decoded tiles kept, so that boxes that cut through a tile decode it once."""
_SMALL_PAYLOAD = 2048
"""Payloads up to this many bytes are compared: deflated background is the same tile over and over."""

_TRANSPOSE_FLIP_Y_FLIP_X = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""TIFF Orientation: how the stored picture becomes the shown one."""


class TiffReader:
    """A TIFF slide, its tiles decoded straight from the file."""

    reader = "tiff"

    def __init__(self, path: Path, *, allow_missing: bool = False) -> None:
        layout = read_layout(path)
        self.path = path
        self.format = layout.format
        self.chosen_because = f"TIFF ({layout.format}) whose tiles decode directly"
        self.levels = layout.levels
        self.mpp_claims = layout.mpp_claims
        self.objective_power = layout.objective_power
        self.notes = layout.notes + ((layout.missing,) if layout.missing else ())
        self.missing = layout.missing
        self.stored_levels = layout.stored_levels
        self._orientation = layout.orientation
        self._decoders = [decoder(level.page, level.tile) for level in layout.stored_levels]
        self._cache: OrderedDict[tuple[int, int], RGB] = OrderedDict()
        self._cached_bytes = 0
        self._by_payload: dict[tuple[int, bytes], RGB] = {}
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            self._probe()
        except UnreadableSlideError:
            self.close()
            raise

    def _probe(self) -> None:
        """Refuse a file none of whose first, middle and last tiles decode: good metadata, no pixels."""
        level = self.stored_levels[0]
        written = [i for i in range(level.grid.y * level.grid.x) if level.byte_counts[i]]
        errors = []
        for index in {written[0], written[len(written) // 2], written[-1]} if written else ():
            try:
                self._decode(0, index)
            except Exception as error:  # codecs raise nearly anything on damaged bytes
                errors.append(f"{type(error).__name__}: {error}")
            else:
                return
        if errors:
            raise UnreadableSlideError(f"opens, but its tiles cannot be decoded: {errors[0]}")

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """See `wsi.slide.Slide.read`."""
        transpose, flip_y, flip_x = _TRANSPOSE_FLIP_Y_FLIP_X[self._orientation]
        shown = self.levels[level].shape
        stored = _to_stored(box, shown, transpose=transpose, flip_y=flip_y, flip_x=flip_x)
        found: list[Box] | None = None if damaged is None else []
        pixels = self._read_stored(level, stored, found)
        if damaged is not None and found:
            damaged.extend(_to_shown(part, shown, transpose=transpose, flip_y=flip_y, flip_x=flip_x) for part in found)
        pixels = pixels.transpose(1, 0, 2) if transpose else pixels
        return pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]

    def _read_stored(self, level: int, box: Box, damaged: list[Box] | None) -> RGB:
        layout = self.stored_levels[level]
        out = np.full((*box.shape, 3), 255, np.uint8)
        inside = box.clipped(layout.stored)
        if not (inside.shape.y and inside.shape.x):
            return out
        tile = layout.tile
        for row in range(inside.y0 // tile.y, (inside.y1 - 1) // tile.y + 1):
            for column in range(inside.x0 // tile.x, (inside.x1 - 1) // tile.x + 1):
                place = Box(row * tile.y, column * tile.x, (row + 1) * tile.y, (column + 1) * tile.x)
                part = Box(*map(max, place[:2], inside[:2]), *map(min, place[2:], inside[2:]))
                view = out[part.y0 - box.y0 : part.y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0]
                self._copy_tile(view, level, row * layout.grid.x + column, part, place, damaged)
        return out

    def _copy_tile(self, out: RGB, level: int, index: int, part: Box, place: Box, damaged: list[Box] | None) -> None:
        try:
            pixels = self._tile(level, index)
            if pixels is None:  # never written: the scanner saw nothing there
                return
            cut = pixels[part.y0 - place.y0 : part.y1 - place.y0, part.x0 - place.x0 : part.x1 - place.x0]
            if cut.shape != out.shape:
                raise ValueError(f"expected a tile of {place.shape}, found {pixels.shape}")
            out[:] = cut
        except Exception as error:  # codecs raise nearly anything on damaged bytes
            if damaged is None:
                raise DamagedSlideError(
                    f"{self.path.name}: tile {index} of level {level} cannot be decoded "
                    f"({type(error).__name__}: {error}): copy the file again, or give --on-damage skip"
                ) from None
            out[:] = DAMAGED_RGB
            damaged.append(part)

    def _tile(self, level: int, index: int) -> RGB | None:
        key = (level, index)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        pixels = self._decode(level, index)
        if pixels is None:
            return None
        self._cache[key] = pixels
        self._cached_bytes += pixels.nbytes
        while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return pixels

    def _decode(self, level: int, index: int) -> RGB | None:
        layout = self.stored_levels[level]
        if layout.page.planarconfig == 2:
            return self._decode_planes(level, index)
        payload = self.payload(level, index)
        if not payload:
            return None
        if len(payload) > _SMALL_PAYLOAD:
            return self._decoders[level](payload, index)
        key = (level, payload)
        if key not in self._by_payload:
            if len(self._by_payload) >= 64:
                self._by_payload.clear()
            self._by_payload[key] = self._decoders[level](payload, index)
        return self._by_payload[key]

    def _decode_planes(self, level: int, index: int) -> RGB | None:
        layout = self.stored_levels[level]
        stride = layout.grid.y * layout.grid.x
        planes = []
        for plane in range(layout.page.samplesperpixel):
            payload = self.payload(level, index + plane * stride)
            if not payload:
                return None
            planes.append(self._decoders[level](payload, index + plane * stride)[..., 0])
        return np.stack(planes[:3] if len(planes) >= 3 else [planes[0]] * 3, axis=-1)

    def payload(self, level: int, index: int) -> bytes:
        """Return a tile's compressed bytes as they lie in the file; empty where the tile was never written."""
        layout: TiffLevel = self.stored_levels[level]
        count = layout.byte_counts[index]
        data = os.pread(self._descriptor, count, layout.offsets[index]) if count else b""
        if len(data) != count:
            raise EOFError(f"expected {count} bytes at {layout.offsets[index]}, found {len(data)}")
        return data

    def close(self) -> None:
        """See `wsi.slide.Slide.close`."""
        os.close(self._descriptor)


def open_with_tiff(path: Path) -> TiffReader:
    """Open a TIFF slide, or raise `UnreadableSlideError` with the reason."""
    return TiffReader(path)


def _to_stored(box: Box, shown: YX, *, transpose: bool, flip_y: bool, flip_x: bool) -> Box:
    y0, y1 = (shown.y - box.y1, shown.y - box.y0) if flip_y else (box.y0, box.y1)
    x0, x1 = (shown.x - box.x1, shown.x - box.x0) if flip_x else (box.x0, box.x1)
    return Box(x0, y0, x1, y1) if transpose else Box(y0, x0, y1, x1)


def _to_shown(box: Box, shown: YX, *, transpose: bool, flip_y: bool, flip_x: bool) -> Box:
    if transpose:
        box = Box(box.x0, box.y0, box.x1, box.y1)
    return _to_stored(box, shown, transpose=False, flip_y=flip_y, flip_x=flip_x)

"""TIFF slides read directly: tifffile parses, imagecodecs decodes, each tile once.

Takes tiled and striped TIFF and BigTIFF of every flavour whose pixels are 8- or 16-bit RGB, grey, palette or CMYK:
generic pyramids, Aperio SVS, OME-TIFF with SubIFDs, Philips TIFF. What it cannot read right it refuses.
"""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsi.arrays import RGB, Bools
from wsi.errors import says_damage
from wsi.pixels.jpeg_file import TRANSFORM
from wsi.readers.mosaic import Mosaic
from wsi.readers.protocol import Opening
from wsi.readers.tiff.decode import PageDecoder
from wsi.readers.tiff.layout import read_layout
from wsi.readers.tiles import JpegForm, TileGrid, Tiles
from wsi.units import YX, Box

_SMALL_PAYLOAD = 2048
"""Payloads up to this many bytes are compared: deflated background is the same tile over and over."""
_REMEMBERED_PAYLOADS = 64
_LOOKED_AT = 5
"""Tiles by which colours that nothing tells are told."""
_JPEG = 7

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


class TiffReader(Mosaic):
    """A TIFF slide, its tiles decoded straight from the file."""

    reader = "tiff"

    def __init__(self, path: Path, threads: int = 1, scene: int | None = None, *, srgb: bool = False) -> None:
        layout = read_layout(path, scene)
        super().__init__(path.name, [TileGrid(level.stored, level.tile) for level in layout.stored_levels], threads)
        self.path = path
        self._profiled(layout.icc, srgb=srgb)
        self.format = layout.format
        self.chosen_because = f"TIFF ({layout.format}) whose tiles decode directly"
        self.levels = layout.levels
        self.mpp_claims = layout.mpp_claims
        self.objective_power = layout.objective_power
        self.notes = layout.notes + ((layout.missing,) if layout.missing else ())
        self.missing = layout.missing
        self.scenes, self.scene = layout.scenes, layout.scene.index
        self.stored_levels = layout.stored_levels
        self.orientation = layout.orientation
        self._decoders = [
            PageDecoder(
                level.page,
                level.stored,
                level.tile,
                aperio=layout.format == "svs",
                significant_bits=layout.significant_bits,
            )
            for level in layout.stored_levels
        ]
        self._by_payload: dict[tuple[int, bytes], RGB] = {}
        self._descriptor = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._descriptor).st_size
        self._closed = weakref.finalize(self, os.close, self._descriptor)
        first = self.stored_levels[0]
        self.notes += self._hole_notes()
        written = [i for i in range(first.grid.y * first.grid.x) if first.byte_counts[i]]
        self._settle_colours(written)
        self._probe(written)

    def _settle_colours(self, written: Sequence[int]) -> None:
        """Look at the tiles with most in them where nothing in the file tells whether JPEG 2000 is RGB or YCbCr."""
        counts = self.stored_levels[0].byte_counts
        fullest = sorted(written, key=lambda i: -counts[i])[:_LOOKED_AT]
        votes = []
        for index in fullest:
            try:
                votes.append(self._decoders[0].looks_ycbcr(self.payload(0, index)))
            except Exception as error:  # codecs raise nearly anything on damaged bytes
                if not says_damage(error):
                    raise
        if votes.count(True) > votes.count(False):
            self.colours = "ycbcr"
            self.notes += ("JPEG 2000 tagged RGB looks like YCbCr, as libvips writes it: converted",)
            for decoder in self._decoders:
                decoder.holds_ycbcr = True

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """See `wsi.readers.protocol.Slide.read`."""
        transpose, flip_y, flip_x = _TRANSPOSE_FLIP_Y_FLIP_X[self.orientation]
        shown = self.levels[level].shape
        stored = _to_stored(box, shown, transpose=transpose, flip_y=flip_y, flip_x=flip_x)
        found: list[Box] | None = None if damaged is None else []
        pixels = self._read_stored(level, stored, found)
        if damaged is not None and found:
            damaged.extend(_to_shown(part, shown, transpose=transpose, flip_y=flip_y, flip_x=flip_x) for part in found)
        pixels = pixels.transpose(1, 0, 2) if transpose else pixels
        return pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]

    def tiles(self, level: int) -> Tiles | None:
        """See `wsi.readers.protocol.Slide.tiles`."""
        page = self.stored_levels[level].page
        if not page.is_tiled or self.orientation != 1:
            return None
        form = (page.compression, page.bitspersample, page.samplesperpixel, page.planarconfig)
        is_colour = form == (_JPEG, 8, 3, 1) and page.photometric.name in TRANSFORM
        return self._tiles_of(
            level, self.payload, JpegForm(page.jpegtables, page.photometric.name) if is_colour else None
        )

    def _written(self, level: int) -> Bools:
        layout = self.stored_levels[level]
        size = layout.grid.y * layout.grid.x
        counts = np.array(layout.byte_counts[: size * self._decoders[level].planes])
        planes = counts.reshape(-1, *layout.grid)
        return np.asarray(planes.min(axis=0) > 0, bool)

    def _position(self, level: int, index: int) -> int:
        return self.stored_levels[level].offsets[index]

    def _decode(self, level: int, index: int) -> RGB | None:
        decoder = self._decoders[level]
        if decoder.planes > 1:
            return self._decode_planes(level, index)
        payload = self.payload(level, index)
        if not payload:
            return None
        if len(payload) > _SMALL_PAYLOAD:
            return self._coloured(decoder.rgb(payload, index))
        key = (level, payload)
        known = self._by_payload.get(key)
        if known is None:
            if len(self._by_payload) >= _REMEMBERED_PAYLOADS:
                self._by_payload, self._shared = {}, set()
            known = self._coloured(decoder.rgb(payload, index))
            self._by_payload[key] = known
            self._shared.add(id(known))
        return known

    def _decode_planes(self, level: int, index: int) -> RGB | None:
        decoder, layout = self._decoders[level], self.stored_levels[level]
        stride = layout.grid.y * layout.grid.x
        indices = [index + plane * stride for plane in range(decoder.planes)]
        payloads = [self.payload(level, i) for i in indices]
        return self._coloured(decoder.rgb_of_planes(payloads, indices)) if all(payloads) else None

    def payload(self, level: int, index: int) -> bytes:
        """Return a tile's compressed bytes as they lie in the file; empty where the tile was never written.

        Raises
        ------
        EOFError
            The file ends before the tile does.
        """
        layout = self.stored_levels[level]
        return self._bytes_at(self._descriptor, self._size, layout.offsets[index], layout.byte_counts[index])

    def close(self) -> None:
        """See `wsi.readers.protocol.Slide.close`."""
        self._closed()


def open_with_tiff(path: Path, opening: Opening) -> TiffReader:
    """Open a TIFF slide, or raise `UnreadableSlideError` with the reason."""
    return TiffReader(path, opening.threads, opening.scene, srgb=opening.srgb)


def _to_stored(box: Box, shown: YX, *, transpose: bool, flip_y: bool, flip_x: bool) -> Box:
    y0, y1 = (shown.y - box.y1, shown.y - box.y0) if flip_y else (box.y0, box.y1)
    x0, x1 = (shown.x - box.x1, shown.x - box.x0) if flip_x else (box.x0, box.x1)
    return Box(x0, y0, x1, y1) if transpose else Box(y0, x0, y1, x1)


def _to_shown(box: Box, shown: YX, *, transpose: bool, flip_y: bool, flip_x: bool) -> Box:
    if transpose:
        box = Box(box.x0, box.y0, box.x1, box.y1)
    return _to_stored(box, shown, transpose=False, flip_y=flip_y, flip_x=flip_x)

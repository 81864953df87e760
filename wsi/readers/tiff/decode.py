"""One compressed TIFF tile to RGB by the shortest way: libjpeg-turbo, libdeflate, and tifffile for the rest."""

from collections.abc import Callable, Sequence
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from tifffile import TIFF, TiffPage

from wsi.arrays import RGB
from wsi.pixels.colour import (
    Samples,
    cmyk_to_rgb,
    eight_bits,
    grey_to_rgb,
    is_doubtful,
    jpeg2000_space,
    jpeg_codec_spaces,
    looks_ycbcr,
    rgba_to_rgb,
    ycbcr_to_rgb,
)
from wsi.pixels.declared import check_size, jpegxl_size, jpegxr_size, lerc_size, png_size, webp_size
from wsi.pixels.jpeg import check_jpeg
from wsi.pixels.jpeg2000 import check_jpeg2000
from wsi.units import YX

JPEG_COMPRESSIONS = frozenset((7, 33007, 34892))
JPEG_2000 = frozenset((33003, 33004, 33005, 34712))
_RAW, _LZW, _PACKBITS = 1, 5, 32773
_DEFLATE, _ZSTD, _LZMA = (8, 32946, 50013), (50000, 34926), 34925
BYTE_STREAMS = frozenset((_RAW, _LZW, _PACKBITS, *_DEFLATE, *_ZSTD, _LZMA))
"""Compressions that give back bytes; all others give back pictures."""
_LERC, LERC_PARAMETERS = 34887, 50674
_DECLARED_SIZE: dict[int, Callable[[bytes], YX]] = {
    **dict.fromkeys((34927, 50001), webp_size),
    34933: png_size,
    **dict.fromkeys((22610, 34934), jpegxr_size),
    **dict.fromkeys((50002, 52546), jpegxl_size),
    _LERC: lerc_size,
}
READABLE = JPEG_COMPRESSIONS | JPEG_2000 | BYTE_STREAMS | frozenset(_DECLARED_SIZE)
"""TIFF compressions whose memory is bounded here before they are decoded."""
YCBCR_READABLE = JPEG_COMPRESSIONS | JPEG_2000 | {34927, 50001}
"""Those of which YCbCr is converted, by their codec or by `wsi.pixels.colour`."""


class PageDecoder:
    """Decodes the tiles, strips or virtual bands of one page.

    Parameters
    ----------
    page
        As tifffile parsed it.
    stored
        Pixels of the page.
    tile
        Pixels of a tile; of a strip or band, its rows and the page's width.
    aperio
        Whether Aperio's software wrote the file.
    significant_bits
        Of a sample, where these are fewer than are stored.
    """

    def __init__(
        self, page: TiffPage, stored: YX, tile: YX, *, aperio: bool = False, significant_bits: int | None = None
    ) -> None:
        self._page = page
        self._stored = stored
        self._tile = tile
        self.planes: int = page.samplesperpixel if page.planarconfig == 2 else 1
        """Tiles that together make one: above 1 where each sample is stored on its own."""
        self._convert = _converter(page, significant_bits)
        self._bits = significant_bits or page.bitspersample
        self._tables: bytes | None = page.jpegtables
        self._tag: str = page.photometric.name
        self._vendor: int | None = page.compression if aperio else None
        self.holds_ycbcr = False
        """Whether JPEG 2000 of a doubtful kind (`is_doubtful`) looks like YCbCr."""
        self._decompress: Any = None if page.compression == _RAW else TIFF.DECOMPRESSORS.get(page.compression)
        if page.compression in _DEFLATE:
            self._decompress = imagecodecs.deflate_decode
        self._dtype = np.dtype(f"{page.parent.byteorder}u{page.bitspersample // 8}")

    def rgb(self, payload: bytes, index: int) -> RGB:
        """Decode one tile to uint8 (rows, columns, 3); errors as in `samples`."""
        return self._convert(self.samples(payload, index))

    def rgb_of_planes(self, payloads: Sequence[bytes], indices: Sequence[int]) -> RGB:
        """Decode the tiles of all samples of one place; errors as in `samples`."""
        planes = [self.samples(payload, i)[..., 0] for payload, i in zip(payloads, indices, strict=True)]
        pixels = self._convert(np.stack(planes, axis=-1))
        return ycbcr_to_rgb(pixels) if self._tag == "YCBCR" else pixels

    def samples(self, payload: bytes, index: int) -> Samples:
        """Decode one tile to (rows, columns, samples); what has three of them is RGB, but for planes on their own.

        Raises
        ------
        Exception
            A codec's error, `ValueError` or `EOFError` on damage.
        """
        compression = self._page.compression
        if compression in JPEG_COMPRESSIONS:
            return self._jpeg(payload)
        if compression in JPEG_2000:
            return self._jpeg2000(payload)
        if compression in BYTE_STREAMS:
            return self._byte_stream(payload, index)
        return self._picture(payload)

    def _jpeg(self, payload: bytes) -> Samples:
        header = check_jpeg(payload, self._tile, self._tables)
        if self._page.bitspersample == 8:
            inside, wanted = jpeg_codec_spaces(header, self._tag)
            pixels = imagecodecs.jpeg8_decode(payload, tables=self._tables, colorspace=inside, outcolorspace=wanted)
        else:
            pixels = imagecodecs.jpeg_decode(payload, bitspersample=self._page.bitspersample, tables=self._tables)
        return self._counted(pixels)

    def _jpeg2000(self, payload: bytes) -> Samples:
        header = check_jpeg2000(payload, self._tile)
        pixels = self._counted(imagecodecs.jpeg2k_decode(payload))
        space = "YCBCR" if self.holds_ycbcr else jpeg2000_space(header, self._tag, self._vendor)
        if pixels.shape[-1] == 3 and space == "YCBCR":
            return ycbcr_to_rgb(eight_bits(pixels, self._bits))
        return pixels

    def looks_ycbcr(self, payload: bytes) -> bool | None:
        """Tell whether a tile of doubtful colours looks like YCbCr, None without a doubt; errors as `samples`."""
        if self._vendor is not None or self._page.compression not in JPEG_2000 or self._page.software:
            return None
        if not is_doubtful(check_jpeg2000(payload, self._tile), self._tag, self._page.compression):
            return None
        return looks_ycbcr(eight_bits(self._jpeg2000(payload), self._bits))

    def _counted(self, pixels: Samples) -> Samples:
        """Return (rows, columns, samples), as many of these as the page has, or raise `ValueError`."""
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        expected = 1 if self.planes > 1 else self._page.samplesperpixel
        if pixels.shape[-1] != expected:
            raise ValueError(f"expected {expected} samples a pixel, found {pixels.shape[-1]}")
        return pixels

    def _byte_stream(self, payload: bytes, index: int) -> Samples:
        per_pixel = 1 if self.planes > 1 else self._page.samplesperpixel
        rows, width = self._rows(index), self._tile.x
        row_bytes = width * per_pixel * self._dtype.itemsize
        if self._page.fillorder == 2:
            payload = bytes(imagecodecs.bitorder_decode(payload))
        raw = payload if self._decompress is None else self._decompress(payload, out=self._tile.y * row_bytes)
        # The last strip may be stored at full height.
        if len(raw) not in {rows * row_bytes, self._tile.y * row_bytes}:
            raise EOFError(f"expected {rows * row_bytes} bytes, found {len(raw)}")
        pixels = np.frombuffer(raw, self._dtype, rows * width * per_pixel).reshape(rows, width, per_pixel)
        if self._page.predictor == 1 or self._decompress is None:
            return pixels
        summed: Samples = imagecodecs.delta_decode(pixels.astype(self._dtype.newbyteorder("=")), axis=1)
        return summed

    def _rows(self, index: int) -> int:
        if self._page.is_tiled:
            return self._tile.y
        down = -(-self._stored.y // self._tile.y)
        return min(self._tile.y, self._stored.y - index % down * self._tile.y)

    def _picture(self, payload: bytes) -> Samples:
        compression = self._page.compression
        if compression == _LERC:
            payload = self._lerc_blob(payload)
        size = check_size(payload, self._tile, _DECLARED_SIZE[compression])
        samples = 1 if self.planes > 1 else self._page.samplesperpixel
        shape = tuple(size) if samples == 1 else (*size, samples)
        # Decoding into this bounds what no header was asked for: frames of an animation, bands, channels.
        out = np.empty(shape, self._dtype.newbyteorder("="))
        options = {"hasalpha": samples == 4} if _DECLARED_SIZE[compression] is webp_size else {}
        return self._counted(self._decompress(payload, out=out, **options))

    def _lerc_blob(self, payload: bytes) -> bytes:
        """Undo the second compression of LERC in TIFF, bounded by what the pixels can need."""
        kind = (self._page.tags.valueof(LERC_PARAMETERS) or (0, 0))[1]
        most = 2 * self._tile.y * self._tile.x * self._page.samplesperpixel * self._dtype.itemsize + 4096
        if kind == 1:
            return bytes(imagecodecs.deflate_decode(payload, out=most))
        return bytes(imagecodecs.zstd_decode(payload, out=most)) if kind == 2 else payload


def _converter(page: TiffPage, significant_bits: int | None) -> Callable[[Samples], RGB]:
    """Return the function that turns this page's samples (rows, columns, samples) into uint8 (rows, columns, 3)."""
    name, bits = page.photometric.name, significant_bits or page.bitspersample
    if name == "PALETTE":
        table = _palette(page)
        return lambda samples: table[samples[..., 0]]
    if name == "SEPARATED":
        return lambda samples: cmyk_to_rgb(eight_bits(samples, bits))
    if name in {"MINISBLACK", "MINISWHITE"}:
        return lambda samples: grey_to_rgb(eight_bits(samples, bits), inverted=name == "MINISWHITE")
    if page.samplesperpixel == 4:
        kind = alpha_kind(page)
        return lambda samples: rgba_to_rgb(eight_bits(samples, bits), kind)
    return lambda samples: eight_bits(samples, bits)


def alpha_kind(page: TiffPage) -> str:
    """Return what the fourth sample of RGB is, as `rgba_to_rgb` takes it."""
    if not page.extrasamples:
        return "none"
    return {1: "premultiplied", 2: "straight"}.get(page.extrasamples[0], "unspecified")


def _palette(page: TiffPage) -> NDArray[np.uint8]:
    table = np.asarray(page.colormap, np.float64).T
    # TIFF asks for 16 bits; some writers put 8-bit values, and libtiff looks at them in the same way.
    return np.rint(table if table.max() < 256 else table / 257).astype(np.uint8)

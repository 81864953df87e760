"""One compressed TIFF tile to RGB by the shortest way: libjpeg-turbo, libdeflate, and tifffile for the rest."""

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from tifffile import TIFF, TiffPage

from wsi.readers.colour import cmyk_to_rgb, grey_to_rgb, rgba_to_rgb, ycbcr_to_rgb
from wsi.readers.jpeg_checks import check_jpeg, jpeg2000_size, webp_size
from wsi.slide import RGB
from wsi.units import YX

Samples = NDArray[np.generic]

_JPEG, _APERIO_YCBCR, _APERIO_RGB = 7, 33003, 33005
_RAW, _LZW, _PACKBITS = 1, 5, 32773
_DEFLATE, _ZSTD, _LZMA = (8, 32946, 50013), (50000, 34926), 34925
_BYTE_STREAMS = frozenset((_RAW, _LZW, _PACKBITS, *_DEFLATE, *_ZSTD, _LZMA))
"""Compressions that give back bytes; all others give back pictures."""
_DECLARED_SIZE: dict[int, Callable[[bytes], YX | None]] = {
    **dict.fromkeys((_APERIO_YCBCR, _APERIO_RGB, 33004, 34712), jpeg2000_size),
    **dict.fromkeys((34927, 50001), webp_size),
}
_JPEG_COLOURS = {"YCBCR": ("YCBCR", "RGB"), "RGB": ("RGB", "RGB"), "SEPARATED": (None, "CMYK")}
"""Colour space inside the JPEG and wanted from it: the TIFF tag says it, Aperio's tiles carry no marker that would."""


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
    """

    def __init__(self, page: TiffPage, stored: YX, tile: YX) -> None:
        self._page = page
        self._stored = stored
        self._tile = tile
        self.planes: int = page.samplesperpixel if page.planarconfig == 2 else 1
        """Tiles that together make one: above 1 where each sample is stored on its own."""
        self.rgb: Callable[[Samples], RGB] = rgb_converter(page)
        """Turns samples (rows, columns, samples) into uint8 (rows, columns, 3)."""
        self._tables: bytes | None = page.jpegtables
        self._decompress: Any = None if page.compression == _RAW else TIFF.DECOMPRESSORS.get(page.compression)
        if page.compression in _DEFLATE:
            self._decompress = imagecodecs.deflate_decode
        self._dtype = np.dtype(f"{page.parent.byteorder}u{page.bitspersample // 8}")

    def samples(self, payload: bytes, index: int) -> Samples:
        """Decode one tile to (rows, columns, samples).

        Raises
        ------
        Exception
            A codec's error, `ValueError` or `EOFError` on damage.
        """
        page = self._page
        if page.compression == _JPEG and page.bitspersample == 8 and page.planarconfig == 1:
            return self._jpeg(payload)
        if page.compression in _BYTE_STREAMS and page.predictor in {1, 2}:
            return self._byte_stream(payload, index)
        return self._picture(payload, index)

    def _jpeg(self, payload: bytes) -> Samples:
        check_jpeg(payload, self._tile)
        inside, wanted = _JPEG_COLOURS.get(self._page.photometric.name, (None, None))
        pixels: Samples = imagecodecs.jpeg8_decode(
            payload, tables=self._tables, colorspace=inside, outcolorspace=wanted
        )
        return pixels if pixels.ndim == 3 else pixels[..., None]

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

    def _picture(self, payload: bytes, index: int) -> Samples:
        compression = self._page.compression
        declared = _DECLARED_SIZE[compression](payload) if compression in _DECLARED_SIZE else None
        if declared and (declared.y > self._tile.y or declared.x > self._tile.x):
            raise ValueError(f"expected {self._tile.x} x {self._tile.y} px, found {declared.x} x {declared.y}")
        data, _, shape = self._page.decode(payload, index, jpegtables=self._tables)
        if data is None:
            raise EOFError("no data")
        samples: Samples = data.reshape(data.shape[-3:])[: shape[-3], : shape[-2]]
        return samples


def rgb_converter(page: TiffPage) -> Callable[[Samples], RGB]:
    """Return the function that turns this page's samples (rows, columns, samples) into uint8 (rows, columns, 3)."""
    name = page.photometric.name
    if page.compression == _APERIO_YCBCR:
        return lambda samples: ycbcr_to_rgb(_eight_bits(samples))
    if name == "PALETTE":
        table = _palette(page)
        return lambda samples: table[samples[..., 0]]
    if name == "SEPARATED":
        return lambda samples: cmyk_to_rgb(_eight_bits(samples))
    if name in {"MINISBLACK", "MINISWHITE"}:
        return lambda samples: grey_to_rgb(_eight_bits(samples), inverted=name == "MINISWHITE")
    if page.samplesperpixel == 4:
        has_alpha, premultiplied = bool(page.extrasamples), 2 not in page.extrasamples
        return lambda samples: rgba_to_rgb(_eight_bits(samples), has_alpha=has_alpha, premultiplied=premultiplied)
    return _eight_bits


def _palette(page: TiffPage) -> NDArray[np.uint8]:
    table = np.asarray(page.colormap, np.float64).T
    # TIFF asks for 16 bits; some writers put 8-bit values, and libtiff looks at them in the same way.
    return np.rint(table if table.max() < 256 else table / 257).astype(np.uint8)


def _eight_bits(samples: Samples) -> RGB:
    if samples.dtype == np.uint8:
        return samples.view(np.uint8)
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)

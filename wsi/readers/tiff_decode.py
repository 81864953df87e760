"""One compressed TIFF tile to RGB by the shortest way: libjpeg-turbo, libdeflate, and tifffile for the rest."""

from collections.abc import Callable

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from tifffile import TiffPage

from wsi.slide import RGB
from wsi.units import YX

Decode = Callable[[bytes, int], NDArray[np.generic]]
"""Payload and index of the tile to samples (rows, columns, samples), maybe larger or smaller than the tile."""

_JPEG, _DEFLATE = 7, (8, 32946)
_END_OF_JPEG = b"\xff\xd9"
_JPEG_COLORS = {"YCBCR": ("YCBCR", "RGB"), "RGB": ("RGB", "RGB"), "SEPARATED": (None, "CMYK")}
"""Colour space inside the JPEG and wanted from it: the TIFF tag says it, Aperio's tiles carry no marker that would."""


def decoder(page: TiffPage, tile: YX) -> Callable[[bytes, int], RGB]:
    """Return the function that decodes one tile of this page.

    The function takes the payload and the tile's index and returns uint8 (rows, columns, 3); it raises some codec's
    error, `ValueError` or `EOFError` on damage.
    """
    samples = _samples_decoder(page, tile)
    to_rgb = _rgb_converter(page)

    def decode(payload: bytes, index: int) -> RGB:
        return to_rgb(samples(payload, index))

    return decode


def _samples_decoder(page: TiffPage, tile: YX) -> Decode:
    if page.compression == _JPEG and page.bitspersample == 8 and page.planarconfig == 1:
        return _jpeg_decoder(page)
    if page.compression in _DEFLATE and page.predictor in {1, 2} and page.bitspersample == 8 and page.planarconfig == 1:
        return _deflate_decoder(page, tile)
    return _tifffile_decoder(page)


def _jpeg_decoder(page: TiffPage) -> Decode:
    colorspace, outcolorspace = _JPEG_COLORS.get(page.photometric.name, (None, None))
    tables = page.jpegtables

    def decode(payload: bytes, _index: int) -> NDArray[np.generic]:
        # libjpeg paints the missing rest of a cut-off tile grey and only warns.
        if _END_OF_JPEG not in payload[-64:]:
            raise EOFError("JPEG data end too early")
        pixels = imagecodecs.jpeg8_decode(payload, tables=tables, colorspace=colorspace, outcolorspace=outcolorspace)
        return pixels if pixels.ndim == 3 else pixels[..., None]

    return decode


def _deflate_decoder(page: TiffPage, tile: YX) -> Decode:
    samples, tiled = page.samplesperpixel, page.is_tiled
    predictor = page.predictor

    def decode(payload: bytes, index: int) -> NDArray[np.generic]:
        rows = tile.y if tiled else min(tile.y, page.imagelength - index * tile.y)
        raw = imagecodecs.deflate_decode(payload, out=rows * tile.x * samples)
        pixels = np.frombuffer(raw, np.uint8)
        if pixels.size != rows * tile.x * samples:
            raise EOFError(f"expected {rows * tile.x * samples} bytes, found {pixels.size}")
        pixels = pixels.reshape(rows, tile.x, samples)
        return imagecodecs.delta_decode(pixels, axis=1) if predictor == 2 else pixels

    return decode


def _tifffile_decoder(page: TiffPage) -> Decode:
    tables = page.jpegtables

    def decode(payload: bytes, index: int) -> NDArray[np.generic]:
        data, _, shape = page.decode(payload, index, jpegtables=tables)
        if data is None:
            raise EOFError("no data")
        return data.reshape(data.shape[-3:])[: shape[-3], : shape[-2]]

    return decode


def _rgb_converter(page: TiffPage) -> Callable[[NDArray[np.generic]], RGB]:
    name = page.photometric.name
    if page.planarconfig == 2:  # planes are decoded one by one and stacked by the reader
        return lambda samples: _eight_bits(samples)
    if name == "PALETTE":
        table = np.rint(np.asarray(page.colormap, np.float64).T / 257).astype(np.uint8)
        return lambda samples: table[samples[..., 0]]
    if name == "SEPARATED":
        return lambda samples: cmyk_to_rgb(_eight_bits(samples))
    if name in {"MINISBLACK", "MINISWHITE"}:
        return lambda samples: grey_to_rgb(_eight_bits(samples), inverted=name == "MINISWHITE")
    if page.samplesperpixel == 4:
        has_alpha, premultiplied = bool(page.extrasamples), 1 in page.extrasamples
        return lambda samples: rgba_to_rgb(_eight_bits(samples), has_alpha=has_alpha, premultiplied=premultiplied)
    return _eight_bits


def _eight_bits(samples: NDArray[np.generic]) -> RGB:
    if samples.dtype == np.uint8:
        return samples.view(np.uint8)
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def cmyk_to_rgb(cmyk: NDArray[np.uint8]) -> RGB:
    """Convert uint8 (..., 4), 255 = full ink, to RGB as libtiff does: each colour's paper times what black leaves."""
    paper = 255 - cmyk[..., :3].astype(np.uint16)
    return (paper * (255 - cmyk[..., 3:].astype(np.uint16)) // 255).astype(np.uint8)


def grey_to_rgb(grey: NDArray[np.uint8], *, inverted: bool) -> RGB:
    """Repeat the first sample three times; ``inverted`` where 0 means white."""
    first = grey[..., :1]
    return np.repeat(255 - first if inverted else first, 3, axis=-1)


def rgba_to_rgb(rgba: NDArray[np.uint8], *, has_alpha: bool, premultiplied: bool) -> RGB:
    """Lay uint8 (..., 4) on white; transparent (0, 0, 0, 0) becomes white, never black "tissue"."""
    if not has_alpha:
        return rgba[..., :3]
    colour, alpha = rgba[..., :3].astype(np.float32), rgba[..., 3:].astype(np.float32) / 255
    laid = (colour if premultiplied else colour * alpha) + 255 * (1 - alpha)
    return np.clip(np.rint(laid), 0, 255).astype(np.uint8)

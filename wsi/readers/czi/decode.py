"""The pixels of one CZI subblock: none, JPEG XR or zstd as compression, blue before red."""

import imagecodecs
import numpy as np

from wsi.arrays import RGB
from wsi.pixels.colour import Samples, eight_bits, grey_to_rgb
from wsi.pixels.declared import check_size, jpegxr_size
from wsi.readers.czi.layout import BGR_24, BGR_48, BYTES, GREY_8, JPEG_XR, RAW, ZSTD_PACKED, Subblock


def rgb(payload: bytes, block: Subblock, bits: int | None) -> RGB:
    """Decode a subblock to uint8 (rows, columns, 3).

    Parameters
    ----------
    payload
        As it lies in the file.
    block
        Says how it is compressed, and what comes out.
    bits
        That carry the picture, of 16; None: all.

    Raises
    ------
    Exception
        A codec's error, `ValueError` or `EOFError` on damage.
    """
    samples = _jpeg_xr(payload, block) if block.compression == JPEG_XR else _bytes(payload, block)
    pixels = eight_bits(samples, bits or 16)
    if pixels.shape[-1] == 1:
        return grey_to_rgb(pixels, inverted=False)
    return pixels if block.compression == JPEG_XR else np.ascontiguousarray(pixels[..., ::-1])


def _shape(block: Subblock) -> tuple[int, int, int]:
    return (*block.stored, 3 if block.pixel_type in {BGR_24, BGR_48} else 1)


def _dtype(block: Subblock) -> np.dtype[np.generic]:
    return np.dtype("u1" if block.pixel_type in {GREY_8, BGR_24} else "<u2")


def _jpeg_xr(payload: bytes, block: Subblock) -> Samples:
    """Decode a JPEG XR file, whose own header names the order of its colours."""
    if check_size(payload, block.stored, jpegxr_size) != block.stored:
        raise ValueError(f"expected {block.stored.x} x {block.stored.y} px of JPEG XR")
    shape = _shape(block)
    pixels = imagecodecs.jpegxr_decode(payload, out=np.empty(shape if shape[2] == 3 else shape[:2], _dtype(block)))
    return np.asarray(pixels).reshape(shape)


def _bytes(payload: bytes, block: Subblock) -> Samples:
    n_bytes, packed = block.stored.y * block.stored.x * BYTES[block.pixel_type], False
    stored: bytes | bytearray = payload
    if block.compression != RAW:
        start = 0
        if block.compression == ZSTD_PACKED:
            start, packed = _zstd_header(payload)
        stored = imagecodecs.zstd_decode(payload[start:], out=n_bytes)
    if len(stored) < n_bytes:
        raise EOFError(f"expected {n_bytes} bytes, found {len(stored)}")
    raw = np.frombuffer(stored, np.uint8, n_bytes)
    if packed:  # all low bytes stand before all high ones
        raw = np.ascontiguousarray(raw.reshape(2, -1).T).reshape(-1)
    return raw.view(_dtype(block)).reshape(_shape(block))


def _zstd_header(payload: bytes) -> tuple[int, bool]:
    """Return the length of what stands before the zstd frame, and whether high and low bytes are apart."""
    if payload[:1] == b"\x01":
        return 1, False
    if len(payload) > 2 and payload[0] == 3 and payload[1] == 1:
        return 3, bool(payload[2] & 1)
    raise ValueError("unknown header before its zstd data")

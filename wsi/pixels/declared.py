"""The size that a compressed picture declares, read before a decoder allocates it.

Sources: the specifications of PNG, JPEG XL (ISO 18181), JPEG XR (ITU-T T.832), LERC 2, WebP.
"""

import struct
from collections.abc import Callable

from wsi.pixels.jpeg import jpeg_header
from wsi.pixels.jpeg2000 import jpeg2000_header
from wsi.units import YX


def check_size(payload: bytes, largest: YX, declared: Callable[[bytes], YX]) -> YX:
    """Return the declared size; `ValueError` where it cannot be read or is larger than a tile."""
    try:
        size = declared(payload)
    except (struct.error, IndexError):
        raise ValueError("the picture's header is cut short") from None
    if not (0 < size.y <= largest.y and 0 < size.x <= largest.x):
        raise ValueError(f"expected {largest.x} x {largest.y} px, found {size.x} x {size.y}")
    return size


def jpeg_size(payload: bytes) -> YX:
    """Return a JPEG's size, of any process."""
    return jpeg_header(payload).size


def jpeg2000_size(payload: bytes) -> YX:
    """Return a JPEG 2000 picture's size."""
    return jpeg2000_header(payload).size


def webp_size(payload: bytes) -> YX:
    """Return a WebP file's size; animations, which hold any number of pictures, are refused."""
    kind, body = payload[12:16], payload[20:30]
    if payload[:4] != b"RIFF" or payload[8:12] != b"WEBP" or len(body) < 10:
        raise ValueError("no WebP header")
    if kind == b"VP8X":
        if body[0] & 2:
            raise ValueError("an animated WebP: expected one picture")
        return YX(int.from_bytes(body[7:10], "little") + 1, int.from_bytes(body[4:7], "little") + 1)
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return YX((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    width, height = struct.unpack("<HH", body[6:10])
    return YX(height & 0x3FFF, width & 0x3FFF)


def png_size(payload: bytes) -> YX:
    """Return a PNG file's size."""
    if payload[:8] != b"\x89PNG\r\n\x1a\n" or payload[12:16] != b"IHDR":
        raise ValueError("no PNG header")
    width, height = struct.unpack(">II", payload[16:24])
    return YX(height, width)


def jpegxl_size(payload: bytes) -> YX:
    """Return the size of a JPEG XL codestream, bare or in its container."""
    data = payload if payload[:2] == b"\xff\x0a" else _jpegxl_codestream(payload)
    if data[:2] != b"\xff\x0a":
        raise ValueError("no JPEG XL header")
    bits = _Bits(data[2:20])
    small = bits.take(1)
    height = (bits.take(5) + 1) * 8 if small else _jpegxl_number(bits)
    ratio = bits.take(3)
    if ratio:
        across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return YX(height, height * across // down)
    return YX(height, (bits.take(5) + 1) * 8 if small else _jpegxl_number(bits))


def _jpegxl_codestream(payload: bytes) -> bytes:
    """Return the start of the codestream of a container: the contents of its first jxlc or jxlp box."""
    place = 0
    while place + 8 <= len(payload):
        length, kind = struct.unpack(">I4s", payload[place : place + 8])
        head = 16 if length == 1 else 8
        if length == 1:
            (length,) = struct.unpack(">Q", payload[place + 8 : place + 16])
        if kind in {b"jxlc", b"jxlp"}:
            start = place + head + (4 if kind == b"jxlp" else 0)
            return payload[start : start + 32]
        if length < head:
            break
        place += length
    return b""


class _Bits:
    """Bits, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken


def _jpegxl_number(bits: _Bits) -> int:
    return bits.take((9, 13, 18, 30)[bits.take(2)]) + 1


_XR_WIDTH, _XR_HEIGHT, _XR_OFFSET, _XR_BYTES = 0xBC80, 0xBC81, 0xBCC0, 0xBCC1


def jpegxr_size(payload: bytes) -> YX:
    """Return the size of a JPEG XR file: the larger of what its directory and its codestream say."""
    if payload[:3] != b"II\xbc":
        raise ValueError("no JPEG XR header")
    (offset,) = struct.unpack("<I", payload[4:8])
    (count,) = struct.unpack("<H", payload[offset : offset + 2])
    values = {}
    for i in range(count):
        tag, kind, _ = struct.unpack("<HHI", payload[offset + 2 + 12 * i : offset + 10 + 12 * i])
        value = payload[offset + 10 + 12 * i : offset + 14 + 12 * i]
        values[tag] = int.from_bytes(value[: {1: 1, 3: 2}.get(kind, 4)], "little")
    stream = payload[values.get(_XR_OFFSET, 0) :][:24]
    if stream[:8] != b"WMPHOTO\0":
        raise ValueError("a JPEG XR file without a codestream")
    if len(payload) < values.get(_XR_OFFSET, 0) + values.get(_XR_BYTES, 0):
        raise ValueError("JPEG XR that is cut short")  # its decoder would make up the rest
    width, height = struct.unpack(">HH" if stream[10] & 0x80 else ">II", stream[12 : 16 if stream[10] & 0x80 else 20])
    return YX(max(height + 1, values.get(_XR_HEIGHT, 0)), max(width + 1, values.get(_XR_WIDTH, 0)))


def lerc_size(payload: bytes) -> YX:
    """Return the size of a LERC 2 blob."""
    if payload[:6] != b"Lerc2 ":
        raise ValueError("no LERC 2 header")
    (version,) = struct.unpack("<i", payload[6:10])
    start = 14 if version >= 3 else 10
    rows, columns = struct.unpack("<ii", payload[start : start + 8])
    return YX(rows, columns)

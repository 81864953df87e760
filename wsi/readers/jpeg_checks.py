"""What can be said of a compressed tile before it is decoded: its declared size, and whether bytes are gone.

libjpeg paints what is missing grey and only warns, and a decoder allocates whatever a header declares: both are
looked at here first. Sources: ITU-T T.81 annex B (JPEG), T.87 (JPEG-LS), T.800 annex A (JPEG 2000).
"""

import struct

from wsi.units import YX

_END_OF_JPEG = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_START_OF_FRAME = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}
"""0xF7 is JPEG-LS's."""
_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xDA)))


def jpeg_frame(payload: bytes) -> tuple[YX, int, bool]:
    """Return what a JPEG's frame header declares: size in pixels, blocks of 64 samples, and whether it is sequential.

    Raises
    ------
    ValueError
        There is no frame header.
    """
    position = 2 if payload[:2] == b"\xff\xd8" else 0
    while position + 4 <= len(payload) and payload[position] == 0xFF:
        marker = payload[position + 1]
        if marker in _BARE_MARKERS or marker == 0xFF:
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(payload[position + 2 : position + 4], "big")
        if marker in _START_OF_FRAME:
            return (*_frame(payload[position + 4 : position + 2 + length]), marker in {0xC0, 0xC1})
        if marker == _START_OF_SCAN or length < 2:
            break
        position += 2 + length
    raise ValueError(f"no JPEG frame header: starts with {payload[:4].hex(' ')}")


def _frame(header: bytes) -> tuple[YX, int]:
    if len(header) < 6 or len(header) < 6 + 3 * header[5]:
        raise ValueError("JPEG frame header cut short")
    height, width = struct.unpack(">HH", header[1:5])
    factors = [(header[7 + 3 * i] >> 4, header[7 + 3 * i] & 15) for i in range(header[5])]
    if not factors or not all(0 < factor <= 4 for pair in factors for factor in pair):
        raise ValueError("JPEG frame header with impossible sampling factors")
    per_unit_x, per_unit_y = max(f[0] for f in factors), max(f[1] for f in factors)
    units = -(-height // (8 * per_unit_y)) * -(-width // (8 * per_unit_x))
    return YX(height, width), units * sum(x * y for x, y in factors)


def check_jpeg(payload: bytes, largest: YX) -> None:
    """Raise on a JPEG that is cut off, has a hole, or declares more pixels than its tile has.

    A block takes two bits at the least, so that no whole tile holds more zero bytes in a row than that: a longer run
    is a part of the file that was never written.

    Raises
    ------
    EOFError
        The end marker is missing, or a stretch of zeros stands where data were.
    ValueError
        No frame header, or one that declares too large a picture.
    """
    size, blocks, sequential = jpeg_frame(payload)
    if size.y > largest.y or size.x > largest.x:
        raise ValueError(f"expected a JPEG of {largest.x} x {largest.y} px, found {size.x} x {size.y}")
    if _END_OF_JPEG not in payload[-64:]:
        raise EOFError("JPEG data end too early")
    if sequential and bytes(blocks // 4 + 64) in payload.rstrip(b"\0"):
        raise EOFError("a hole of zero bytes in the JPEG data")


def jpeg2000_size(payload: bytes) -> YX | None:
    """Return the size that a JPEG 2000 codestream declares, None where no header is found."""
    start = payload.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or len(payload) < start + 24:
        return None
    x1, y1, x0, y0 = struct.unpack(">4I", payload[start + 8 : start + 24])
    return YX(y1 - y0, x1 - x0)


def webp_size(payload: bytes) -> YX | None:
    """Return the size that a WebP file declares, None where no header is found."""
    kind, body = payload[12:16], payload[20:30]
    if payload[:4] != b"RIFF" or len(body) < 10:
        return None
    if kind == b"VP8X":
        return YX(int.from_bytes(body[7:10], "little") + 1, int.from_bytes(body[4:7], "little") + 1)
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return YX((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    width, height = struct.unpack("<HH", body[6:10])
    return YX(height & 0x3FFF, width & 0x3FFF)

"""What a JPEG 2000 picture declares of itself, and what can be told of damage before it is decoded.

OpenJPEG decodes zeros as empty packets and flipped bits as other pixels, without a word. Source: ITU-T T.800 annex A
(codestream) and annex I (the JP2 file format).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from wsi.units import YX, ceil_div

_START_AND_SIZE = b"\xff\x4f\xff\x51"
_JP2 = b"\0\0\0\x0cjP  "
_END = b"\xff\xd9"
_CODING_STYLE, _TILE_PART, _PACKET = 0xFF52, 0xFF90, b"\xff\x91\0\x04"
_SRGB, _SYCC, _ESYCC = 16, 18, 24
COLOUR_SPACES = {_SRGB: "RGB", _SYCC: "YCBCR", _ESYCC: "YCBCR"}
"""Enumerated colour spaces of a JP2 file's colour box."""
CONVERTED = frozenset({_SYCC})
"""Those that imagecodecs turns into RGB by itself."""


@dataclass(frozen=True, slots=True)
class Jpeg2000Header:
    """The main header of a codestream, and the colour box before it."""

    size: YX
    bits: int
    """Of the first component."""
    sampling: tuple[YX, ...]
    """Distance of the samples of each component, down and across: (1, 1) where none is left out."""
    component_transform: bool
    """Whether the decoder itself undoes a transform of the first three components (MCT)."""
    enumerated: int | None
    """The JP2 file's enumerated colour space: 16 sRGB, 17 grey, 18 sYCC, 24 e-sYCC; None without one."""
    packets: int
    """Most packets that the codestream may have."""
    start: int
    """Where the codestream starts."""
    body: int
    """Where its first tile-part starts."""

    @property
    def subsampled(self) -> bool:
        """Whether a component has fewer samples than another."""
        return len(set(self.sampling)) > 1


def jpeg2000_header(payload: bytes) -> Jpeg2000Header:
    """Parse a codestream's main header, or a JP2 file's up to there.

    Raises
    ------
    ValueError
        There is none, or it is cut short.
    """
    try:
        start, enumerated = _find_codestream(payload)
        height, width, bits, sampling = _size(payload, start)
        style, body = b"", start + 2
        for marker, segment, stop in _segments(payload, start + 2):
            if marker == _CODING_STYLE and not style:
                style = payload[segment:stop]
            body = stop
        transform, packets = _style(style, YX(height, width), payload, start, len(sampling))
    except (struct.error, IndexError):
        raise ValueError("JPEG 2000 header cut short") from None
    return Jpeg2000Header(YX(height, width), bits, sampling, transform, enumerated, packets, start, body)


def _find_codestream(payload: bytes) -> tuple[int, int | None]:
    """Return where the codestream starts, and the enumerated colour space where a colour box gives one."""
    if payload[:4] == _START_AND_SIZE:
        return 0, None
    if payload[:8] != _JP2:
        raise ValueError(f"no JPEG 2000 header: starts with {payload[:4].hex(' ')}")
    enumerated: int | None = None
    for kind, start, stop in _boxes(payload, 0, len(payload)):
        if kind == b"jp2h":
            for inner, place, _ in _boxes(payload, start, stop):
                if inner == b"colr" and payload[place] == 1 and enumerated is None:
                    enumerated = struct.unpack(">I", payload[place + 3 : place + 7])[0]
        elif kind == b"jp2c" and payload[start : start + 4] == _START_AND_SIZE:
            return start, enumerated
    raise ValueError("a JP2 file without a codestream")


def _boxes(payload: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Give (kind, start, stop) of the contents of each box."""
    while start + 8 <= stop:
        length, kind = struct.unpack(">I4s", payload[start : start + 8])
        head = 8
        if length == 1:
            (length,), head = struct.unpack(">Q", payload[start + 8 : start + 16]), 16
        end = stop if length == 0 else start + length
        if end < start + head:
            raise ValueError("a JP2 box of no length")
        yield kind, start + head, min(end, stop)
        start = end


def _size(payload: bytes, start: int) -> tuple[int, int, int, tuple[YX, ...]]:
    x1, y1, x0, y0 = struct.unpack(">4I", payload[start + 8 : start + 24])
    (count,) = struct.unpack(">H", payload[start + 40 : start + 42])
    parts = [payload[start + 42 + 3 * i : start + 45 + 3 * i] for i in range(count)]
    if not count or x1 <= x0 or y1 <= y0 or any(0 in part[1:] for part in parts):
        raise ValueError(f"JPEG 2000 picture of {x1 - x0} x {y1 - y0} px with {count} components")
    return y1 - y0, x1 - x0, (parts[0][0] & 0x7F) + 1, tuple(YX(part[2], part[1]) for part in parts)


def _segments(payload: bytes, start: int) -> Iterator[tuple[int, int, int]]:
    """Give (marker, start of contents, stop) of each segment of the main header, up to the first tile-part."""
    while True:
        marker, length = struct.unpack(">HH", payload[start : start + 4])
        if marker == _TILE_PART:
            return
        if marker < 0xFF00 or length < 2:
            raise ValueError("JPEG 2000 marker expected")
        yield marker, start + 4, start + 2 + length
        start += 2 + length


def _style(style: bytes, size: YX, payload: bytes, start: int, components: int) -> tuple[bool, int]:
    """Return whether components are transformed, and the most packets that there can be."""
    if len(style) < 10:
        raise ValueError("JPEG 2000 header without a coding style")
    layers, transform, decompositions = int.from_bytes(style[2:4], "big"), style[4], style[5]
    tile_x, tile_y = struct.unpack(">2I", payload[start + 24 : start + 32])
    if not tile_x or not tile_y or decompositions > 32:
        raise ValueError("JPEG 2000 header with impossible tiles")
    tiles, precincts = ceil_div(size.y, tile_y) * ceil_div(size.x, tile_x), 0
    tile = YX(min(tile_y, size.y), min(tile_x, size.x))
    for resolution in range(decompositions + 1):
        side = style[10 + resolution] if style[0] & 1 else 0xFF
        shrink = decompositions - resolution
        # One more each way than fits: the grid of precincts need not start where the tile does.
        precincts += ((tile.y >> shrink >> (side >> 4)) + 2) * ((tile.x >> shrink >> (side & 15)) + 2)
    return bool(transform), tiles * layers * components * precincts


def check_jpeg2000(payload: bytes, largest: YX) -> Jpeg2000Header:
    """Return a picture's header; raise where it is cut off, has a hole, or declares more pixels than its tile has.

    An empty packet is one zero byte: a run of more zeros than there are packets is a part that was never written.

    Raises
    ------
    EOFError
        Tile-parts or the end marker are missing, packets are not in turn, or a stretch of zeros stands where data were.
    ValueError
        No header, or one that declares too large a picture.
    """
    header = jpeg2000_header(payload)
    if header.size.y > largest.y or header.size.x > largest.x:
        raise ValueError(f"expected JPEG 2000 of {largest.x} x {largest.y} px, found {header.size.x} x {header.size.y}")
    end = _walk_tile_parts(payload, header.body)
    if payload[end : end + 2] != _END:
        raise EOFError("the JPEG 2000 codestream has no end where its tile-parts end")
    if bytes(header.packets + 64) in payload[header.body : end]:
        raise EOFError("a hole of zero bytes in the JPEG 2000 data")
    _check_packets(payload[header.body : end])
    return header


def _walk_tile_parts(payload: bytes, position: int) -> int:
    """Follow the lengths that the tile-parts declare; return where the last one ends."""
    while payload[position : position + 2] == b"\xff\x90":
        if position + 12 > len(payload):
            raise EOFError("JPEG 2000 data end too early")
        (length,) = struct.unpack(">I", payload[position + 6 : position + 10])
        if length == 0:  # the last one, up to the end marker
            return len(payload.rstrip(b"\0")) - 2
        if length < 14 or position + length > len(payload):
            raise EOFError(f"a tile-part of {length} bytes at {position} of {len(payload)}")
        position += length
    return position


def _check_packets(body: bytes) -> None:
    """Where packets carry their number (SOP markers), these count up, from 0 in each tile and modulo 65536."""
    numbers = [int.from_bytes(body[m.end() : m.end() + 2], "big") for m in re.finditer(re.escape(_PACKET), body)]
    if any(b not in {0, (a + 1) % 65536} for a, b in pairwise(numbers)):
        raise EOFError("packets are missing from the JPEG 2000 data")

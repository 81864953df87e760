"""The one walk over a JPEG's markers: what a file declares of itself, and what can be told of damage undecoded.

libjpeg paints what is missing grey and only warns, and a decoder allocates whatever a header declares: both are looked
at here first. Sources: ITU-T T.81 annex B (JPEG), T.87 (JPEG-LS), JFIF 1.02, Adobe TN 5116.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from wsi.units import YX, ceil_div

ZARR_NAMES = ("imagecodecs_jpeg",)
"""What zarr calls the codec of our JPEG chunks: stores are written with the first, and read and verified with each.

To change once an extension ``jpeg`` is accepted (zarr-extensions, pull request 66), with the entry points of
pyproject.toml and `ZarrJpeg.from_dict`, to which its configuration is then new.
"""
START, END = b"\xff\xd8", b"\xff\xd9"
SCAN = 0xDA
_START_OF_SCAN = b"\xff\xda"
JFIF, ADOBE, RESTART_INTERVAL = 0xE0, 0xEE, 0xDD
SEQUENTIAL = frozenset({0xC0, 0xC1})
"""Baseline and extended frames, Huffman-coded."""
_FRAMES = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}
"""0xF7 is JPEG-LS's."""
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))
_AFTER_END = 64
"""Bytes after the end marker that writers leave behind."""
_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xfe]")
_USUAL_HEAD = 4096
"""A head up to this many bytes is remembered: the tiles of a level have one, and parsing costs a tenth of decoding."""


class Segment(NamedTuple):
    """One marker with what belongs to it: ``data[start:stop]``, marker and length first."""

    marker: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What stands before the pixels of a JPEG or JPEG-LS file."""

    frame: int
    """The frame header's marker: 0xC0 baseline, 0xC2 progressive, 0xF7 JPEG-LS, ..."""
    bits: int
    size: YX
    ids: bytes
    """One byte per component."""
    sampling: tuple[YX, ...]
    """Sampling factors of each component."""
    units: int
    """Coded units of a scan of all components."""
    blocks: int
    """Blocks of 64 samples."""
    jfif: bool = False
    adobe: int | None = None
    """Adobe's colour transform: 0 none, 1 YCbCr, 2 YCCK; None without the marker."""
    restart_interval: int = 0
    """Units between restart markers; 0 for none."""
    scan: Segment | None = None
    """The first start of scan."""
    scan_components: int = 0

    @property
    def subsampled(self) -> bool:
        """Whether a component has fewer samples than another."""
        return len(set(self.sampling)) > 1


def segments(data: bytes) -> Iterator[Segment]:
    """Give each segment up to and with the first start of scan.

    Raises
    ------
    ValueError
        Something else stands where a marker is expected.
    """
    position = 2 if data[:2] == START else 0
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ValueError(f"no JPEG frame header: a marker expected, found {data[position : position + 4].hex(' ')}")
        marker = data[position + 1]
        if marker == END[1]:
            return
        if marker in _BARE or marker == 0xFF:
            position += 1 if marker == 0xFF else 2
            continue
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if stop < position + 4:
            raise ValueError("JPEG marker of no length")
        yield Segment(marker, position, stop)
        if marker == SCAN:
            return
        position = stop


def jpeg_header(data: bytes, tables: bytes | None = None) -> JpegHeader:
    """Return what a JPEG declares of itself.

    Parameters
    ----------
    data
        The file, or as much of it as goes before the pixels.
    tables
        A TIFF's JPEGTables, which are read before it.

    Raises
    ------
    ValueError
        There is no frame header, or an impossible one.
    """
    start = data.find(_START_OF_SCAN)
    header = _remembered(data[: start + 5], tables) if 0 < start < _USUAL_HEAD else None
    if header is None or header.scan is None:  # what looked like a scan was something else
        header = _parse(data, tables)
    if header is None:
        raise ValueError(f"no JPEG frame header: starts with {data[:4].hex(' ')}")
    return header


def _parse(data: bytes, tables: bytes | None) -> JpegHeader | None:
    """Return what the segments up to the first scan say, None where there is no frame header among them."""
    frame: tuple[Any, ...] | None = None
    facts: dict[str, Any] = {}
    for source in (tables or b"", data):
        for segment in segments(source):
            body = source[segment.start + 4 : segment.stop]
            if segment.marker in _FRAMES and frame is None:
                frame = _frame(segment.marker, body)
            elif segment.marker == ADOBE and body[:5] == b"Adobe" and len(body) >= 12:
                facts["adobe"] = body[11]
            elif segment.marker == JFIF and body[:4] == b"JFIF":
                facts["jfif"] = True
            elif segment.marker == RESTART_INTERVAL and len(body) >= 2:
                facts["restart_interval"] = int.from_bytes(body[:2], "big")
            elif segment.marker == SCAN:
                facts |= {"scan": segment, "scan_components": body[0] if body else 0}
    return JpegHeader(*frame, **facts) if frame else None


_remembered = lru_cache(64)(_parse)


def _frame(marker: int, header: bytes) -> tuple[int, int, YX, bytes, tuple[YX, ...], int, int]:
    """Return the first fields of `JpegHeader`."""
    if len(header) < 6 or len(header) < 6 + 3 * header[5]:
        raise ValueError("JPEG frame header cut short")
    bits, height, width, count = struct.unpack(">BHHB", header[:6])
    sampling = tuple(YX(header[7 + 3 * i] & 15, header[7 + 3 * i] >> 4) for i in range(count))
    if not count or not all(0 < factor <= 4 for pair in sampling for factor in pair):
        raise ValueError("JPEG frame header with impossible sampling factors")
    if not height or not width:
        raise ValueError(f"JPEG frame of {width} x {height} px")
    # The only component of a scan is not interleaved: its blocks stand one by one, whatever its factors.
    factors = sampling if count > 1 else (YX(1, 1),)
    down, across = (8 * max(pair[i] for pair in factors) for i in (0, 1))
    units = ceil_div(height, down) * ceil_div(width, across)
    blocks = units * sum(pair.y * pair.x for pair in factors)
    return marker, bits, YX(height, width), header[6 : 6 + 3 * count : 3], sampling, units, blocks


def check_jpeg(payload: bytes, largest: YX, tables: bytes | None = None) -> JpegHeader:
    """Return a JPEG's header; raise where it is cut off, has a hole, or declares more pixels than its tile has.

    A block takes two bits at the least, so that no whole tile holds more zero bytes in a row than that: a longer run
    is a part of the file that was never written. In one scan of Huffman codes no marker stands but restart markers, in
    their number and order; what flipped bits turn into another marker is told by that.

    Raises
    ------
    EOFError
        The end marker is missing or comes early, a stretch of zeros or a marker stands where data were.
    ValueError
        No frame header, or one that declares too large a picture.
    """
    header = jpeg_header(payload, tables)
    if header.size.y > largest.y or header.size.x > largest.x:
        raise ValueError(f"expected a JPEG of {largest.x} x {largest.y} px, found {header.size.x} x {header.size.y}")
    whole = payload.rstrip(b"\0")
    if END not in whole[-_AFTER_END:]:
        raise EOFError("JPEG data end too early")
    if header.frame in SEQUENTIAL:
        if bytes(header.blocks // 4 + 64) in whole:
            raise EOFError("a hole of zero bytes in the JPEG data")
        if header.scan is not None and header.scan_components == len(header.ids):
            _check_scan(whole, header.scan.stop, header)
    return header


def _check_scan(data: bytes, start: int, header: JpegHeader) -> None:
    """Walk the markers of the only scan: restart markers in turn, then the end."""
    restarts = 0
    for found in _MARKER_IN_SCAN.finditer(data, start):
        marker = data[found.end() - 1]
        if marker == END[1]:
            if len(data) - found.end() > _AFTER_END:
                raise EOFError(f"the JPEG ends after {found.end()} of {len(data)} bytes")
            break
        if marker != 0xD0 + restarts % 8 or not header.restart_interval:
            raise EOFError(f"marker ff {marker:02x} inside the JPEG data")
        restarts += 1
    expected = ceil_div(header.units, header.restart_interval) - 1 if header.restart_interval else 0
    if restarts not in {expected, expected + 1}:  # some encoders put one behind the last unit, too
        raise EOFError(f"expected {expected} restart markers, found {restarts}")

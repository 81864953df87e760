"""JPEG tiles as files of their own: tables and colours spliced in, undecoded; or decoded at a part of their size.

A TIFF keeps the JPEG tables in a tag and its tiles without them; `wsi.pixels.colour` tells their colours. With tables
and an Adobe APP14 marker spliced in, a tile is a complete JPEG file which any decoder reads with the right colours.
libjpeg's scaled inverse DCT leaves out the high frequencies in place of averaging them: on stained tissue the result is
within half a grey level of the average in the mean, at about 60 percent of the time for a half and 40 for an eighth.
Sources: ITU-T T.81 annex B, TIFF technical note 2, Adobe TN 5116.
"""

import struct
from functools import lru_cache

import cv2
import numpy as np

from wsi.arrays import RGB
from wsi.pixels.colour import jpeg_space
from wsi.pixels.jpeg import END, START, check_jpeg, jpeg_header, segments
from wsi.units import YX

TRANSFORM = {"RGB": 0, "YCBCR": 1}
"""Adobe's colour transform byte by the colours of the data: those that can be copied."""
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive Huffman frames."""
_KEPT = frozenset({0xDB, 0xC4, 0xDD}) | _FRAMES
"""Segments that decoding needs: tables, restart interval, frame. Application data and comments stay behind."""
_FLAGS = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
REDUCTIONS = tuple(_FLAGS)
"""How many times smaller a JPEG can be decoded."""


def complete_jpeg(payload: bytes, tables: bytes | None, tag: str, size: YX) -> bytes:
    """Return a tile's JPEG data as a complete file: tables and an Adobe marker spliced in, damage looked for.

    Parameters
    ----------
    payload
        The tile as it lies in the slide.
    tables
        The TIFF's JPEGTables tag, None where each tile carries its own.
    tag
        ``RGB`` or ``YCBCR``, what the slide says of the colours; the data themselves may say better.
    size
        Expected height and width.

    Raises
    ------
    EOFError, ValueError
        The data are cut short, have a hole, or are no colour JPEG of that size.
    """
    end = payload.rfind(END)
    if payload[:2] != START or end < 0:
        raise ValueError("not a whole JPEG")
    header = jpeg_header(payload, tables)
    if header.frame not in _FRAMES or (header.bits, *header.size, len(header.ids)) != (8, *size, 3):
        found = f"{len(header.ids)} components of {header.bits} bits, {header.size.x} x {header.size.y}"
        raise ValueError(f"JPEG frame of {found}: expected 3 of 8 bits, {size.x} x {size.y}")
    if header.scan is None:
        raise ValueError("JPEG without a scan")
    check_jpeg(payload, size, tables)
    head = _complete_head(payload[: header.scan.stop], tables, TRANSFORM[jpeg_space(header, tag)])
    return head + payload[header.scan.start : end + 2]


@lru_cache(64)
def _complete_head(head: bytes, tables: bytes | None, transform: int) -> bytes:
    """Return what goes before the scan: the tiles of a level have one head, and joining it costs more than copying."""
    adobe = b"\xff\xee" + struct.pack(">H5sHHHB", 14, b"Adobe", 100, 0, 0, transform)
    kept = [
        source[each.start : each.stop]
        for source in (tables or b"", head)
        for each in segments(source)
        if each.marker in _KEPT
    ]
    return b"".join([START, adobe, *kept])


def reduced_jpeg(file: bytes, reduction: int) -> RGB:
    """Decode a complete JPEG file at a part of its size, uint8 (h / reduction, w / reduction, 3)."""
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), _FLAGS[reduction])
    if pixels is None:
        raise ValueError("JPEG cannot be decoded")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)

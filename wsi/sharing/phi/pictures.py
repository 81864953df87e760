"""What stands in pictures beside their pixels: chunks of PNG, segments of JPEG, ICC profiles.

Sources: W3C PNG (third edition); ITU-T T.81; ICC.1:2022.
"""

import re
import struct
import zlib
from pathlib import PurePosixPath
from typing import BinaryIO

from PIL import Image

from wsi.pixels.jpeg import ADOBE, END, JFIF, segments
from wsi.sharing.phi.texts import MOST_UNPACKED, Found, Place, Remark, binary_text
from wsi.sharing.phi.written import written_in

_PRIVATE = re.compile(r"(?:^|[^a-z])(?:label|macro|barcode|slide[ _-]?photo)s?(?:[^a-z]|$|[ _-]?image)", re.IGNORECASE)
_PIXELS = {b"IHDR", b"IDAT", b"PLTE", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"sBIT", b"bKGD", b"hIST"}
_DECODING = frozenset({0xDB, 0xC4, 0xDD, 0xDA, *range(0xC0, 0xD0)})
_START = re.compile(rb"\xff\xd8\xff")
_MOST_HEADS = 100_000
"""JPEG files inside one file whose segments are walked."""


def shows_label(name: str) -> bool:
    """Tell whether a picture's name says that it shows a slide's label or the whole glass with it."""
    return bool(_PRIVATE.search(name))


def named_so(file: BinaryIO, name: str) -> Found:
    """Yield a remark where a picture's file is named as one of a label, and what is written in it."""
    if shows_label(PurePosixPath(name).stem):
        yield Remark("name", "a picture of a label or of the whole glass")
        yield from written_in(lambda: Image.open(file).convert("RGB"), "a label")
        file.seek(0)


def png_places(file: BinaryIO, name: str) -> Found:
    """Yield the texts of a PNG's chunks, and what lies behind its end."""
    yield from named_so(file, name)
    data, position = file.read(), 8
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + size]
        where = f"chunk {kind.decode('latin-1')}"
        if kind == b"tIME":
            yield Remark(where, "the time when it was made")
        elif kind not in _PIXELS:
            yield Place(where, binary_text(body + b"\n" + _inflated(body)))
        position += 12 + size
        if kind == b"IEND":
            break
    if rest := data[position:]:
        yield Place("behind its end", binary_text(rest))


def _inflated(body: bytes) -> bytes:
    """Return what is packed behind the keyword of a chunk of zTXt, iTXt or iCCP."""
    found = b""
    for start in {i for i in range(min(len(body), 512)) if body[i : i + 1] == b"\x78"}:
        try:
            found += zlib.decompressobj().decompress(body[start:], MOST_UNPACKED)
        except zlib.error:
            continue
    return found


def jpeg_places(file: BinaryIO, name: str) -> Found:
    """Yield comments and application data of a JPEG, and of each that follows it in one file, as in a shard."""
    yield from named_so(file, name)
    data, told, number = file.read(), set[bytes](), 0
    for number, match in enumerate(_START.finditer(data)):
        if number >= _MOST_HEADS:
            break
        try:
            found = list(segments(data[match.start() : match.start() + (1 << 20)]))
        except ValueError:
            continue
        for each in found:
            body = data[match.start() + each.start + 4 : match.start() + each.stop]
            plain = (each.marker == JFIF and len(body) == 14) or (each.marker == ADOBE and len(body) == 12)
            if each.marker in _DECODING or plain or body in told:
                continue
            told.add(body)
            kind = "comment" if each.marker == 0xFE else f"segment APP{each.marker - 0xE0}"
            yield Place(f"{kind} of JPEG {number + 1}", binary_text(body))
    if number == 0 and (rest := data[data.rfind(END) + 2 :]):
        yield Place("behind its end", binary_text(rest))


def icc_places(file: BinaryIO, name: str) -> Found:
    """Yield the words of an ICC profile; its date is a remark."""
    data = file.read()
    yield Place("ICC profile", binary_text(data))
    if any(data[24:36]):
        yield Remark("ICC profile", "the date when it was made")

"""Where words can stand in a file: its name, its text, and the metadata of the kinds of files that we know.

What is packed is unpacked, what is embedded is looked into as a file of its own, to a bounded depth and size.
"""

import base64
import binascii
import gzip
import html
import io
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO
from urllib.parse import unquote

import numcodecs.zstd

from wsi.errors import described, says_damage
from wsi.sharing.phi import dicom, hdf5, pictures, tiff
from wsi.sharing.phi.texts import MOST_UNPACKED, PRINTABLE, Found, Place, Remark, Unpacked, as_text, binary_text

_DEEPEST = 4
_ZSTD = b"\x28\xb5\x2f\xfd"
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4}){3,}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?|(?:[A-Za-z0-9_-]{4}){5,}")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\([/\"\\])")


Reader = Callable[[BinaryIO, str], Found]


def places(file: BinaryIO, name: str, depth: int = 0) -> Found:
    """Yield every text of an open file; ``name`` tells kinds apart that look alike.

    Containers are read where they say something, everything else whole: texts, pictures, packed files.
    """
    head = file.read(132)
    file.seek(0)
    readers: tuple[tuple[bool, Reader], ...] = (
        (head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), tiff.places),
        (head.startswith(b"\x89PNG\r\n"), pictures.png_places),
        (head.startswith(b"\xff\xd8\xff"), pictures.jpeg_places),
        (head.startswith(b"\x89HDF\r\n"), hdf5.places),
        (head[128:132] == b"DICM", dicom.places),
        (head[36:40] == b"acsp", pictures.icc_places),
    )
    reader = next((reader for fits, reader in readers if fits), None)
    if reader is not None:
        yield from _guarded(reader, file, name, depth)
    elif head.startswith(_ZSTD) and file.seek(0, 2) > MOST_UNPACKED // 8:
        return  # a shard: chunks of pixels
    else:
        file.seek(0)
        yield from _of_bytes(file.read(), name, depth)


def _of_bytes(data: bytes, name: str, depth: int) -> Found:
    """Yield the texts of what is no container: something packed, a text, or anything else."""
    if depth < _DEEPEST and (inner := unpacked(data)) is not None:
        for part, content in inner:
            yield Place(f"name {part}", part)
            within = places(io.BytesIO(content), part or name, depth + 1)
            yield from (_within(found, part or "unpacked") for found in within)
    elif (text := as_text(data)) is not None:
        yield from _of_text(text, name, depth)
    elif data[8:10] == b'{"':  # safetensors
        yield Place("header", data[8 : 8 + int.from_bytes(data[:8], "little")].decode("utf-8", "replace"), json=True)
    elif depth:
        yield Unpacked("", data)


def _guarded(reader: Reader, file: BinaryIO, name: str, depth: int) -> Found:
    """Yield what a reader finds; of a file that it cannot parse, whatever can be read."""
    try:
        for found in reader(file, name):
            yield found
            if isinstance(found, Place) and depth < _DEEPEST:
                yield from _embedded(found.text, found.where, depth)
    except Exception as error:  # parsers raise nearly anything on broken files
        if not says_damage(error):
            raise
        yield Remark("", f"it cannot be read as what it seems to be ({described(error)}): see what is in it")
        file.seek(0)
        yield Place("bytes", binary_text(file.read(MOST_UNPACKED)))


def _within(found: Place | Remark | Unpacked, part: str) -> Place | Remark | Unpacked:
    return replace(found, where=f"{part}: {found.where}" if found.where else part)


def unpacked(data: bytes) -> list[tuple[str, bytes]] | None:
    """Return name and content of what is packed in a file (gzip, zlib, zstd, zip); None where nothing is."""
    try:
        if data.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                return [("", file.read(MOST_UNPACKED))]
        if data.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return [(one.filename, archive.open(one).read(MOST_UNPACKED)) for one in archive.infolist()]
        if data.startswith(_ZSTD):
            return [("", bytes(numcodecs.zstd.decompress(data)))]
        if data[:2] in (b"\x78\x01", b"\x78\x9c", b"\x78\xda"):
            return [("", zlib.decompressobj().decompress(data, MOST_UNPACKED))]
    except Exception as error:  # packers raise nearly anything on what only looks packed
        if not says_damage(error):
            raise
    return None


def _of_text(text: str, name: str, depth: int) -> Found:
    """Yield a text as it stands, and what it says once escapes are read."""
    is_json = name.lower().endswith((".json", ".geojson", ".js", ".zattrs", ".zarray", ".ipynb"))
    yield Place("", text, json=is_json)
    if "\\" in text:
        yield Place("", _ESCAPE.sub(_unescaped, text), json=is_json)
    if "&" in text:
        yield Place("", html.unescape(text), json=is_json)
    if "%" in text:
        yield Place("", unquote(text), json=is_json)
    if depth < _DEEPEST:
        yield from _embedded(text, "", depth)


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1] or match[2], 16)) if match[1] or match[2] else match[3]


def _embedded(text: str, where: str, depth: int) -> Found:
    """Yield what stands in base64 inside a text: other texts, and files."""
    for match in _BASE64.finditer(text):
        coded = match[0].replace("-", "+").replace("_", "/")
        try:
            data = base64.b64decode(coded + "=" * (-len(coded) % 4))
        except binascii.Error:
            continue
        known = data[:4] in (b"\x89PNG", b"II*\0", b"MM\0*", b"\x89HDF") or data[:3] in (
            b"\xff\xd8\xff",
            b"\x1f\x8b\x08",
        )
        if known or (data.isascii() and as_text(data) is not None and len(data.translate(None, PRINTABLE)) == 0):
            yield from (_within(found, f"{where} base64".strip()) for found in places(io.BytesIO(data), "", depth + 1))

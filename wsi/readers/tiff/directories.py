"""The chain of a TIFF's directories, walked by hand before any library trusts it.

Libraries allocate what a tag declares; OpenSlide ends the whole process when that fails. Source: TIFF 6.0, BigTIFF.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wsi.errors import UnreadableSlideError

_CHAIN_LIMIT = 100_000
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TILE_WIDTH, _TILE_LENGTH, _TILE_BYTE_COUNTS = 322, 323, 325
_INTEGERS = {3: "H", 4: "I", 16: "Q"}
_MAX_TILE_PX = 1 << 27
_CLASSIC_LIMIT = 1 << 32
"""A classic TIFF beyond this is an NDPI, whose offsets have more bits than the standard gives them."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How directories are written: classic or big, and in which byte order."""

    order: str
    count: str
    entry: int
    offset: str

    def number(self, data: bytes, kind: str) -> int:
        return int(struct.unpack(self.order + kind, data)[0])


def lost_directory(path: Path, *, check_tiles: bool = False) -> int:
    """Return the offset of the first directory that lies outside the file, 0 where there is none or it is no TIFF.

    Parameters
    ----------
    path
        Of any file.
    check_tiles
        Refuse tiles of more bytes than the file has, or of absurd size, too: for libraries that trust them.

    Raises
    ------
    UnreadableSlideError
        A tag declares more bytes than the file has.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        form = _form(head)
        if form is None or len(head) < 16 or (form.offset == "I" and size >= _CLASSIC_LIMIT):
            return 0
        offset = form.number(head[8:16] if form.offset == "Q" else head[4:8], form.offset)
        seen: set[int] = set()
        while offset and offset not in seen and len(seen) < _CHAIN_LIMIT:
            seen.add(offset)
            if offset + 2 > size:
                return offset
            file.seek(offset)
            directory = _directory(file, form, size)
            if directory is None:
                return offset
            offset, entries = directory
            if check_tiles:
                _check_tiles(file, form, size, entries)
    return 0


def _form(head: bytes) -> _Form | None:
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 4:
        return None
    version = struct.unpack(f"{order}H", head[2:4])[0]
    if version == 43:
        return _Form(order, "Q", 20, "Q")
    return _Form(order, "H", 12, "I") if version == 42 else None


def _directory(file: BinaryIO, form: _Form, size: int) -> tuple[int, dict[int, tuple[int, int, bytes]]] | None:
    """Read the directory at the file's position.

    Returns the next one's offset and (type, count, value or offset) of each tag; None where the file ends before.
    """
    head = file.read(struct.calcsize("<" + form.count))
    if len(head) < struct.calcsize("<" + form.count):
        return None
    length = form.number(head, form.count) * form.entry
    width = struct.calcsize("<" + form.offset)
    if file.tell() + length + width > size:
        return None
    data = file.read(length)
    entries = {}
    for start in range(0, length, form.entry):
        tag, kind = struct.unpack(form.order + "HH", data[start : start + 4])
        count = form.number(data[start + 4 : start + 4 + width], form.offset)
        if count * _TYPE_BYTES.get(kind, 1) > size:
            raise UnreadableSlideError(f"broken TIFF (tag {tag} declares {count} values in a file of {size} bytes)")
        entries[tag] = (kind, count, data[start + 4 + width : start + form.entry])
    return form.number(file.read(width), form.offset), entries


def _check_tiles(file: BinaryIO, form: _Form, size: int, entries: dict[int, tuple[int, int, bytes]]) -> None:
    height, width, largest = (
        max(_values(file, form, entries.get(tag)), default=0) for tag in (_TILE_LENGTH, _TILE_WIDTH, _TILE_BYTE_COUNTS)
    )
    if height * width > _MAX_TILE_PX or largest > size:
        raise UnreadableSlideError(f"broken TIFF (tiles of {width} x {height} px and up to {largest} bytes)")


def _values(file: BinaryIO, form: _Form, entry: tuple[int, int, bytes] | None) -> tuple[int, ...]:
    kind, count, data = entry or (0, 0, b"")
    if kind not in _INTEGERS or not count:
        return ()
    length = count * _TYPE_BYTES[kind]
    if length > len(data):
        start = form.number(data, form.offset)
        if start + length > file.seek(0, 2):
            return ()
        file.seek(start)
        data = file.read(length)
    whole = len(data[:length]) // _TYPE_BYTES[kind]
    return struct.unpack(f"{form.order}{whole}{_INTEGERS[kind]}", data[: whole * _TYPE_BYTES[kind]])

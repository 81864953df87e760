"""HDF5 files that may come from elsewhere: the one place that opens them, and whose attributes may be read.

HDF5 copies a text of variable length as its global heap has it into room of the length that the attribute states, and
steps through a heap by the sizes in it: with one wrong byte it writes past that room, or never ends. So lengths are
checked before HDF5 believes them. Source: HDF5 File Format Specification 3.0, IV.A (object headers) and III.E (global
heap).
"""

import struct
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from wsi.files.hdf5_apart import Read, messages_apart

_ATTRIBUTE, _CONTINUED, _APART = 0x0C, 0x10, 0x15
_COMPOUND, _VARIABLE, _ARRAY = 6, 9, 10
"""Classes of types; the values of `_VARIABLE` lie in a heap."""
_FORMS = frozenset({0, 1})
"""Sequences and texts."""
_LARGEST = 32 << 20
"""Bytes of a header's block or of a heap."""
_MOST_BLOCKS = 64
_HEAP = b"GCOL\1\0\0\0"
_BLOCK = 8 << 20


def open_hdf5(file: Path | BinaryIO) -> Any:
    """Open for reading; what HDF5 says of malformed content is an `OSError` or nearly anything else."""
    return h5py.File(file, "r", locking=False)  # noqa: TID251 -- the one place


def attributes_of(owner: h5py.Group | h5py.Dataset, raw: BinaryIO | None = None) -> Any:
    """Return an object's attributes, of which each can be read.

    Parameters
    ----------
    owner
        Of an open file.
    raw
        That file, where it has no name.

    Raises
    ------
    ValueError
        The length that an attribute states for its text is not that of the text in the heap, or cannot be told.
    """
    file = owner.file
    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise ValueError("texts: expected addresses of 8 bytes")
    with nullcontext(raw) if raw is not None else open(file.filename, "rb") as bytes_of_file:
        try:
            _check(owner, partial(_read, bytes_of_file, file.userblock_size))
        except (ValueError, struct.error, IndexError, OverflowError) as error:
            raise ValueError(f"texts: {error}") from None
    return owner.attrs


def heap_contents(raw: BinaryIO) -> Iterator[bytes]:
    """Give what the heaps of a file hold, whoever it belongs to; HDF5 is not asked."""
    for start in range(0, raw.seek(0, 2), _BLOCK):
        block, at = _read(raw, 0, start, _BLOCK + len(_HEAP) - 1), -1
        while (at := block.find(_HEAP, at + 1)) >= 0:
            for index, address, size in _objects(partial(_read, raw, 0), start + at):
                if index:
                    yield _read(raw, 0, address, size)


def _read(raw: BinaryIO, base: int, address: int, count: int) -> bytes:
    if not 0 <= count <= _LARGEST or address < 0:
        raise ValueError(f"a block of {count} bytes at {address}")
    raw.seek(base + address)
    return raw.read(count)


def _check(owner: h5py.Group | h5py.Dataset, read: Read) -> None:
    heaps: dict[int, dict[int, int]] = {}
    for message in _attributes(read, h5py.h5o.get_info(owner.id).addr):
        for name, length, heap, index in _texts(owner, message):
            if heap not in heaps:
                heaps[heap] = {own: size for own, _, size in reversed([*_objects(read, heap)])}
            held = heaps[heap]
            if index and held.get(index) != length:
                raise ValueError(f"attribute {name[:60]!r} states {length} bytes, there are {held.get(index, 0)}")


def _attributes(read: Read, address: int) -> Iterator[bytes]:
    """Give the messages of an object's attributes, wherever they lie."""
    for kind, flags, message in _messages(read, address):
        if kind == _ATTRIBUTE and flags & 2:
            raise ValueError("an attribute that objects share")
        if kind == _ATTRIBUTE:
            yield message
        elif kind == _APART:
            heap, tree = struct.unpack_from("<QQ", message, 2 + 2 * (message[1] & 1))
            yield from messages_apart(read, heap, tree)


def _texts(owner: h5py.Group | h5py.Dataset, message: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Give (attribute, bytes, address of the heap, place in it) of an attribute's values of variable length."""
    version, shared, name_size, type_size, space_size = struct.unpack_from("<BBHHH", message)
    start, pad = (8, 8) if version == 1 else (8 + (version == 3), 1)
    sizes = [-(-size // pad) * pad for size in (name_size, type_size, space_size)]
    kind, form = (own & 15 for own in message[start + sizes[0] : start + sizes[0] + 2])
    stored = message[start : start + name_size].rstrip(b"\0")
    name = stored.decode("utf-8", "replace")
    inner = message[start + sizes[0] + 8] & 15 if kind == _VARIABLE and not shared & 1 else 0
    if shared & 1 or kind in (_COMPOUND, _ARRAY) or inner in (_COMPOUND, _VARIABLE, _ARRAY):
        if h5py.h5a.open(owner.id, stored).dtype.hasobject:
            raise ValueError(f"attribute {name[:60]!r} is of a type whose lengths cannot be checked")
    elif kind == _VARIABLE:
        if form not in _FORMS:
            raise ValueError(f"attribute {name[:60]!r} is of no known type")
        (each,) = struct.unpack_from("<I", message, start + sizes[0] + 12)
        values = message[start + sum(sizes) :]
        for place in range(0, len(values) - 15, 16):
            length, heap, index = struct.unpack_from("<IQI", values, place)
            yield name, length * each, heap, index


def _messages(read: Read, address: int) -> Iterator[tuple[int, int, bytes]]:
    """Give (kind, flags, content) of the messages of an object's header, of either version."""
    head = read(address, 64)
    newer = head[:4] == b"OHDR"
    if newer:
        start = 6 + 16 * bool(head[5] & 0x20) + 4 * bool(head[5] & 0x10)
        width = 1 << (head[5] & 3)
        blocks = [(address + start + width, int.from_bytes(head[start : start + width], "little"))]
    else:
        blocks = [(address + 16, struct.unpack_from("<I", head, 8)[0])]
    first = (4 + 2 * bool(head[5] & 4)) if newer else 8
    for number, (place, size) in enumerate(blocks):
        if number == _MOST_BLOCKS:
            raise ValueError("a header without an end")
        block, at = read(place, size), 0
        if newer and number:
            block, at = block[:-4], 4
        while at + first <= len(block):
            kind, length, flags = struct.unpack_from("<BHB" if newer else "<HHB", block, at)
            message = block[at + first : at + first + length]
            if kind == _CONTINUED:
                blocks.append(struct.unpack_from("<QQ", message))
            yield kind, flags, message
            at += first + length


def _objects(read: Read, address: int) -> Iterator[tuple[int, int, int]]:
    """Give (index, address, size) of the objects of a heap."""
    head = read(address, 16)
    if head[:4] != _HEAP[:4]:
        raise ValueError(f"no heap at {address}")
    heap, at = read(address, struct.unpack_from("<Q", head, 8)[0]), 16
    while at + 16 <= len(heap):
        index, size = struct.unpack_from("<H6xQ", heap, at)
        if not index and not size:
            raise ValueError(f"a heap without an end at {address}")
        yield index, address + at + 16, size
        at += 16 + -(-size // 8) * 8 if index else size

"""Texts of HDF5 attributes, whose lengths are checked before HDF5 believes them.

HDF5 copies a text of variable length as its global heap has it into room of the length that the attribute states, and
steps through a heap by the sizes in it: with one wrong byte it writes past that room, or never ends. Source: HDF5 File
Format Specification 3.0, IV.A (object headers) and III.E (global heap).
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py

from wsi.errors import BagError

_Read = Callable[[int, int], bytes]
"""Gives bytes of the file from an address on, fewer where it ends."""
_ATTRIBUTE, _CONTINUED = 0x0C, 0x10
_VARIABLE = 9
"""Class of a type whose values lie in a heap."""
_FORMS = frozenset({0, 1})
"""Sequences and texts."""
_LARGEST = 32 << 20
"""Bytes of a header's block or of a heap."""
_MOST_BLOCKS = 64


def check_texts(owner: h5py.Group | h5py.Dataset, path: Path) -> None:
    """Raise `BagError` where the length that an attribute states for its text is not that of the text in the heap.

    Attributes that lie apart from their object's header (more than eight, in a file of HDF5's newer versions or one
    that keeps their order) are left to HDF5.
    """
    file = owner.file
    with open(file.filename, "rb") as raw:

        def read(address: int, count: int) -> bytes:
            if not 0 <= count <= _LARGEST or address < 0:
                raise ValueError(f"a block of {count} bytes at {address}")
            raw.seek(address + file.userblock_size)
            return raw.read(count)

        try:
            heaps: dict[int, dict[int, int]] = {}
            for name, length, heap, index in _texts(read, h5py.h5o.get_info(owner.id).addr):
                held = heaps[heap] if heap in heaps else heaps.setdefault(heap, _sizes(read, heap))
                if index and held.get(index) != length:
                    raise ValueError(f"attribute {name[:60]!r} states {length} bytes, there are {held.get(index, 0)}")
        except (ValueError, struct.error, IndexError, OverflowError) as error:
            raise BagError(
                f"{path}: expected a whole HDF5 file, cannot read it (texts: {error}): extract it again"
            ) from None


def _texts(read: _Read, address: int) -> Iterator[tuple[str, int, int, int]]:
    """Give (attribute, bytes, address of the heap, place in it) of an object's values of variable length."""
    for kind, flags, message in _messages(read, address):
        if kind != _ATTRIBUTE or flags & 2:
            continue
        version, shared, name_size, type_size, space_size = struct.unpack_from("<BBHHH", message)
        start, pad = (8, 8) if version == 1 else (8 + (version == 3), 1)
        sizes = [-(-size // pad) * pad for size in (name_size, type_size, space_size)]
        kind_of_type, form = message[start + sizes[0] : start + sizes[0] + 2]
        if shared & 1 or kind_of_type & 15 != _VARIABLE:
            continue
        name = message[start : start + name_size].rstrip(b"\0").decode("utf-8", "replace")
        if form & 15 not in _FORMS:
            raise ValueError(f"attribute {name[:60]!r} is of no known type")
        (each,) = struct.unpack_from("<I", message, start + sizes[0] + 12)
        values = message[start + sum(sizes) :]
        for place in range(0, len(values) - 15, 16):
            length, heap, index = struct.unpack_from("<IQI", values, place)
            yield name, length * each, heap, index


def _messages(read: _Read, address: int) -> Iterator[tuple[int, int, bytes]]:
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


def _sizes(read: _Read, address: int) -> dict[int, int]:
    """Return the size of each object of a heap."""
    head = read(address, 16)
    if head[:4] != b"GCOL":
        raise ValueError(f"no heap at {address}")
    heap, at, found = read(address, struct.unpack_from("<Q", head, 8)[0]), 16, dict[int, int]()
    while at + 16 <= len(heap):
        index, size = struct.unpack_from("<H6xQ", heap, at)
        if not index and not size:
            raise ValueError(f"a heap without an end at {address}")
        found.setdefault(index, size)
        at += 16 + -(-size // 8) * 8 if index else size
    return found

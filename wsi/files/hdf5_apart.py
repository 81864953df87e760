"""Attributes that lie apart from their object's header: of files of HDF5's newer versions, or that keep their order.

Such an object has more than eight attributes, or one of more than 64 KiB. A B-tree of version 2 lists them, a fractal
heap holds their messages. Source: HDF5 File Format Specification 3.0, III.A.2 and III.G.
"""

import struct
from collections.abc import Callable, Iterator

Read = Callable[[int, int], bytes]
"""Gives bytes of the file from an address on, fewer where it ends."""
_MANAGED, _HUGE = 0x00, 0x10
"""Kinds of objects, in the first byte of their ids."""
_DEEPEST, _MOST = 8, 1 << 17
"""Levels of a tree or of tables; records in a tree."""
_NODE_BYTES = 10
"""Of a node's head and checksum."""


def messages_apart(read: Read, heap: int, tree: int) -> Iterator[bytes]:
    """Give the messages that a tree lists of a heap.

    Raises
    ------
    ValueError
        They are not as the specification has them.
    """
    if 0xFFFF_FFFF_FFFF_FFFF in (heap, tree):
        return
    held = _Heap(read, heap)
    for record in _records(read, tree):
        yield held.message(record[:8])


class _Heap:
    """A fractal heap: rows of blocks, each row from the third on of blocks of twice the size."""

    def __init__(self, read: Read, address: int) -> None:
        head = read(address, 144)
        if head[:4] != b"FRHP" or head[5:7] != b"\x08\0" or head[7:9] != b"\0\0":
            raise ValueError(f"no heap of attributes at {address}")
        (largest, _, huge) = struct.unpack_from("<IQQ", head, 10)
        self._columns, self._block, self._largest_block, bits, _, self._root, self._rows = struct.unpack_from(
            "<HQQHHQH", head, 110
        )
        self._read, self._offset_bytes = read, -(-bits // 8)
        self._length_bytes = min(_width(largest), _width(self._largest_block - 1))
        many = _records(read, huge) if struct.unpack_from("<Q", head, 78)[0] else ()
        self._huge = {key: (start, count) for start, count, key in (struct.unpack("<QQQ", own) for own in many)}

    def message(self, place: bytes) -> bytes:
        """Return what stands under an id of eight bytes."""
        key = int.from_bytes(place[1:], "little")
        if place[0] == _HUGE and key in self._huge:
            return self._read(*self._huge[key])
        if place[0] != _MANAGED:
            raise ValueError("an attribute at no known place")
        offset = key & (1 << 8 * self._offset_bytes) - 1
        length = (key >> 8 * self._offset_bytes) & (1 << 8 * self._length_bytes) - 1
        return self._read(self._address(offset), length)

    def _address(self, offset: int) -> int:
        """Return where in the file an offset of the heap is."""
        block, is_table, first_row = self._root, self._rows > 0, self._columns * self._block
        for _ in range(_DEEPEST):
            if not is_table:
                return block + offset
            row = (offset // first_row).bit_length()
            size, before = self._block << max(row - 1, 0), first_row << (row - 1) if row else 0
            column, offset = divmod(offset - before, size)
            entry = 13 + self._offset_bytes + 8 * (row * self._columns + column)
            (block,) = struct.unpack("<Q", self._read(block + entry, 8))
            is_table = size > self._largest_block
        raise ValueError("a heap of tables without an end")


def _records(read: Read, address: int) -> Iterator[bytes]:
    """Give the records of a B-tree of version 2, in no order."""
    mark, node_bytes, size, depth, root, count = struct.unpack("<4s2xIHH2xQH", read(address, 26))
    if mark != b"BTHD" or size < 8 or node_bytes < _NODE_BYTES + size or depth > _DEEPEST:
        raise ValueError(f"no tree of attributes at {address}")
    most = (node_bytes - _NODE_BYTES) // size
    count_bytes, pointers = _width(most), [0]
    """Of a child's pointer on each level."""
    below, below_bytes = most, 0
    for _ in range(depth):
        pointers.append(8 + count_bytes + below_bytes)
        here = (node_bytes - _NODE_BYTES - pointers[-1]) // (size + pointers[-1])
        below = (here + 1) * below + here
        below_bytes = _width(below)
    nodes, left = [(root, count, depth)], _MOST
    while nodes:
        place, count, level = nodes.pop()
        left -= count + 1
        if left < 0:
            raise ValueError(f"a tree of more than {_MOST} attributes")
        pointer = pointers[level]
        node = read(place, 6 + count * size + (count + 1) * pointer)
        if node[:4] != (b"BTIN" if level else b"BTLF"):
            raise ValueError(f"no node of a tree at {place}")
        yield from (node[6 + size * own : 6 + size * (own + 1)] for own in range(count))
        for child in range(6 + count * size, len(node) if level else 0, pointer or 1):
            (at,) = struct.unpack_from("<Q", node, child)
            nodes.append((at, int.from_bytes(node[child + 8 : child + 8 + count_bytes], "little"), level - 1))


def _width(most: int) -> int:
    """Return the bytes that a number up to ``most`` is written in."""
    return -(-most.bit_length() // 8)

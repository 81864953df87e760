"""Whole zarr v3 shards, written and read without zarr-python: many compressed chunks and an index in one file.

Layout (zarr v3 `sharding_indexed`): the chunks back to back, then the index (offset and size of every chunk as uint64
little-endian, chunks in C order, 2^64-1 for an absent chunk), then the index's CRC-32C. A shard is written once, whole.
"""

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from wsi.atomic import write_bytes
from wsi.errors import StoreError

ABSENT = 2**64 - 1
"""Offset and size of a chunk that is not there."""


def write_shard(path: Path, chunks: Mapping[int, bytes], n_chunks: int) -> int:
    """Write a shard, whole or not at all; return its size in bytes.

    Parameters
    ----------
    path
        Where; the folder is made.
    chunks
        Compressed chunks by their place in C order. Empty: nothing is written and 0 returned.
    n_chunks
        Number of places in the index.
    """
    if not chunks:
        return 0
    index = np.full((n_chunks, 2), ABSENT, "<u8")
    offset = 0
    for place in sorted(chunks):
        index[place] = offset, len(chunks[place])
        offset += len(chunks[place])
    encoded = index.tobytes()
    checksum = struct.pack("<I", google_crc32c.value(encoded))
    data = b"".join([*(chunks[place] for place in sorted(chunks)), encoded, checksum])
    write_bytes(path, data)
    return len(data)


def shard_index(data: bytes | mmap.mmap, n_chunks: int, path: Path) -> NDArray[np.uint64]:
    """Return the index of a shard, uint64 (n_chunks, 2) of offset and size.

    Raises
    ------
    StoreError
        The shard is cut short, or its index does not match its checksum.
    """
    size = n_chunks * 16
    tail = bytes(data[-size - 4 :]) if len(data) >= size + 4 else b""
    if not tail or struct.unpack("<I", tail[size:])[0] != google_crc32c.value(tail[:size]):
        raise StoreError(f"{path}: the shard's index is damaged: tile the slide again")
    index = np.frombuffer(tail[:size], "<u8").reshape(n_chunks, 2)
    present = index[:, 0] != ABSENT
    if present.any() and int(index[present].sum(axis=1).max()) > len(data) - size - 4:
        raise StoreError(f"{path}: the shard's index points outside the shard: tile the slide again")
    return index


class ShardFile:
    """A shard open for reading, memory-mapped."""

    def __init__(self, path: Path, n_chunks: int) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.index = shard_index(self._data, n_chunks, path)

    def chunk(self, place: int) -> bytes | None:
        """Return a chunk's compressed bytes, None where it is absent."""
        offset, size = (int(value) for value in self.index[place])
        return None if offset == ABSENT else self._data[offset : offset + size]

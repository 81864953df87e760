"""Whole zarr v3 shards, written and read without zarr-python: many compressed chunks and an index in one file.

Layout (zarr v3 `sharding_indexed`): the chunks back to back, then the index (offset and size of every chunk as uint64
little-endian, chunks in C order, 2^64-1 for an absent chunk), then the index's CRC-32C. A shard is written once, whole.
"""

import mmap
import struct
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from wsi.atomic import replacing
from wsi.errors import StoreError
from wsi.regular import open_regular

ABSENT = 2**64 - 1
"""Offset and size of a chunk that is not there."""
_OPEN_SHARDS = 128
"""Shards that a process keeps mapped; each holds one file descriptor."""


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
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines([*(chunks[place] for place in sorted(chunks)), encoded, checksum])
    return offset + len(encoded) + len(checksum)


def parse_index(tail: bytes, n_chunks: int, name: str) -> NDArray[np.uint64]:
    """Return the index at the end of a shard, uint64 (n_chunks, 2) of offset and size.

    Parameters
    ----------
    tail
        The shard's last ``16 * n_chunks + 4`` bytes.
    name
        The shard's, for messages.

    Raises
    ------
    StoreError
        The shard is cut short, or its index does not match its checksum.
    """
    size = n_chunks * 16
    if len(tail) != size + 4 or struct.unpack("<I", tail[size:])[0] != google_crc32c.value(tail[:size]):
        raise StoreError(f"{name}: the shard's index is damaged: tile the slide again")
    return np.frombuffer(tail[:size], "<u8").reshape(n_chunks, 2)


def shard_index(data: bytes | mmap.mmap, n_chunks: int, name: str) -> NDArray[np.uint64]:
    """Return the index of a whole shard, uint64 (n_chunks, 2) of offset and size.

    Raises
    ------
    StoreError
        The index is damaged, or it points outside the shard.
    """
    size = n_chunks * 16 + 4
    index = parse_index(bytes(data[max(0, len(data) - size) :]), n_chunks, name)
    offsets, sizes = index[index[:, 0] != ABSENT].T
    room = np.uint64(len(data) - size)
    if (sizes > room).any() or (offsets > room - np.minimum(sizes, room)).any():
        raise StoreError(f"{name}: the shard's index points outside the shard: tile the slide again")
    return index


class ShardFile:
    """A shard open for reading, memory-mapped."""

    def __init__(self, path: Path, n_chunks: int) -> None:
        with open_regular(path) as file:
            try:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise StoreError(f"{path}: the shard's index is damaged (empty file): tile the slide again") from None
        self.index = shard_index(self._data, n_chunks, str(path))
        self._places: list[tuple[int, int]] = self.index.tolist()
        self._view = memoryview(self._data)

    def view(self, place: int) -> memoryview | None:
        """Return a chunk's compressed bytes as they lie in the file, None where it is absent; nothing is copied."""
        offset, size = self._places[place]
        return None if offset == ABSENT else self._view[offset : offset + size]

    def chunk(self, place: int) -> bytes | None:
        """Return a copy of a chunk's compressed bytes, None where it is absent."""
        view = self.view(place)
        return None if view is None else bytes(view)


@lru_cache(maxsize=_OPEN_SHARDS)
def open_shard(path: str, n_chunks: int, _stamp: tuple[int, int]) -> ShardFile:
    """Return a shard open for reading; the process keeps the last ones mapped.

    Maps stay valid in forked children. ``_stamp`` keeps the shards of a store apart from those of the store that was
    at the path before.
    """
    return ShardFile(Path(path), n_chunks)

"""Whole zarr v3 shards, written and read without zarr-python: many compressed chunks and an index in one file.

Layout (zarr v3 `sharding_indexed`): the chunks back to back, then the index (offset and size of every chunk as uint64
little-endian, chunks in C order, 2^64-1 for an absent chunk), then the index's CRC-32C. A shard is written once, whole.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from wsi.errors import StoreError
from wsi.files.atomic import replacing
from wsi.files.regular import open_regular
from wsi.files.replace import remove

ABSENT = 2**64 - 1
"""Offset and size of a chunk that is not there."""
_OPEN_SHARDS = 128
"""Shards that a process keeps mapped; each holds one file descriptor."""


class ShardWriter:
    """A shard that is being written, chunk by chunk, so that no more than one of them is in memory."""

    def __init__(self, path: Path, n_chunks: int, opened: ExitStack) -> None:
        self._path = path
        self._opened = opened
        self._file: BinaryIO | None = None
        self._index = np.full((n_chunks, 2), ABSENT, "<u8")
        self.size = 0
        """Bytes written."""

    def put(self, place: int, data: bytes | memoryview) -> None:
        """Append a compressed chunk; ``place`` is its own in C order."""
        if self._file is None:
            self._file = self._opened.enter_context(self._opened.enter_context(replacing(self._path)).open("wb"))
        self._file.write(data)
        self._index[place] = self.size, len(data)
        self.size += len(data)

    @property
    def kept(self) -> list[int]:
        """Places of the chunks that were put in, in C order."""
        places: list[int] = np.flatnonzero(self._index[:, 0] != ABSENT).tolist()
        return places

    def end(self) -> None:
        """Append the index, where there is any chunk."""
        if self._file is not None:
            encoded = self._index.tobytes()
            self.size += self._file.write(encoded + struct.pack("<I", google_crc32c.value(encoded)))


@contextmanager
def writing_shard(path: Path, n_chunks: int) -> Iterator[ShardWriter]:
    """Give a writer; when the block ends without an error the shard is whole. Without chunks there is no file.

    Parameters
    ----------
    path
        Where; the folder is made. A shard that is there already is replaced, or removed where no chunk comes.
    n_chunks
        Number of places in the index.
    """
    with ExitStack() as opened:
        writer = ShardWriter(path, n_chunks, opened)
        yield writer
        writer.end()
    if not writer.size:
        remove(path)  # whatever is in it: the caller owns the store


def write_shard(path: Path, chunks: Mapping[int, bytes], n_chunks: int) -> int:
    """Write a shard of chunks by their place, as `writing_shard` does; return its size in bytes, 0 without chunks."""
    with writing_shard(path, n_chunks) as writer:
        for place in sorted(chunks):
            writer.put(place, chunks[place])
    return writer.size


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
def open_shard(path: Path, n_chunks: int, _stamp: tuple[int, int]) -> ShardFile:
    """Return a shard open for reading; the process keeps the last ones mapped.

    Maps stay valid in forked children. ``_stamp`` keeps the shards of a store apart from those of the store that was
    at the path before.
    """
    return ShardFile(path, n_chunks)

"""A store in an object store (``s3://``, ``memory://``, whatever fsspec knows), read by byte ranges.

Of a shard only its index (the last 16 bytes per chunk, plus the checksum) and the chunks asked for are fetched;
neighbouring chunks come in one request, and requests run side by side.
"""

import errno
import json
import math
import os
from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
from fsspec.utils import merge_offset_ranges
from numpy.typing import NDArray

from wsi.errors import RemoteError, RequestError, StoreError
from wsi.remote.connection import failure, is_absence, open_filesystem
from wsi.remote.patience import may_pass, patiently
from wsi.remote.place import Place
from wsi.store.folder import Bytes, Location, Options
from wsi.store.shards import ABSENT, parse_index
from wsi.units import ceil_div

_GAP = 32 << 10
"""Bytes between two chunks that are rather fetched along than asked for by a request of their own."""
_REQUEST = 8 << 20
"""Most bytes of one merged request."""
_MOST_CHUNKS = 1 << 14
"""Chunks of an array that is read whole."""
_INDEXES = 4096
"""Shard indexes kept; 4 kB each."""

Range = tuple[str, int, int | None]
"""Key, first byte (negative: so many from the end), end (None: to the end)."""
Part = tuple[str, int, int]
"""Key, first byte, end."""


class RemoteFolder:
    """One store behind a URL. Picklable and safe across fork: each process opens its own connections."""

    def __init__(self, url: str, options: Options | None = None) -> None:
        self.location: Location = url
        self._url = url
        self._options = dict(options or {})
        self._indexes: dict[str, NDArray[np.uint64] | None] = {}
        self._opened: tuple[int, Any, str] | None = None

    def __reduce__(self) -> tuple[type["RemoteFolder"], tuple[str, dict[str, Any]]]:
        return RemoteFolder, (self._url, self._options)

    def _filesystem(self) -> tuple[Any, str]:
        """Return fsspec's file system and the store's path in it, as opened by this process."""
        if self._opened is None or self._opened[0] != os.getpid():
            with _told_as_store_error():
                self._opened = (os.getpid(), *open_filesystem(self._url, self._options))
        return self._opened[1], self._opened[2]

    def _get(self, ranges: Sequence[Range]) -> list[bytes | None]:
        """Fetch byte ranges side by side; None where there is no such object."""
        if not ranges:
            return []
        found: list[Any] = [None] * len(ranges)
        left = list(range(len(ranges)))

        def ask() -> None:
            filesystem, root = self._filesystem()
            keys, starts, ends = zip(*(ranges[i] for i in left), strict=True)
            paths = [f"{root}/{key}" for key in keys]
            came = filesystem.cat_ranges(paths, list(starts), list(ends), on_error="return")
            for i, data in zip(list(left), came, strict=True):
                found[i] = _checked(ranges[i], data)
                if not may_pass(found[i] if isinstance(found[i], BaseException) else None):
                    left.remove(i)
            if left:
                raise found[left[0]]

        try:
            patiently(ask)
        except Exception as error:
            raise _store_error(f"{self._url}/{ranges[left[0]][0]}", error) from None
        for (key, _, _), data in zip(ranges, found, strict=True):
            if isinstance(data, BaseException) and not _is_absent(data):
                raise _store_error(f"{self._url}/{key}", data) from None
        return [None if isinstance(data, BaseException) else bytes(data) for data in found]

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._get([(key, 0, None) for key in keys])  # from byte 0 on: saves a request for the size

    def size(self, key: str) -> int | None:
        """Return a file's size in bytes, None where there is no such file."""
        with _told_as_store_error():
            found = Place(self._url, self._options).info(key)
        return found.size if found else None

    def part(self, key: str, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) of a file; `StoreError` where it does not hold them."""
        (data,) = self._get([(key, start, stop)])
        if data is None or len(data) != stop - start:
            raise StoreError(f"{self._url}/{key}: the file is cut short: copy the store again")
        return data

    def chunks(self, wanted: Sequence[tuple[str, int]], n_chunks: int) -> list[Bytes | None]:
        indexes = self._read_indexes(list(dict.fromkeys(key for key, _ in wanted)), n_chunks)
        places: list[Part | None] = []
        for key, place in wanted:
            index = indexes[key]
            offset, size = (ABSENT, 0) if index is None else index[place].tolist()
            places.append(None if offset == ABSENT else (key, offset, offset + size))
        merged = coalesce(sorted({place for place in places if place}))
        views = []
        for (key, start, stop), data in zip(merged, self._get(merged), strict=True):
            if data is None or len(data) != stop - start:
                raise StoreError(f"{self._url}/{key}: the shard is cut short: copy the store again")
            views.append(memoryview(data))

        def part(key: str, start: int, stop: int) -> memoryview:
            whole = bisect(merged, (key, start, math.inf)) - 1
            first = merged[whole][1]
            return views[whole][start - first : stop - first]

        return [part(*place) if place else None for place in places]

    def index(self, key: str, n_chunks: int) -> NDArray[np.uint64] | None:
        return self._read_indexes([key], n_chunks)[key]

    def _read_indexes(self, keys: list[str], n_chunks: int) -> dict[str, NDArray[np.uint64] | None]:
        known = {key: self._indexes[key] for key in keys if key in self._indexes}
        missing = [key for key in keys if key not in known]
        size = n_chunks * 16 + 4
        for key, tail in zip(missing, self._get([(key, -size, None) for key in missing]), strict=True):
            known[key] = None if tail is None else parse_index(tail, n_chunks, f"{self._url}/{key}")
        if len(self._indexes) + len(missing) > _INDEXES:
            self._indexes = {}
        self._indexes.update({key: known[key] for key in missing})
        return known

    def array(self, key: str) -> Any:
        """Fetch a whole small array, chunks side by side, and open it in memory."""
        import zarr
        from zarr.core.buffer import default_buffer_prototype
        from zarr.storage import MemoryStore

        import wsi.zarr_jpeg  # noqa: F401  (registers the codec)

        (document,) = self.read([f"{key}/zarr.json"])
        if document is None:
            raise StoreError(f"{self._url}/{key}: there is no zarr array")
        try:
            keys = _chunk_keys(json.loads(document))
            found = dict(zip(keys, self.read([f"{key}/{inner}" for inner in keys]), strict=True))
            buffer = default_buffer_prototype().buffer
            held = {name: buffer.from_bytes(data) for name, data in found.items() if data is not None}
            return zarr.open_array(MemoryStore({"zarr.json": buffer.from_bytes(document), **held}), mode="r")
        except StoreError:
            raise
        except Exception as error:  # zarr-python raises nearly anything on damaged files
            raise StoreError(f"{self._url}/{key}: cannot be read as a zarr array ({error})") from None

    def find(self, key: str) -> list[str]:
        with _told_as_store_error():
            return list(Place(self._url, self._options).files(key))


def _checked(wanted: Range, data: Any) -> Any:
    """Return what came of a range; an error that may pass where an answer was cut short without saying so."""
    _, start, stop = wanted
    missing = not isinstance(data, BaseException) and stop is not None and not data and stop > start >= 0
    return OSError(errno.EIO, "nothing came") if missing else data


def _is_absent(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) and is_absence(error)


@contextmanager
def _told_as_store_error() -> Iterator[None]:
    try:
        yield
    except (RequestError, RemoteError) as error:
        raise StoreError(str(error)) from None


def coalesce(parts: Sequence[Part]) -> list[Part]:
    """Merge neighbouring byte ranges, sorted, of each file: return what to request, sorted, which covers them all."""
    if not parts:
        return []
    keys, starts, stops = map(list, zip(*parts, strict=True))
    return list(zip(*merge_offset_ranges(keys, starts, stops, _GAP, _REQUEST, sort=False), strict=True))


def find_remote_stores(url: str, suffix: str, options: Options | None = None) -> list[str]:
    """Return the URLs of the stores in a folder behind a URL, one level deep, sorted."""
    with _told_as_store_error():
        names = Place(url, options).folders()
    return [f"{url}/{name}" for name in names if name.endswith(suffix)]


def _chunk_keys(document: dict[str, Any]) -> list[str]:
    """Return the keys of all chunk files of an array (default chunk key encoding)."""
    chunks = document["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [ceil_div(side, chunk) for side, chunk in zip(document["shape"], chunks, strict=True)]
    if math.prod(counts) > _MOST_CHUNKS:
        raise ValueError(f"{document['shape']} in chunks of {chunks} is no small array")
    return ["/".join(["c", *map(str, place)]) for place in product(*map(range, counts))]


def _store_error(name: str, error: BaseException) -> StoreError:
    """Say in one line what a file system could not do."""
    return StoreError(str(failure(name, error)))

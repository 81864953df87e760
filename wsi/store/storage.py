"""Where a store lies: a folder of this machine, or an object store behind a URL; both are read through one protocol."""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi.errors import StoreError, one_line, says_damage
from wsi.files.documents import is_of_the_name
from wsi.files.regular import irregular_below, read_regular
from wsi.store.folder import Bytes, Folder, Location, Options
from wsi.store.shards import ShardFile, open_shard
from wsi.urls import local_path, url_of

_MOST_METADATA = 16 << 20
"""Bytes of a zarr.json; ours have some kB."""
_Opened = TypeVar("_Opened")


def locate(place: Location) -> Location:
    """Tell paths from URLs.

    A URL that went through `pathlib.Path`, as command lines make it, has lost a slash (``s3:/bucket``): it is given
    back. ``file://`` becomes a path.
    """
    return url_of(place) or local_path(place)


def open_folder(place: Location, options: Options | None = None) -> Folder:
    """Return the folder at a path or URL; nothing is read yet."""
    location = locate(place)
    if isinstance(location, Path):
        return LocalFolder(location)
    from wsi.store.remote import RemoteFolder

    return RemoteFolder(location, options)


class LocalFolder:
    """A folder of this machine; shards are memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.location: Location = path
        self.path = path

    def __reduce__(self) -> tuple[type["LocalFolder"], tuple[Path]]:
        return LocalFolder, (self.path,)

    @cached_property
    def _stamp(self) -> tuple[int, int]:
        """Tells one store from another that later takes its place: their shards are not to be mixed."""
        try:
            stat = os.stat(self.path / "zarr.json")
        except OSError:
            return (0, 0)
        return stat.st_ino, stat.st_mtime_ns

    def read(self, keys: Sequence[str]) -> list[bytes | None]:
        def whole(path: Path) -> bytes:
            return read_regular(path, _MOST_METADATA if path.name == "zarr.json" else None)

        return [self._opened(key, whole) for key in keys]

    def chunks(self, wanted: Sequence[tuple[str, int]], n_chunks: int) -> list[Bytes | None]:
        found: list[Bytes | None] = []
        opened, shard = "", None
        for key, place in wanted:
            if key != opened:
                opened, shard = key, self._shard(key, n_chunks)
            found.append(shard.view(place) if shard else None)
        return found

    def index(self, key: str, n_chunks: int) -> NDArray[np.uint64] | None:
        shard = self._shard(key, n_chunks)
        return shard.index if shard else None

    def _shard(self, key: str, n_chunks: int) -> ShardFile | None:
        return self._opened(key, lambda path: open_shard(path, n_chunks, self._stamp))

    def _opened(self, key: str, how: Callable[[Path], _Opened]) -> _Opened | None:
        """Return what a file of the store is opened as, None where there is none."""
        path = self.path / key
        try:
            return how(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if not is_of_the_name(error):
                raise
            raise StoreError(f"{path}: cannot be read: {error.strerror}") from None

    def array(self, key: str) -> Any:
        import zarr

        import wsi.zarr_jpeg  # noqa: F401  (registers the codec)

        try:
            if odd := irregular_below(self.path / key):
                raise ValueError(odd)
            return zarr.open_array(self.path / key, mode="r")
        except Exception as error:  # zarr-python raises nearly anything on damaged files
            if not says_damage(error) and not (isinstance(error, OSError) and is_of_the_name(error)):
                raise
            raise StoreError(f"{self.path / key}: cannot be read as a zarr array ({one_line(error, 200)})") from None

    def find(self, key: str) -> list[str]:
        below = (self.path / key).rglob("*")
        return sorted(str(p.relative_to(self.path).as_posix()) for p in below if not p.is_dir())

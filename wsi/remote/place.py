"""A folder behind a URL: its objects listed, fetched, written and removed by key; every request is made patiently.

An object is there whole or not at all, and a listing tells what was written before it: so it is with S3 and its like.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from wsi.errors import RemoteError, RequestError
from wsi.files.atomic import replacing
from wsi.remote.connection import Settings, failure, is_absence, open_filesystem
from wsi.remote.patience import patiently

_PART, _UPLOADED_PART = 16 << 20, 16 << 20
"""Bytes of one request: of a large object's download, and of its upload."""
_AT_ONCE = 8
"""Requests side by side."""
_WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Found:
    """What a server says of one object."""

    size: int
    tag: str
    """Tells it from another of the same name: its ETag, else the time of its writing."""
    modified: datetime | None = None
    """By the server's clock."""


class Place:
    """A folder behind a URL. Picklable; opens nothing before it is asked.

    Everything but `at` raises `RequestError` where there is no such bucket, access is denied or credentials are
    missing, and `RemoteError` where the network failed for too long.
    """

    def __init__(self, url: str, settings: Settings | None = None) -> None:
        self.url = url.rstrip("/")
        self.settings = settings
        self._opened: tuple[int, Any, str] | None = None

    def __reduce__(self) -> tuple[type["Place"], tuple[str, Settings | None]]:
        return Place, (self.url, self.settings)

    def at(self, key: str) -> str:
        """Return the URL of a key; "" is the folder itself."""
        return f"{self.url}/{key}" if key else self.url

    def info(self, key: str = "") -> Found | None:
        """Return what is known of an object; None where there is none, or a folder."""
        found = self._ask(key, lambda filesystem, path: _unless_absent(lambda: filesystem.info(path)))
        return _found(found) if found is not None and found.get("type") == "file" else None

    def files(self, key: str = "") -> dict[str, Found]:
        """Return all objects below a folder, by key, sorted; none where there is no such folder."""
        _, root = self._filesystem()

        def listed(filesystem: Any, path: str) -> dict[str, Any]:
            return dict(_unless_absent(lambda: filesystem.find(path, detail=True)) or {})

        found = self._ask(key, listed)
        below = {str(name)[len(root) :].lstrip("/"): own for name, own in found.items() if own.get("type") == "file"}
        return {name: _found(below[name]) for name in sorted(below) if name and name != key}

    def folders(self) -> list[str]:
        """Return the names of the folders in this one, sorted; none where it is not there."""
        found = self._ask("", lambda filesystem, path: _unless_absent(lambda: filesystem.ls(path, detail=True)) or [])
        return sorted({str(own["name"]).rstrip("/").rpartition("/")[2] for own in found if own["type"] != "file"})

    def read(self, key: str) -> bytes | None:
        """Return a small object's bytes; None where there is none."""

        def whole(filesystem: Any, path: str) -> bytes | None:
            try:
                data = _unless_absent(lambda: filesystem.cat_file(path, start=0))  # saves a request for the size
            except OSError as error:
                if "InvalidRange" not in str(error) and "range" not in str(error).lower():
                    raise
                data = filesystem.cat_file(path)  # of an empty object there is no range
            return None if data is None else bytes(data)

        return self._ask(key, whole)

    def write(self, key: str, data: bytes) -> None:
        """Write a small object."""

        def put(filesystem: Any, path: str) -> None:
            _make_folder(filesystem, path)
            filesystem.pipe_file(path, data)

        self._ask(key, put)

    def put(self, key: str, file: Path) -> None:
        """Upload a file, in parts where it is large, and see that all of it arrived."""
        size = file.stat().st_size

        def put(filesystem: Any, path: str) -> None:
            _make_folder(filesystem, path)
            parts = (
                {"chunksize": _UPLOADED_PART, "max_concurrency": 4} if _protocol(filesystem) in {"s3", "s3a"} else {}
            )
            filesystem.put_file(str(file), path, **parts)
            arrived = int(filesystem.info(path)["size"])
            if arrived != size:
                raise OSError(errno.EIO, f"{arrived:,} of {size:,} bytes arrived", path)

        self._ask(key, put)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""

        def remove(filesystem: Any, path: str) -> None:
            _unless_absent(lambda: filesystem.rm_file(path))

        together(lambda key: self._ask(key, remove), keys)

    def fetch(self, key: str, target: Path, found: Found | None = None) -> Found:
        """Download an object to a file, by ranges, side by side; it gets its name when it is whole.

        Raises `RequestError` where it is not there, `RemoteError` where it changes meanwhile.
        """
        found = found or self.info(key)
        if found is None:
            raise RequestError(f"{self.at(key)}: not found")
        with replacing(target) as temporary:
            with open(temporary, "wb") as file:
                file.truncate(found.size)
                starts = range(0, found.size, _PART)
                together(lambda start: self._land(key, file.fileno(), start, found.size), starts)
            if len(starts) > 1:
                again = self.info(key)
                if again is None or (again.size, again.tag) != (found.size, found.tag):
                    raise RemoteError(
                        f"{self.at(key)}: it was replaced while it was fetched: run the same command again"
                    )
        return found

    def part(self, key: str, start: int, stop: int, size: int | None = None) -> bytes:
        """Return the bytes [start, stop) of an object, whose size may be told."""

        def part(filesystem: Any, path: str) -> bytes:
            data: bytes = filesystem.cat_file(path, start=start, end=stop)
            if size is not None and len(data) == size > stop - start:  # a web server that knows no ranges
                data = data[start:stop]
            if len(data) != stop - start:
                raise OSError(errno.EIO, f"{len(data):,} of {stop - start:,} bytes came", path)
            return data

        return self._ask(key, part)

    def _land(self, key: str, descriptor: int, start: int, size: int) -> None:
        os.pwrite(descriptor, self.part(key, start, min(start + _PART, size), size), start)

    def _filesystem(self) -> tuple[Any, str]:
        if self._opened is None or self._opened[0] != os.getpid():  # a child that was forked opens its own
            self._opened = (os.getpid(), *open_filesystem(self.url, self.settings))
        return self._opened[1], self._opened[2]

    def _call(self, what: Callable[[Any, str], _Found], key: str) -> _Found:
        filesystem, root = self._filesystem()
        return what(filesystem, f"{root}/{key}" if key else root)

    def _ask(self, key: str, what: Callable[[Any, str], _Found]) -> _Found:
        try:
            return patiently(lambda: self._call(what, key))
        except Exception as error:  # file systems raise nearly anything
            if isinstance(error, OSError) and error.filename and os.path.isabs(str(error.filename)):
                raise  # the disk of this machine
            raise failure(self.at(key), error) from None


def together(what: Callable[[Any], object], items: Iterable[Any], at_once: int = _AT_ONCE) -> None:
    """Call for each item, side by side; the first error ends it."""
    several = list(items)
    if len(several) <= 1:
        for item in several:
            what(item)
        return
    with ThreadPoolExecutor(min(at_once, len(several))) as pool:
        try:
            for _ in pool.map(what, several):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _found(told: Mapping[str, Any]) -> Found:
    modified = next(
        (told[name] for name in ("LastModified", "updated", "last_modified", "created") if told.get(name)), None
    )
    tag = told.get("ETag") or told.get("etag") or told.get("md5Hash") or modified or told.get("mtime") or ""
    size = told.get("size")
    if size is None:
        raise RequestError(f"{told.get('name')}: the server does not tell its size")
    return Found(int(size), str(tag).strip('"'), modified if isinstance(modified, datetime) else None)


def _unless_absent(ask: Callable[[], _Found]) -> _Found | None:
    """Return what is there; None where the server says that there is no such object."""
    try:
        return ask()
    except FileNotFoundError as error:
        if is_absence(error):
            return None
        raise


def _protocol(filesystem: Any) -> str:
    protocol = filesystem.protocol
    return str(protocol if isinstance(protocol, str) else protocol[0])


def _make_folder(filesystem: Any, path: str) -> None:
    if _protocol(filesystem) not in _WITHOUT_FOLDERS:
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)

"""The stores' own files, for programs that open them by URL: ranges of bytes, and reads from other sites on request.

napari, neuroglancer and vizarr read a shard's index from its end and then single chunks: without 206 they would load
whole shards.
"""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

from wsi.files.regular import open_regular
from wsi.store.remote import RemoteFolder
from wsi.store.tile_store import TileStore
from wsi.viewing.server.access import EVERYBODY
from wsi.viewing.server.handler import Handler

_BLOCK = 1 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG})
_SEEN = "Content-Length, Content-Range, Accept-Ranges, ETag"


class RawFile(Handler):
    """One file of a store."""

    async def options(self, *_: str) -> None:
        """Tell a browser that a page of another site may read."""
        origin = self.request.headers.get("Origin", "")
        if not self.serving.access.may_read(origin):
            raise HTTPError(403, log_message="pages of other sites may not read here: give --cors ORIGIN")
        self.set_header("Access-Control-Allow-Methods", "GET, HEAD")
        self.set_header("Access-Control-Allow-Headers", "Range, If-Match, If-None-Match, Authorization")
        self.set_header("Access-Control-Allow-Private-Network", "true")
        self.set_header("Access-Control-Max-Age", "600")
        self.set_status(204)
        self.finish()

    def prepare(self) -> None:
        """Refuse, or say whose pages may read."""
        super().prepare()
        self._allow()

    def _allow(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin and self.serving.access.may_read(origin):
            everybody = EVERYBODY in self.serving.access.cors
            self.set_header("Access-Control-Allow-Origin", EVERYBODY if everybody else origin)
            self.set_header("Access-Control-Expose-Headers", _SEEN)
            self.set_header("Vary", "Origin")
            self.set_header("Cross-Origin-Resource-Policy", "cross-origin")

    async def get(self, image_id: str, key: str) -> None:
        """Send a file or a part of it."""
        store = self.served.collection.slides[self.known(image_id)].store
        if store is None or not may_be_asked(key) or self.served.withholds(key):
            raise HTTPError(404)
        with await self.on_threads(_File, store, key) as file:
            start, stop = self._asked(file.size)
            self.set_header("Accept-Ranges", "bytes")
            self.set_header("Content-Type", "application/json" if key.endswith(".json") else "application/octet-stream")
            self.set_header("Content-Length", str(stop - start))
            self.set_header("Cache-Control", "private, no-cache")
            try:
                for place in range(start, stop, _BLOCK) if self.request.method != "HEAD" else ():
                    self.write(await self.on_threads(file.read, place, min(place + _BLOCK, stop)))
                    await self.flush()
            except StreamClosedError:
                return
        self.finish()

    head = get

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Let pages of other sites see what is not there: absent chunks are none of a failing server."""
        self._allow()
        super().write_error(status_code, **kwargs)

    def _asked(self, size: int) -> tuple[int, int]:
        """Return the bytes [start, stop) that are asked for, and set the status."""
        asked = _RANGE.fullmatch(self.request.headers.get("Range", "").replace(" ", ""))
        if asked is None or asked[1] == asked[2] == "":
            return 0, size  # several ranges at once, or another unit: the whole is a right answer
        if asked[1]:
            start, stop = int(asked[1]), min(size, int(asked[2] or size) + 1)
        else:
            start, stop = max(0, size - int(asked[2])), size
        if start >= stop:
            self.set_header("Content-Range", f"bytes */{size}")
            raise HTTPError(416, log_message=f"the file has {size} bytes")
        self.set_status(206)
        self.set_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        return start, stop

    def compute_etag(self) -> str | None:
        """Return none: parts are sent as they are read."""
        return None


def may_be_asked(key: str) -> bool:
    """Tell whether a path can lie inside a store: plain names between slashes, none of them hidden."""
    parts = key.split("/")
    return all(part and not part.startswith(".") and not set(part) & set("\\\0%") for part in parts) and len(key) < 1024


class _File:
    """A file of a store, open for reading in parts; a context that closes it."""

    def __init__(self, store: TileStore, key: str) -> None:
        folder = store.folder
        self._descriptor: int | None = None
        if isinstance(folder, RemoteFolder):
            size = folder.size(key)
            if size is None:
                raise HTTPError(404)
            self.size = size
            self.read: Callable[[int, int], bytes] = lambda start, stop: folder.part(key, start, stop)
            return
        root = Path(os.path.realpath(str(store.path)))
        path = Path(os.path.realpath(root / key))
        if root not in path.parents:  # a link may lead anywhere
            raise HTTPError(404)
        try:
            with open_regular(path) as file:
                descriptor = self._descriptor = os.dup(file.fileno())
        except OSError as error:
            raise HTTPError(404 if error.errno in _NO_FILE else 500) from None
        self.size = os.fstat(descriptor).st_size
        self.read = lambda start, stop: os.pread(descriptor, stop - start, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def routes(settings: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the addresses of the stores' files."""
    return [(r"/stores/([^/]+)\.zarr/(.+)", RawFile, settings)]

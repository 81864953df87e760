"""Slides that a worker keeps open between its tasks."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from wsi.errors import SlideError, StalledError
from wsi.machine.memory import keep_freed_memory
from wsi.pixels.icc import SRGB
from wsi.progress.stalls import watched
from wsi.readers.protocol import Slide
from wsi.slide import open_slide
from wsi.tiling.options import TileOptions

_OPEN_SLIDES = 6
Result = TypeVar("Result")


@lru_cache(maxsize=_OPEN_SLIDES)
def _opened(
    path: Path, reader: str | None, scene: int | None, srgb: bool, _size: int, _mtime_ns: int, _process: int
) -> Slide:
    return open_slide(path, reader, scene=scene, srgb=srgb)


def opened_slide(path: Path, reader: str | None, options: TileOptions) -> Slide:
    """Return an open slide; each worker process keeps the last few open, for its tasks come from several slides."""
    keep_freed_memory()
    try:
        stat = os.stat(path)
    except OSError:
        return open_slide(path, reader, scene=options.scene)  # raises, with its reason
    return _opened(path, reader, options.scene, options.icc == SRGB, stat.st_size, stat.st_mtime_ns, os.getpid())


def run_watched(what: str, seconds: float, task: Callable[..., Result], *arguments: Any) -> Result:
    """Run a task that is given up once nothing has moved for so long; see `wsi.progress.stalls.watched`."""
    try:
        return watched(what, seconds, task, *arguments)
    except StalledError:
        _opened.cache_clear()  # one of them is in the hands of a thread that was left behind
        raise


@contextmanager
def slide_errors(path: Path) -> Iterator[None]:
    """Turn a slide that vanished, or a disk that fails, into a `SlideError`: that is no damage, and is tried again."""
    try:
        yield
    except OSError as error:
        raise SlideError(
            f"{path.name}: reading failed: {error.strerror or error}: run the same command again"
        ) from None

"""How large the pages of slides will be, told from the shards' indexes before anything is written."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi.errors import RequestError
from wsi.pages import plural
from wsi.viewing.picture import StorePicture

_CHECKSUM = 4
"""Bytes behind a JPEG chunk, which a page leaves out."""
_OF_ZSTD = 0.18
"""Size of a JPEG of quality 90 as a part of the same tile's zstd chunk: 0.14 to 0.27 on stained tissue."""


@dataclass(frozen=True, slots=True)
class PageSize:
    """Files of a slide's tiles, and what they take."""

    tiles: int
    n_bytes: int
    """Exact, but for an estimate."""
    on_disk: int
    """Bytes in whole blocks of the disk."""
    estimated: bool
    """Whether tiles will be encoded, whose size nobody knows before."""


def page_size(picture: StorePicture, block: int = 1) -> PageSize:
    """Return the size of a slide's tiles as files; ``block`` is the disk's, in bytes.

    Raises
    ------
    StoreError
        The store is damaged.
    """
    tiles = n_bytes = on_disk = 0
    estimated = False
    for level in range(len(picture.levels)):
        sizes = picture.sizes(level)[picture.present(level)]
        if picture.copied(level):
            sizes = sizes - _CHECKSUM * picture.store.is_checked
        else:
            sizes, estimated = np.rint(sizes * _OF_ZSTD).astype(np.int64), estimated or bool(len(sizes))
        tiles, n_bytes = tiles + len(sizes), n_bytes + int(sizes.sum())
        on_disk += int((-(-sizes // block) * block).sum())
    return PageSize(tiles, n_bytes, on_disk, estimated)


def block_of(folder: Path) -> int:
    """Return the size of a block of the disk that a folder lies on, or will lie on."""
    return max(1, os.statvfs(_existing(folder)).f_frsize)


def told(sizes: Iterable[PageSize]) -> str:
    """Return the size of pages, for a person."""
    every = list(sizes)
    about = "about " if any(size.estimated for size in every) else ""
    n_bytes, tiles = sum(size.n_bytes for size in every), sum(size.tiles for size in every)
    return f"{about}{n_bytes / 1e6:,.1f} MB in {plural(tiles, 'tile file')}"


def check_room(folder: Path, sizes: Iterable[PageSize]) -> None:
    """Raise `RequestError` where the disk has no room for the pages."""
    every = list(sizes)
    wanted, free = sum(size.on_disk for size in every), shutil.disk_usage(_existing(folder)).free
    if wanted > free:
        raise RequestError(
            f"--out {folder}: the pages want {wanted / 1e6:,.0f} MB and the disk has {free / 1e6:,.0f} MB left: choose "
            "another disk, or fewer slides by --image-id"
        )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())

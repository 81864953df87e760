"""Bags of any size that take no disk: all features are zero, and lie in holes of their files."""

import os
import tempfile
from pathlib import Path

import h5py
import numpy as np
from witness import facts

from features.bags.bag import write_bag

_PAGE = 4096
_NAME, _PICTURE = "s00000", "f" * 64
"""What a copy gets in their place, at the same length."""


def write_sparse_bags(folder: Path, count: int, n_tiles: int, dim: int) -> Path:
    """Write bags and a table of one patient for each, classes A and B in turns; return the table."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        pages, size = _pages(_template(Path(work) / f"{_NAME}.h5", n_tiles, dim))
    lines = ["image_id,patient_id,label"]
    for number in range(count):
        name = f"s{number:05d}"
        with (folder / f"{name}.h5").open("wb") as file:
            file.truncate(size)
            for offset, page in pages:
                file.seek(offset)
                file.write(page.replace(_NAME.encode(), name.encode()).replace(_PICTURE.encode(), b"%064x" % number))
        lines.append(f"{name},p{number:05d},{'AB'[number % 2]}")
    table = folder.parent / f"{folder.name}.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def _template(path: Path, n_tiles: int, dim: int) -> Path:
    about = facts(_NAME)
    about.provenance["overview_sha256"] = _PICTURE
    write_bag(path, [np.zeros((n_tiles, dim), np.float16)], np.zeros((n_tiles, 2), np.int64), about)
    return path


def _pages(path: Path) -> tuple[list[tuple[int, bytes]], int]:
    """Return the runs of a file that are not zero, by their offsets, and its size."""
    content = np.fromfile(path, np.uint8)
    starts = range(0, len(content), _PAGE)
    filled = [start for start in starts if content[start : start + _PAGE].any()]
    runs: list[tuple[int, bytes]] = []
    for start in filled:
        page = content[start : start + _PAGE].tobytes()
        if runs and runs[-1][0] + len(runs[-1][1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + page)
        else:
            runs.append((start, page))
    return runs, len(content)


def bytes_on_disk(folder: Path) -> int:
    """Return what the files of a folder take of the disk."""
    return sum(os.stat(path).st_blocks * 512 for path in folder.iterdir())


def bytes_of_features(path: Path) -> int:
    """Return the bytes of a bag's features."""
    with h5py.File(path) as file:
        return int(np.prod(file["features"].shape)) * file["features"].dtype.itemsize

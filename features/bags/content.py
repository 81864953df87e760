"""The rows of a bag: read or mapped, their type, and the hash of what they are."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from features.bags.forms import OpenBag, xy_rows
from features.bags.hdf5 import file_of
from features.bags.moments import Gathering, Moments
from wsi.arrays import Features, Ints
from wsi.errors import BagError

BLOCK_BYTES = 4 << 20
"""Read at once: what stays in a core's cache."""


Empty = Callable[[tuple[int, int], np.dtype[Any]], Features]
"""From shape and type to an array to be filled."""


@dataclass(frozen=True, slots=True)
class RowsPlace:
    """Where a bag's features lie, and the state of that file: a file of another state is another bag."""

    file: Path
    """The bag, or the pack that it is in."""
    offset: int | None
    """Of the first value, where they lie in one piece as ``dtype``; None: HDF5 has to read them."""
    dtype: np.dtype[Any]
    """float16 or float32 of this machine, as they are read."""
    state: tuple[int, int, int]
    """The file's number, bytes, and time of change in ns."""


def place_of(bag: OpenBag) -> RowsPlace:
    """Return where an open bag's features lie."""
    file = file_of(bag.path)[0]
    offset = int(bag.features.id.get_offset()) if _is_mappable(bag.features) else None
    return RowsPlace(file, offset, np.dtype(_kind(bag.features.dtype)), state_of(file.stat()))


def state_of(status: os.stat_result) -> tuple[int, int, int]:
    """Return what changes when a file is written or replaced."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _kind(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    return np.float16 if dtype.itemsize == 2 else np.float32


@dataclass(frozen=True, slots=True)
class Content:
    """What a bag holds."""

    rows: Features
    """(N, D) float16 or float32; memory-mapped where that was allowed and the file holds such in one piece."""
    sha256: str
    """Of the rows' bytes in that type and of the coordinates' (x, y), where there are any."""
    moments: Moments | None = None
    """Of the rows, where they were asked for."""


def content_of(bag: OpenBag, *, may_map: bool = True, measured: bool = False, empty: Empty = np.empty) -> Content:
    """Read an open bag's features once, check that they are finite, and hash them.

    Parameters
    ----------
    bag
        An open bag.
    may_map
        Give rows that lie in a file of their own in one piece as a map of it, which takes no memory.
    measured
        Take the rows' moments, too.
    empty
        Gives the memory for rows that are read as they lie in the file.

    Raises
    ------
    BagError
        A value is NaN or infinite, or larger than float32 holds.
    """
    digest, gathering = hashlib.sha256(), Gathering(bag.shape[1]) if measured else None
    place = place_of(bag)
    mapped = may_map and place.offset is not None and place.file == bag.path
    whole = None if mapped else empty(bag.shape, place.dtype) if place.offset is not None else _read(bag)
    blocks = [whole] if whole is not None and place.offset is None else _stored_blocks(bag, place, whole)
    row = 0
    for block in blocks:
        check_finite(str(bag.path), block, row)
        digest.update(block.data)
        if gathering is not None:
            gathering.add(block)
        row += len(block)
    if bag.coords is not None:
        xy = xy_rows(bag)
        kind = np.int64 if xy.dtype.kind in "iu" else xy.dtype.newbyteorder("=")
        digest.update(np.ascontiguousarray(xy, dtype=kind).data)
    rows = _mapped(bag) if whole is None else whole
    return Content(rows, digest.hexdigest(), None if gathering is None else gathering.moments())


def sha256_of(arrays: Sequence[npt.NDArray[Any]]) -> str:
    """Return the hash of the arrays' bytes, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _is_mappable(features: Any) -> bool:
    """Tell whether the values lie in the file in one piece, as this machine's float16 or float32."""
    if features.id.get_offset() is None or 0 in features.shape:
        return False
    return any(features.id.get_type().equal(h5py.h5t.py_create(np.dtype(kind))) for kind in (np.float16, np.float32))


def _read(bag: OpenBag) -> Features:
    """Read the features; wider floats become float32, other byte orders this machine's."""
    rows: Features = np.asarray(bag.features[()]).reshape(bag.shape)
    with np.errstate(over="ignore"):
        cast: Features = np.ascontiguousarray(rows, dtype=_kind(rows.dtype))
    check_finite(str(bag.path), cast, original=rows)
    return cast


def _stored_blocks(bag: OpenBag, place: RowsPlace, whole: Features | None) -> Iterator[Features]:
    """Yield the features in blocks of rows, read from the file as they lie there; into ``whole`` where it is given.

    Reading comes before mapping: a disk that fails is an `OSError` here, where a page of a map would end the process.
    """
    n_tiles, dim = bag.shape
    step = max(1, BLOCK_BYTES // (dim * place.dtype.itemsize))
    with place.file.open("rb", buffering=0) as file:
        file.seek(place.offset or 0)
        for start in range(0, n_tiles, step):
            count = min(step, n_tiles - start)
            block = np.empty((count, dim), place.dtype) if whole is None else whole[start : start + count]
            fill(file, block, bag.path)
            yield block


def fill(file: io.FileIO, block: Features, path: Path) -> None:
    """Read a block of rows from where the file stands; `BagError` where it ends before."""
    view = block.data.cast("B")
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise BagError(f"{path}: its rows of features are not all there, the file ends before: extract it again")
        done += count


def _mapped(bag: OpenBag) -> Features:
    """Map the features; no file stays open for it (as `numpy.memmap` keeps one): a cohort has thousands of bags."""
    import torch

    offset, dtype = int(bag.features.id.get_offset()), bag.features.dtype
    end = offset + bag.shape[0] * bag.shape[1] * dtype.itemsize
    try:
        whole = torch.from_file(str(bag.path), shared=False, size=end, dtype=torch.uint8).numpy()
    except RuntimeError as error:
        raise OSError(_errno_of(error), f"cannot be mapped into memory ({error})", str(bag.path)) from None
    rows: Features = whole[offset:end].view(dtype).reshape(bag.shape)
    rows.flags.writeable = False
    return rows


def _errno_of(error: RuntimeError) -> int:
    """Return the number that torch puts at the end of its message; EIO where there is none."""
    number = str(error).rpartition("(")[2].partition(")")[0]
    return int(number) if number.isdigit() else 5


def stored_rows(name: str, block: Features, first_row: int, coords_l0_yx: Ints, dtype: str = "float16") -> Features:
    """Return a block in the type that it is stored in, or raise `BagError` naming the first tile that does not fit."""
    with np.errstate(over="ignore", invalid="ignore"):
        rows: Features = np.ascontiguousarray(block, dtype=dtype)
    check_finite(name, rows, first_row, coords_l0_yx, block)
    return rows


def check_finite(
    name: str,
    rows: Features,
    first_row: int = 0,
    coords_l0_yx: Ints | None = None,
    original: Features | None = None,
) -> None:
    """Raise `BagError` naming the first tile of ``rows`` (n, D) that holds a NaN or an infinite value."""
    if _all_finite(rows):
        return
    row, column = (int(v) for v in np.argwhere(~np.isfinite(rows))[0])
    value = (rows if original is None else original)[row, column]
    where = "" if coords_l0_yx is None else " at level-0 (y, x) = ({}, {})".format(*coords_l0_yx[first_row + row])
    if np.isfinite(value):
        what = f"{value:g}, beyond {rows.dtype}'s {np.finfo(rows.dtype).max:.5g}"
        hint = "extract with --bag-dtype float32"
    else:
        what = "NaN" if np.isnan(value) else "infinite"
        hint = "look at that tile and at the encoder's weights, and where it ran in half precision, at --precision fp32"
    raise BagError(f"{name}: feature {column} of tile {first_row + row}{where} is {what}: {hint}")


def _all_finite(rows: Features) -> bool:
    if rows.dtype != np.float16 or not rows.size or not rows.flags.c_contiguous:
        return bool(np.isfinite(rows).all())
    return bool((rows.view(np.uint16) & 0x7FFF).max() < 0x7C00)  # numpy's own test of float16 takes three times as long

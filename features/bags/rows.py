"""Features that are read when they are asked for: of one bag, of several as one.

A bag's file is open only while it is read, and its content is checked the first time that all of it is read here. What
is held (small cohorts) is read once and mapped; what is not costs memory only while it is used, however many bags there
are.
"""

import io
import itertools
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from features.bags.bag import BagHeader, feature_rows
from features.bags.content import Empty, check_finite, fill, state_of
from features.bags.moments import Moments, beside, followed
from wsi.arrays import Features, Ints
from wsi.errors import BagError

NEAR_BYTES = 32 << 10
"""Rows less than this apart are read in one go, with what lies between them: a disk's read costs as much as this."""


class LazyRows(ABC):
    """Features (N, D), float16 or float32, as an array that is read when it is used."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    ndim = 2

    @abstractmethod
    def read(self, rows: Ints | None = None, empty: Empty = np.empty) -> Features:
        """Return all rows, or those of these numbers (ascending), as (n, D); they are only to be read.

        ``empty`` gives the memory for rows that are read as they lie in the file.

        Raises
        ------
        BagError
            A value is not finite, or the bag is not the one that was written, or another one by now.
        OSError
            The storage fails.
        """

    @abstractmethod
    def check(self) -> None:
        """Read all rows once and check them, and keep none; nothing where they are held. Raises as `read`."""

    @property
    @abstractmethod
    def held(self) -> Features | None:
        """Return the rows where they are at hand already, else None."""

    @abstractmethod
    def moments(self) -> Moments:
        """Return the moments of the rows, without reading them."""

    @property
    def nbytes(self) -> int:
        """Return the bytes of all rows."""
        return len(self) * self.shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            key = np.arange(start, stop, step)
        if isinstance(key, np.ndarray) and key.ndim == 1 and key.dtype.kind in "iu" and _is_ascending(key):
            return self.read(key.astype(np.int64)) if len(key) else np.empty((0, self.shape[1]), self.dtype)
        return np.asarray(self.read()[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.read(), dtype=dtype, copy=copy)


def _is_ascending(rows: Ints) -> bool:
    return not len(rows) or bool(rows[0] >= 0 and (rows[1:] > rows[:-1]).all())


_SEEN: set[tuple[str, tuple[int, int, int]]] = set()
"""Files, in a state, whose content this process has read whole and found right."""
_SEEN_LOCK = threading.Lock()


class StoredRows(LazyRows):
    """The features of one bag."""

    def __init__(self, header: BagHeader) -> None:
        if header.place is None:
            raise ValueError(f"{header.path}: expected a header that was read from a file")
        self.header, self.place = header, header.place
        self.shape, self.dtype = (header.n_tiles, header.dim), header.place.dtype
        self._held: Features | None = None

    @property
    def held(self) -> Features | None:
        return self._held

    def hold(self) -> None:
        """Read and check all rows, and keep them: mapped, where they lie in a file of their own in one piece."""
        self._held = self._checked(may_map=True)

    def check(self) -> None:
        if self._held is None:
            self._checked(may_map=True)

    def moments(self) -> Moments:
        if self.header.moments is None:
            raise ValueError(f"{self.header.path}: its moments have not been taken")
        return self.header.moments

    def read(self, rows: Ints | None = None, empty: Empty = np.empty) -> Features:
        if self._held is not None:
            return self._held if rows is None else self._held[rows]
        if self.place.offset is None or (rows is None and not self._seen):
            whole = self._checked(may_map=False, empty=empty)
            return whole if rows is None else whole[rows]
        with self.place.file.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if state_of(status) != self.place.state:
                raise self._replaced()
            found = self._whole(file, empty) if rows is None else self._some(file, rows, empty)
        check_finite(str(self.header.path), found)
        return found

    @property
    def _seen(self) -> bool:
        return (str(self.header.path), self.place.state) in _SEEN

    def _checked(self, *, may_map: bool, empty: Empty = np.empty) -> Features:
        whole = feature_rows(self.header.path, may_map=may_map, empty=empty)
        if whole.shape != self.shape or state_of(self.place.file.stat()) != self.place.state:
            raise self._replaced()
        with _SEEN_LOCK:
            _SEEN.add((str(self.header.path), self.place.state))
        return whole

    def _replaced(self) -> BagError:
        return BagError(f"{self.header.path}: the bag was replaced while it was used: run it again")

    def _whole(self, file: io.FileIO, empty: Empty) -> Features:
        found = empty(self.shape, self.dtype)
        file.seek(cast("int", self.place.offset))
        fill(file, found, self.header.path)
        return found

    def _some(self, file: io.FileIO, rows: Ints, empty: Empty) -> Features:
        """Read rows in runs: those that lie near each other together."""
        row_bytes = self.shape[1] * self.dtype.itemsize
        found = empty((len(rows), self.shape[1]), self.dtype)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for start, stop in runs(rows, max(1, NEAR_BYTES // row_bytes)):
            first, last = int(rows[start]), int(rows[stop - 1])
            block = np.empty((last - first + 1, self.shape[1]), self.dtype)
            file.seek(cast("int", self.place.offset) + first * row_bytes)
            fill(file, block, self.header.path)
            found[start:stop] = block[rows[start:stop] - first]
        return found


def runs(rows: Ints, near: int) -> list[tuple[int, int]]:
    """Return (start, stop) positions in ascending rows whose neighbours are at most ``near`` apart."""
    cuts = np.flatnonzero(np.diff(rows) > near) + 1
    edges = [0, *cuts.tolist(), len(rows)]
    return list(itertools.pairwise(edges)) if len(rows) else []


class FollowingRows(LazyRows):
    """The rows of several bags one after another: a patient's slides as one bag."""

    def __init__(self, parts: Sequence[LazyRows]) -> None:
        self.parts = tuple(parts)
        self.shape = (sum(len(own) for own in parts), parts[0].shape[1])
        self.dtype = np.result_type(*(own.dtype for own in parts))
        self._held = _joined(self.parts, axis=0)

    def check(self) -> None:
        for own in self.parts:
            own.check()

    @property
    def held(self) -> Features | None:
        return self._held

    def moments(self) -> Moments:
        return followed([own.moments() for own in self.parts])

    def read(self, rows: Ints | None = None, empty: Empty = np.empty) -> Features:
        if self._held is not None:
            return self._held if rows is None else self._held[rows]
        if rows is None:
            return np.concatenate([own.read() for own in self.parts])
        found, first = [np.empty((0, self.shape[1]), self.dtype)], 0
        for own in self.parts:
            inside = rows[(rows >= first) & (rows < first + len(own))] - first
            found += [own.read(inside)] if len(inside) else []
            first += len(own)
        return np.concatenate(found)


class BesideRows(LazyRows):
    """The rows of several bags of the same tiles beside each other: several encoders' features as one."""

    def __init__(self, parts: Sequence[LazyRows]) -> None:
        self.parts = tuple(parts)
        self.shape = (len(parts[0]), sum(own.shape[1] for own in parts))
        self.dtype = np.result_type(*(own.dtype for own in parts))
        self._held = _joined(self.parts, axis=1)

    def check(self) -> None:
        for own in self.parts:
            own.check()

    @property
    def held(self) -> Features | None:
        return self._held

    def moments(self) -> Moments:
        return beside([own.moments() for own in self.parts])

    def read(self, rows: Ints | None = None, empty: Empty = np.empty) -> Features:
        if self._held is not None:
            return self._held if rows is None else self._held[rows]
        return np.concatenate([own.read(rows) for own in self.parts], axis=1)


def _joined(parts: Sequence[LazyRows], axis: int) -> Features | None:
    """Return the rows of held parts as one array in memory; None where one of them is not held."""
    held = [own.held for own in parts]
    found = [own for own in held if own is not None]
    return np.concatenate(found, axis=axis) if len(found) == len(held) else None

"""HDF5 files of unknown origin: opened with care, read within bounds; and the one way to write one.

Such a file can point at other files (external storage, links, virtual datasets), declare more than it holds, or be no
file at all (a pipe). What it holds is looked at before memory is taken for it, and all that HDF5 says of malformed
content becomes a `BagError`. What the operating system says is no damage: it is tried again, then raised as `OSError`.
"""

import errno
import io
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from wsi.errors import BagError
from wsi.files.atomic import replacing
from wsi.files.hdf5 import attributes_of, open_hdf5
from wsi.files.replace import Mark

PAUSES_S = (0.1, 0.4)
"""Waits between attempts to read where the storage fails."""
LARGEST_EXPANSION = 50
"""Bytes that a compressed byte may stand for; float features are compressed to a half, sparse ones to a tenth."""
ALWAYS_ALLOWED = 64 << 20
"""Bytes that a dataset may declare whatever the file holds of it, where it is compressed."""
LARGEST_ATTRIBUTE = 16 << 20
"""Bytes."""
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
_OF_CONTENT = {None, 0, errno.EINVAL, errno.EOVERFLOW, errno.EFBIG, errno.ERANGE}
"""What seeking to an offset that cannot be gives: the file's content is wrong, not the storage."""
_LINKS = 8
"""Soft links in a row that are followed."""

T = TypeVar("T")


def read_hdf5(path: Path, read: Callable[[Any], T]) -> T:
    """Return what ``read`` makes of the open file; it may be called again where the storage fails.

    Raises
    ------
    BagError
        There is no file, it is no regular file, or its content is malformed.
    OSError
        The storage fails, three times: nothing is known to be wrong with the file.
    """
    for pause_s in (*PAUSES_S, None):
        try:
            return _read_once(path, read)
        except OSError as error:
            if pause_s is None:
                told = f"{error.strerror or error} ({len(PAUSES_S) + 1} attempts): see to the storage and run again"
                raise OSError(error.errno, told, str(path)) from None
            time.sleep(pause_s)
    raise AssertionError("unreachable")


def file_of(path: Path) -> tuple[Path, str]:
    """Return the file that holds a bag, and the bag's group in it.

    A bag is a file of its own, or one of many in a pack: then its path goes on below the pack's, as below a folder's.
    """
    pack = path.parent
    return (pack, path.stem) if pack.is_file() else (path, "/")


def _read_once(path: Path, read: Callable[[Any], T]) -> T:
    path_of_file, group = file_of(path)
    try:
        if not stat.S_ISREG(path_of_file.stat().st_mode):
            raise BagError(f"{path}: expected a regular file (.h5), found a folder, a pipe or a device")
        with open_hdf5(path_of_file) as file:
            return read(_group_of(file, group, path))
    except BagError:
        raise
    except OSError as error:
        if error.errno in _ABSENT:
            raise BagError(f"{path}: expected a bag of features (.h5), found no file: run gigamil extract") from None
        if error.errno not in _OF_CONTENT:
            raise OSError(error.errno, _first_line(error.strerror or error), str(path)) from None
        raise _not_whole(path, error) from None
    except (LookupError, ValueError, TypeError, ArithmeticError, RuntimeError) as error:
        raise _not_whole(path, error) from None


def _group_of(file: Any, name: str, path: Path) -> Any:
    if name == "/":
        return file
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Group):
        raise BagError(f"{path}: expected a bag of that name in the pack, found none: pack the bags again")
    return file[name]


def _not_whole(path: Path, error: Exception) -> BagError:
    return BagError(f"{path}: expected a whole HDF5 file, cannot read it ({_first_line(error)}): extract it again")


def _first_line(told: object) -> str:
    return (str(told).splitlines() or [type(told).__name__])[0][:200]


def dataset_of(file: Any, name: str, path: Path) -> Any | None:
    """Return the dataset of that name at the file's root whose values lie in the file itself; None where it is absent.

    Raises
    ------
    BagError
        The name leads elsewhere (an external link, external storage, a virtual dataset, a link to nowhere), is no
        dataset, or declares more values than the file can hold.
    """
    target = _own_name(file, name, path)
    if target is None:
        return None
    dataset = file[target]
    if not isinstance(dataset, h5py.Dataset):
        raise BagError(f"{path}: expected {name} as a dataset, found a {type(dataset).__name__.lower()}")
    if dataset.is_virtual or dataset.id.get_create_plist().get_external_count():
        raise BagError(
            f"{path}: its {name} lie in other files (external storage or a virtual dataset): that is refused, for any "
            "file could be read so; copy the values into the bag"
        )
    _check_held(dataset, name, path)
    return dataset


def _own_name(file: Any, name: str, path: Path) -> str | None:
    """Follow soft links between the names at the root, and nothing else."""
    first = name
    for _ in range(_LINKS):
        link = file.get(name, getlink=True)
        if link is None and name == first:
            return None
        if isinstance(link, h5py.HardLink):
            return name
        if not isinstance(link, h5py.SoftLink):
            break
        name = link.path.removeprefix("/")
        if "/" in name or name in ("", "."):
            break
    raise BagError(f"{path}: its {first} is a link to another file or to nowhere: that is refused; copy the values")


def _check_held(dataset: Any, name: str, path: Path) -> None:
    """Raise `BagError` where a dataset declares more than the file holds."""
    if dataset.shape is None:
        raise BagError(f"{path}: expected values in {name}, found none")
    file_bytes, held = file_of(path)[0].stat().st_size, int(dataset.id.get_storage_size())
    chunk = prod(dataset.chunks or ()) * dataset.dtype.itemsize
    declared = max(prod(dataset.shape) * dataset.dtype.itemsize, chunk if dataset.chunks else 0)
    compressed = dataset.id.get_create_plist().get_nfilters() > 0
    most = max(ALWAYS_ALLOWED, LARGEST_EXPANSION * held) if compressed else max(held, chunk if held else 0)
    if held > file_bytes or declared > most:
        raise BagError(
            f"{path}: its {name} declare {dataset.shape} values, {declared} bytes, of which the file of {file_bytes} "
            f"bytes holds {held}: extract it again"
        )


class Attributes:
    """The attributes of one object, each checked when it is asked for."""

    def __init__(self, owner: Any | None, path: Path) -> None:
        self._attrs, self._path = None if owner is None else attributes_of(owner), path

    def text(self, name: str) -> str:
        """Return a text; empty where there is none."""
        value = self._value(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "a text", value)
        return value or ""

    def number(self, name: str) -> float | None:
        """Return a number above 0; None where there is none."""
        value = self._value(name)
        if value is None:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise self._wrong(name, "a number", value) from None
        if not 0 < number < 1e12:
            raise self._wrong(name, "a number above 0", value)
        return number

    def whole(self, name: str) -> int | None:
        """Return a whole number above 0; None where there is none."""
        number = self.number(name)
        if number is not None and number != int(number):
            raise self._wrong(name, "a whole number", number)
        return None if number is None else int(number)

    def _value(self, name: str) -> Any:
        """Return a text or a number; None where there is none."""
        if self._attrs is None or name not in self._attrs:
            return None
        held = self._attrs.get_id(name)
        if prod(held.shape) != 1 or held.dtype.itemsize > LARGEST_ATTRIBUTE:
            raise self._wrong(name, "one value", f"{held.shape} {held.dtype}")
        value = self._attrs[name]
        if isinstance(value, np.ndarray):
            value = value.reshape(-1)[0]
        value = value.item() if isinstance(value, np.generic) else value
        return value.decode() if isinstance(value, bytes) else value

    def _wrong(self, name: str, expected: str, found: object) -> BagError:
        return BagError(f"{self._path}: expected its attribute {name} as {expected}, found {str(found)[:60]!r}")


@contextmanager
def writing_hdf5(path: Path, ours: Mark | None = None) -> Iterator[Any]:
    """Give a new HDF5 file to fill; it stands at ``path`` when the block has ended without an error, else nothing does.

    Raises
    ------
    BagError
        The file cannot be written (the disk is full).
    RequestError
        A file stands there of which ``ours`` says that it is another's.
    """
    try:
        with replacing(path, ours) as temporary, _Sink(temporary, "w+") as sink:
            with h5py.File(sink, "w") as file:  # noqa: TID251 -- nothing is read
                yield file
            if sink.error is not None:
                raise sink.error
    except OSError as error:
        raise BagError(f"{path} cannot be written ({error.strerror or error}): make room and run it again") from None


class _Sink(io.FileIO):
    """A file that HDF5 writes to, and that keeps the first error until HDF5 has done.

    HDF5 does not survive an error while it closes a file: it leaks the file, and complains again at the program's end.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.error is None:
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

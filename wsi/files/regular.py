"""Regular files only: a named pipe would wait for ever, a device has no end. Every door asks here before it opens."""

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def irregular(path: Path) -> str:
    """Return what else than a regular file a path leads to (``a named pipe``); "" for a file, and for nothing at all.

    Links are followed.
    """
    try:
        return _kind(path.stat().st_mode)
    except OSError:
        return ""


def check_regular(path: Path) -> None:
    """Raise `OSError` naming the path, where it leads to nothing or to what is no regular file; never waits."""
    _check(path.stat().st_mode, path)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; an `OSError` names the path where it is none. Never waits."""
    check_regular(path)  # a socket cannot even be opened
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    try:
        _check(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, most_bytes: int | None = None) -> bytes:
    """Return a regular file's bytes; an `OSError` names the path where it is none, or is larger than ``most_bytes``."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most_bytes is not None and size > most_bytes:
            raise OSError(errno.EFBIG, f"{size:,} bytes, expected at most {most_bytes:,}", str(path))
        return file.read()


def first_bytes(path: Path, count: int) -> bytes:
    """Return what a regular file begins with; nothing where it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(count)
    except OSError:
        return b""


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes, never in memory together; `OSError` where it cannot be read."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def irregular_below(folder: Path) -> str:
    """Name the first entry below a folder that is neither a regular file nor a folder, as a clause; "" without one.

    What a link leads to counts; a link that leads to nothing is no entry. Nothing is opened, and few files are asked.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if found := irregular_below(Path(entry.path)):
                    return found
            elif not entry.is_file() and not entry.is_dir() and (kind := irregular(Path(entry.path))):
                return f"{entry.name} is {kind}, expected a regular file"
    return ""


def _kind(mode: int) -> str:
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def _check(mode: int, path: Path) -> None:
    if kind := _kind(mode):
        raise OSError(errno.EINVAL, f"it is {kind}, expected a regular file", str(path))

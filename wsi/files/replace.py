"""The one place where files and folders are replaced or removed.

An output goes only where it carries our mark, which its writer knows how to read (`Mark`). A work file goes only where
its name is ours: hidden, or unfinished (`PARTIAL`). An input never goes. Nothing else calls `shutil.rmtree`,
`os.replace` or their like on what a user could have named.
"""

import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from wsi.errors import RequestError

PARTIAL = ".partial"
"""Suffix of everything that is not yet whole."""
Mark = Callable[[Path], bool]
"""Tells whether what lies at a path was written by us: it reads the mark, and answers False where it cannot."""

_TEMPORARY = re.compile(rf"\..+\.(?P<host>[\w-]+)\.[0-9a-f]{{8}}\.(?P<pid>\d+){re.escape(PARTIAL)}")
_NAME_BYTES = 255
"""Longest name of a file."""


def refuse_input(output: Path, inputs: Iterable[Path]) -> None:
    """Raise `RequestError` where an output is one of the inputs, holds one, or would lie inside one."""
    place = Path(os.path.realpath(output))  # resolve() does not survive a link to itself
    for path in inputs:
        source = Path(os.path.realpath(path))
        if place == source or place in source.parents or source in place.parents:
            raise RequestError(f"{output} would be written over its own input {path}: choose another --out")


def refuse_foreign(output: Path, ours: Mark) -> None:
    """Raise `RequestError` where something lies at a path that does not carry our mark."""
    if os.path.lexists(output) and not ours(output):
        raise RequestError(
            f"{output} was not made by gigamil as an output of this kind and is not replaced: choose another --out"
        )


def put(whole: Path, output: Path, ours: Mark | None = None, *, at_once: bool = False) -> None:
    """Give a finished file or folder its name; what has the name goes if it is ours, and only when the new is in place.

    Bytes and folder entries are on the disk before the name is, unless the output lies in something unfinished, which
    is flushed as a whole later.

    Parameters
    ----------
    whole
        What was written, in the output's folder.
    output
        The name it gets.
    ours
        How to tell that what has the name may go. None only where the caller owns the folder that the output lies in
        (it holds the claim, and the folder carries the mark).
    at_once
        As in `flush`.

    Raises
    ------
    RequestError
        What has the name is not ours; ``whole`` stays.
    """
    if ours is not None:
        refuse_foreign(output, ours)
    final = not any(part.endswith(PARTIAL) for part in output.parts)
    if final:
        flush(whole, at_once=at_once)
    if whole.is_dir() and output.is_dir() and not output.is_symlink():
        aside = temporary_path(output)
        os.rename(output, aside)
        try:
            os.rename(whole, output)
        except BaseException:
            os.rename(aside, output)
            raise
        _delete(aside)
    else:
        os.replace(whole, output)  # a file never takes the place of a folder
    if final:
        _flush_folder(output.parent)


def remove(output: Path, ours: Mark | None = None) -> None:
    """Remove an output that carries our mark, file or folder; nothing there is no error. ``ours`` as in `put`.

    Raises
    ------
    RequestError
        It does not carry our mark.
    """
    if ours is not None:
        refuse_foreign(output, ours)
    _delete(output)


def discard(path: Path) -> None:
    """Remove a work file or folder, whose name is ours: hidden, unfinished, or inside something unfinished.

    Nothing there is no error.

    Raises
    ------
    ValueError
        The name is not one of a work file: a fault of the program.
    """
    if not _is_work(path):
        raise ValueError(f"{path} is no work file of ours")
    _delete(path)


def temporary_path(target: Path) -> Path:
    """Return a new name beside the target, which no other process on any machine uses: host, random, process id."""
    tail = f".{_host()}.{secrets.token_hex(4)}.{os.getpid()}{PARTIAL}"
    name = target.name.encode()[: _NAME_BYTES - 1 - len(tail)].decode(errors="ignore")
    return target.with_name(f".{name}{tail}")


def discard_leftovers(folder: Path) -> None:
    """Remove the temporary files that processes of this machine left in a folder when they died."""
    with suppress(OSError):
        for name in os.listdir(folder):
            match = _TEMPORARY.fullmatch(name)
            if match and match["host"] == _host() and not _lives(int(match["pid"])):
                discard(folder / name)


def flush(path: Path, *, at_once: bool = False) -> None:
    """Have a file, or all files and entries of a folder, written to the disk; an `OSError` names the file.

    With ``at_once`` whole disks are flushed, by one call: thousands of small files take milliseconds each otherwise.
    """
    if at_once:
        os.sync()
    elif path.is_dir():
        for base, _, names in os.walk(path):
            for name in names:
                _flush_one(Path(base, name))
            _flush_folder(Path(base))
    else:
        _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def _flush_folder(path: Path) -> None:
    with suppress(OSError):  # some file systems cannot: they write entries at once
        _flush_one(path)


def _is_work(path: Path) -> bool:
    return path.name.startswith(".") or any(part.endswith(PARTIAL) for part in path.parts)


def _delete(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@cache
def _host() -> str:
    """Return what tells this machine from others: containers of one name differ in where their process ids count."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:32] or "host"
    try:
        return f"{name}-{os.stat('/proc/self/ns/pid').st_ino:x}"
    except OSError:
        return name


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

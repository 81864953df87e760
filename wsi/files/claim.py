"""One writer per output: an atomic claim that the operating system gives back when the holder dies."""

import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi.errors import ClaimedError, NoLocksError
from wsi.files.replace import discard
from wsi.options import NO_LOCK

_WITHOUT_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


@contextmanager
def claim(output: Path) -> Iterator[None]:
    """Hold the right to write ``output`` while the block runs.

    An exclusive ``flock`` on the hidden file ``.<name>.lock`` beside the output: kill -9 releases it, so no lock can go
    stale. The file is removed at the end, under the lock; who waited for a removed file starts anew.

    Raises
    ------
    ClaimedError
        Another process holds the claim; the message names its host and process id.
    NoLocksError
        The output's file system has no locks, and `NO_LOCK` is not set.
    OSError
        The lock file cannot be opened or made.
    """
    if os.environ.get(NO_LOCK):
        yield
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    lock_path = output.parent / _lock_name(output.name)
    descriptor = _locked(lock_path, output)
    try:
        with suppress(OSError):  # a full disk: who holds the claim is then not told
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        with suppress(OSError):
            discard(lock_path)
        os.close(descriptor)


def holder_of(output: Path) -> tuple[str, int, float] | None:
    """Return host, process id and time (seconds since 1970) of the last claim on ``output`` that was not given back.

    None where there is none, or where its holder cannot be told. The lock itself is not touched: whoever asks stands
    in nobody's way. A holder that was killed is returned, too.
    """
    lock_path = output.parent / _lock_name(output.name)
    with suppress(OSError, ValueError, TypeError, KeyError):
        descriptor = os.open(lock_path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = json.loads(os.pread(descriptor, 512, 0))
            return str(found["host"])[:255], int(found["pid"]), os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
    return None


def held_by(output: Path) -> str:
    """Return who holds the claim on ``output``, in words; "" where nobody does. Nothing is made, nobody is kept off.

    Raises
    ------
    OSError
        The lock file cannot be opened.
    """
    if os.environ.get(NO_LOCK):
        return ""
    try:
        descriptor = os.open(output.parent / _lock_name(output.name), os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(os.pread(descriptor, 512, 0))
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    finally:
        os.close(descriptor)
    return ""


def _lock_name(name: str) -> str:
    """Return the lock file's name; that of a long name ends in its hash, as names have 255 bytes at most."""
    lock = f".{name}.lock"
    if len(lock.encode()) <= 255:
        return lock
    return f".{hashlib.sha256(name.encode()).hexdigest()}.lock"


def _locked(lock_path: Path, output: Path) -> int:
    """Return the descriptor of the lock file, locked; the file at that path is still the one that was locked."""
    while True:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(lock_path).st_ino:
                return descriptor
        except BlockingIOError:
            holder = _holder(os.pread(descriptor, 512, 0))
            os.close(descriptor)
            raise ClaimedError(f"{output} is being written by {holder}: wait for it, or stop it") from None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(descriptor)
            if error.errno in _WITHOUT_LOCKS:
                raise NoLocksError(
                    f"{output.parent}: this file system has no file locks ({error.strerror}): give --no-lock, and see "
                    "to it that only one run writes there"
                ) from None
            raise OSError(error.errno, error.strerror, str(lock_path)) from None
        os.close(descriptor)


def _holder(told: bytes) -> str:
    """Return who wrote this into the lock file, in words."""
    try:
        found = json.loads(told)
        return f"process {int(found['pid'])} on {str(found['host'])[:255]}"
    except (ValueError, TypeError, KeyError):
        return "another process"

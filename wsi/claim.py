"""One writer per output: an atomic claim that the operating system gives back when the holder dies."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsi.errors import ClaimedError


@contextmanager
def claim(output: Path) -> Iterator[None]:
    """Hold the right to write ``output`` while the block runs.

    An exclusive ``flock`` on the hidden file ``.<name>.lock`` beside the output: kill -9 releases it, so no lock can go
    stale. The file is removed at the end, under the lock; who waited for a removed file starts anew.

    Raises
    ------
    ClaimedError
        Another process holds the claim; the message names its host and process id.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    lock_path = output.parent / f".{output.name}.lock"
    descriptor = _locked(lock_path, output)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode(), 0)
        yield
    finally:
        lock_path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock_path: Path, output: Path) -> int:
    """Return the descriptor of the lock file, locked; the file at that path is still the one that was locked."""
    while True:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == os.stat(lock_path).st_ino:
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 256, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise ClaimedError(f"{output} is being written by {holder}: wait for it, or stop it") from None
        except FileNotFoundError:
            pass
        os.close(descriptor)

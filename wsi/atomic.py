"""Files that are whole or not there: written to a temporary name beside the target, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi.errors import RequestError

PARTIAL = ".partial"
"""Suffix of everything that is not yet whole."""


def check_folder(path: Path) -> None:
    """Raise `RequestError` where an output folder's path is taken by a file; nothing is made yet."""
    if path.exists() and not path.is_dir():
        raise RequestError(f"--out {path}: expected a folder, found a file")


def make_folder(path: Path) -> None:
    """Make an output folder, or raise `RequestError` with the reason why it cannot be one."""
    check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {path}: the folder cannot be made: {error.strerror}") from None


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path in the target's folder; rename it over the target when the block ends without an error.

    On an error the temporary file is removed and the target stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_bytes(target: Path, data: bytes) -> None:
    """Write ``data`` to ``target``, whole or not at all."""
    with replacing(target) as temporary:
        temporary.write_bytes(data)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``target``, whole or not at all."""
    write_bytes(target, text.encode())

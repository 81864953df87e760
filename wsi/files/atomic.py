"""Files that are whole or not there: written to a temporary name beside the target, then renamed."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsi.errors import RequestError
from wsi.files.replace import PARTIAL, Mark, discard, discard_leftovers, put, refuse_foreign, temporary_path

__all__ = ["PARTIAL", "check_folder", "make_folder", "replacing", "write_bytes", "write_text"]


def check_folder(path: Path, option: str = "--out") -> None:
    """Raise `RequestError` where an output folder's path is taken by a file or a tile store; nothing is made yet."""
    if path.exists() and not path.is_dir():
        raise RequestError(f"{option} {path}: expected a folder, found a file")
    if (path / "zarr.json").exists():
        raise RequestError(
            f"{option} {path}: expected a folder for outputs, found a store, in which nothing else may lie"
        )


def make_folder(path: Path, option: str = "--out") -> None:
    """Make an output folder and rid it of what killed runs left, or raise `RequestError`: why it cannot be one."""
    check_folder(path, option)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{option} {path}: the folder cannot be made: {error.strerror}") from None
    discard_leftovers(path)


@contextmanager
def replacing(target: Path, ours: Mark | None = None, *, at_once: bool = False) -> Iterator[Path]:
    """Give a temporary path in the target's folder; put it in the target's place when the block ends without an error.

    On an error the temporary file is removed and the target stays as it was; an `OSError` names the target.

    Parameters
    ----------
    target
        The file to be.
    ours
        How to tell that a file that is there may be replaced, as `wsi.files.replace.put` wants it; asked before the
        block, too. A path that a user named wants one.
    at_once
        Of a folder of thousands of small files: as `wsi.files.replace.flush` has it.

    Raises
    ------
    RequestError
        A file is there that is not ours.
    """
    if ours is not None:
        refuse_foreign(target, ours)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(target)
    try:
        yield temporary
        put(temporary, target, ours, at_once=at_once)
    except BaseException as error:
        with suppress(OSError):
            discard(temporary)
        if isinstance(error, OSError) and error.errno and (not error.filename or str(error.filename) == str(temporary)):
            raise OSError(error.errno, error.strerror, str(target)) from None  # which file the disk had no room for
        raise


def write_bytes(target: Path, data: bytes, ours: Mark | None = None) -> None:
    """Write ``data`` to ``target``, whole or not at all; see `replacing`."""
    with replacing(target, ours) as temporary:
        temporary.write_bytes(data)


def write_text(target: Path, text: str, ours: Mark | None = None) -> None:
    """Write ``text`` (UTF-8) to ``target``, whole or not at all; see `replacing`."""
    write_bytes(target, text.encode(), ours)

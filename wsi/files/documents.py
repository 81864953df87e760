"""Documents that may come from elsewhere (JSON, CSV, TOML): read whole within bounds, and told apart from the storage.

What a name leads to (nothing, a pipe, more bytes than there can be) and what stands in it is the document's fault, an
error of ours; what a disk or network says is an `OSError`, and no fault of the document.
"""

import errno
import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from wsi.errors import GigamilError, RequestError
from wsi.files.regular import open_regular, read_regular

MOST_BYTES = 128 << 20
"""Of a document; what its values take in memory is some twenty times as much."""
_MOST_TOML = 1 << 20
_OF_THE_NAME = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.ENXIO),
}
"""What opening says of the name that was given, and not of the storage."""


def is_of_the_name(error: OSError) -> bool:
    """Tell whether an error of opening speaks of the file that was named, rather than of the storage or the memory."""
    return error.errno in _OF_THE_NAME


def read_document(path: Path, wrong: type[GigamilError], most_bytes: int = MOST_BYTES) -> bytes:
    """Return a file's bytes.

    Raises
    ------
    wrong
        There is no such file, it is no regular one, may not be read, or is larger than ``most_bytes``.
    OSError
        The storage fails.
    """
    with _told(path, wrong):
        return read_regular(path, most_bytes)


def check_document(path: Path, wrong: type[GigamilError]) -> int:
    """Return the size in bytes of a file that a library is to open by its name; raises as `read_document`."""
    with _told(path, wrong), open_regular(path) as file:
        return file.seek(0, 2)


@contextmanager
def _told(path: Path, wrong: type[GigamilError]) -> Iterator[None]:
    """Turn what opening says of the name that was given into an error of ours."""
    try:
        yield
    except OSError as error:
        if not is_of_the_name(error):
            raise
        raise wrong(f"{path}: cannot be read: {error.strerror}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a file of TOML that a person wrote; `RequestError` where there is none."""
    try:
        return tomllib.loads(read_document(path, RequestError, _MOST_TOML).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{path}: expected TOML: {error}") from None


def parse_json(data: bytes | str, *, finite: bool = False) -> Any:
    """Return JSON values; `ValueError` in one line where there are none, where they are nested too deeply, or NaN."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        return json.loads(text, parse_constant=_no_number if finite else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_number(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which JSON does not know."""
    raise ValueError(f"{name} is no number")

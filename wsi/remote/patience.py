"""Patience with networks: what may go better the next time is tried again, later and later, for minutes."""

import errno
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

_Found = TypeVar("_Found")

PATIENCE = "GIGAMIL_REMOTE_PATIENCE"
"""Environment variable: seconds for which one request is tried again before its item fails."""
TIMEOUT = "GIGAMIL_REMOTE_TIMEOUT"
"""Environment variable: seconds without a byte after which an answer counts as lost."""
_PATIENCE_S, _TIMEOUT_S = 300.0, 30.0
_FIRST_S, _LONGEST_S = 0.2, 20.0
"""Waiting before the second try, and at most; each time up to twice as long as before, and by chance."""

_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_OF_THIS_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENAMETOOLONG,
    errno.ENOSYS,
}
_NETWORK = frozenset({"aiohttp", "botocore", "aiobotocore", "urllib3", "http", "s3fs", "fsspec", "gcsfs", "azure"})
"""Packages whose errors speak of a network."""
_FINAL_KINDS = ("redential", "ParamValidation", "Profile", "Region", "Token", "InvalidURL", "NoSuch", "Unsupported")
"""Parts of the names of their errors that no second try mends."""


def timeout_s() -> float:
    """Return the seconds without a byte after which an answer counts as lost."""
    return _seconds(TIMEOUT, _TIMEOUT_S)


def patiently(ask: Callable[[], _Found], patience_s: float | None = None) -> _Found:
    """Return what ``ask`` gives; try again where the network failed, up to so many seconds, then raise its error.

    Waiting doubles, and a random share of it is waited, so that many machines do not come back at one moment.
    """
    until = time.monotonic() + (_seconds(PATIENCE, _PATIENCE_S) if patience_s is None else patience_s)
    wait = _FIRST_S
    while True:
        try:
            return ask()
        except Exception as error:  # file systems raise nearly anything
            if not may_pass(error) or time.monotonic() + wait > until:
                raise
        time.sleep(random.uniform(wait / 2, wait))
        wait = min(2 * wait, _LONGEST_S)


def may_pass(error: BaseException | None) -> bool:
    """Tell whether an error may be gone the next time: lost, cut, slow or overloaded; not: absent, forbidden, full."""
    if error is None:
        return False
    if isinstance(error, FileNotFoundError):  # what fsspec makes of any failure of its first request to a web server
        cause = error.__cause__
        return not isinstance(cause, FileNotFoundError) and may_pass(cause)
    if isinstance(error, _FINAL):
        return False
    if web_status(error):
        return web_status(error) >= 500 or web_status(error) in {408, 429}
    if isinstance(error, OSError):
        return error.errno not in _OF_THIS_MACHINE and not _says_final(error)
    module, kind = type(error).__module__.partition(".")[0], type(error).__name__
    return module in _NETWORK and not any(part in kind for part in _FINAL_KINDS)


def _says_final(error: OSError) -> bool:
    """Tell whether a server understood and refused: S3's answers 4xx, but for those that ask to come back."""
    answer: Any = getattr(error.__cause__, "response", None)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) if isinstance(answer, dict) else 0
    return 400 <= int(status) < 500 and status not in {400, 408, 409, 429}  # 400: also an upload that was cut


def web_status(error: BaseException | None) -> int:
    """Return the status of a web server's answer; 0 where the error is none."""
    found = getattr(error, "status", 0)
    return found if isinstance(found, int) and type(error).__module__.startswith("aiohttp") else 0


def _seconds(name: str, otherwise: float) -> float:
    try:
        return max(0.01, float(os.environ.get(name, "")))
    except ValueError:
        return otherwise

"""The file system behind a URL, opened through fsspec; what it raises, in one line that a person can act on."""

import re
from collections.abc import Mapping
from typing import Any

from wsi.errors import GigamilError, RemoteError, RequestError, described
from wsi.remote.patience import may_pass, timeout_s, web_status

Settings = Mapping[str, Any]
"""What the file system behind a URL wants beside it, as fsspec's ``storage_options``: endpoint_url, key, secret."""

_CREDENTIALS = re.compile(r"(s3a?|gc?s)://[^/]*:.*@")
_CONNECT_S = 10.0


def open_filesystem(url: str, settings: Settings | None = None) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it; listings are never taken from memory.

    Raises
    ------
    RequestError
        Credentials stand in the URL, or nothing that is installed knows its protocol.
    """
    if _CREDENTIALS.match(url):
        raise RequestError(
            f"{url}: credentials in a URL are not read, and stand in the shell's history: give them to the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        )
    try:
        from fsspec.core import url_to_fs

        filesystem, root = url_to_fs(url, **(_timeouts(url) | dict(settings or {})))
    except Exception as error:
        raise RequestError(line(url, error)) from None
    return filesystem, str(root).rstrip("/")


def _timeouts(url: str) -> dict[str, Any]:
    """Return how long to wait for lost answers, as the protocol's file system has it."""
    protocol = url.partition("://")[0]
    if protocol in {"s3", "s3a"}:
        waiting = {"connect_timeout": min(_CONNECT_S, timeout_s()), "read_timeout": timeout_s()}
        return {"config_kwargs": waiting, "use_listings_cache": False}
    if protocol in {"http", "https"}:
        # a signed URL is sent as it was given: quoted anew, its signature would not fit
        return {"client_kwargs": {"timeout": _web_timeout()}, "encoded": "%" in url, "use_listings_cache": False}
    return {"use_listings_cache": False}


def _web_timeout() -> Any:
    try:
        from aiohttp import ClientTimeout
    except ImportError:  # the file system says so itself
        return None
    return ClientTimeout(total=None, sock_connect=min(_CONNECT_S, timeout_s()), sock_read=timeout_s())


def failure(name: str, error: BaseException) -> GigamilError:
    """Return what a file system raised as an error of ours.

    A `RequestError` where the request is wrong (nothing there, denied, no credentials, not installed), a `RemoteError`
    where the network failed for too long.
    """
    if isinstance(error, GigamilError):
        return error
    if may_pass(error):
        return RemoteError(
            f"{name}: the network failed again and again ({described(error)}): run the same command again"
        )
    return RequestError(line(name, error))


def line(name: str, error: BaseException) -> str:
    """Return in one line what a file system could not do, and what to do."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if isinstance(error, ImportError) or (isinstance(error, ValueError) and "Install" in text):
        return f"{name}: the file system of this URL is not installed ({text}): pip install 'gigamil[s3]'"
    if "redential" in kind or "redential" in text or "AccessKey" in text:
        return f"{name}: no valid credentials ({text}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if "NoSuchBucket" in text or "bucket does not exist" in text:
        return f"{name}: there is no such bucket: check its name, and AWS_ENDPOINT_URL where it is not Amazon's"
    status = web_status(error) or web_status(error.__cause__)
    if status in {401, 403}:
        return f"{name}: access denied (HTTP {status}): a signed URL ends at its time: make a new one"
    if isinstance(error, FileNotFoundError):
        return f"{name}: not found"
    if isinstance(error, PermissionError):
        return f"{name}: access denied ({text}): check the credentials and the bucket's policy"
    return f"{name}: cannot be read ({kind}: {text})"


def is_absence(error: FileNotFoundError) -> bool:
    """Tell whether an object is not there, rather than its bucket, or an answer to the question."""
    bucket = "NoSuchBucket" in str(error) or "bucket does not exist" in str(error)
    return not bucket and not may_pass(error) and web_status(error.__cause__) in {0, 404}

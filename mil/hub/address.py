"""``hf://owner/name/path``: a repository of the hub, and a folder in it; what its refusals mean, in one line."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from features.encoders.hub import links
from wsi.errors import GigamilError, RemoteError, RequestError, one_line

_ADDRESS = re.compile(r"hf:/+([\w.-]+)/([\w.-]+)((?:/[\w.-]+)*)/?")
MANIFEST = "gigamil.json"
"""Beside what was pushed, written last: what it is, and the sha256 of each file."""
FORMAT = "gigamil-hub-1"


@dataclass(frozen=True, slots=True)
class Address:
    """Where on the hub."""

    repo: str
    """owner/name."""
    folder: str
    """In it; empty for its root."""

    def of(self, name: str) -> str:
        """Return the path in the repository of a file."""
        return f"{self.folder}/{name}" if self.folder else name

    def __str__(self) -> str:
        return "/".join(filter(None, ("hf:/", self.repo, self.folder)))


def address_of(text: str) -> Address:
    """Return the address that a text is; `RequestError` where it is none."""
    match = _ADDRESS.fullmatch(text)
    if match is not None:
        owner, name, folder = match[1], match[2], match[3].strip("/")
        if not any(set(own) <= {"."} for own in (owner, name, *(folder.split("/") if folder else ()))):
            return Address(f"{owner}/{name}", folder)
    raise RequestError(f"{one_line(text, 200)}: expected hf://OWNER/NAME or hf://OWNER/NAME/PATH")


def endpoint() -> str | None:
    """Return the hub that the environment names; None: the library's own."""
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def refusals(address: Address, what: str) -> Iterator[None]:
    """Turn what the hub's client raises within the block into one line that says what to do; no token is in it.

    Raises
    ------
    RequestError
        The hub refuses: no such repository, no right to it, an unknown token.
    RemoteError
        The connection failed; what is there stays.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()  # there is one of ours
    try:
        yield
    except GigamilError:
        raise
    except Exception as error:
        known = next((own for link in links(error) if (own := _refusal(address, what, link))), None)
        if known is None and not (isinstance(error, OSError | RuntimeError | ValueError) or _is_of_http(error)):
            raise
        told = f"{type(error).__name__}: {one_line(error, 200)}"
        broke = f"{address}: {what} broke off ({told}): what is there stays; give the command again"
        raise known or RemoteError(broke) from None
    finally:
        if shown:
            enable_progress_bars()


def _is_of_http(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0].rstrip("2") in ("httpx", "httpcore", "requests")


def _refusal(address: Address, what: str, error: BaseException) -> GigamilError | None:
    """Return what an error of the hub's client means; None of others."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return RequestError(
            f"{address} is gated, and this account may not have it: accept its terms on its page, then set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return RequestError(f"{address}: {_not_found(_code(error))}")
    if isinstance(error, errors.HfHubHTTPError):
        return _of_code(address, what, error)
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError) and not error.__cause__:
        if "push" in what:
            return RequestError(
                f"{address}: the hub cannot be reached (HF_HUB_OFFLINE, or no network): a push wants one"
            )
        return RequestError(
            f"{address} is not in the hub's cache (HF_HOME), and the hub cannot be reached (HF_HUB_OFFLINE, or no "
            "network): fetch it where there is a network, and copy the cache"
        )
    if type(error) is ValueError:  # the client's, of a path that is absolute or leads upwards
        return RequestError(f"{address}: {what} met a path that can be no file's here, and took nothing: {error}")
    return None


def _code(error: BaseException) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _not_found(code: int) -> str:
    if code == 401:
        return "the hub knows no such repository, or not this token: log in (hf auth login), or set HF_TOKEN"
    return "the hub knows no such repository, or this account may not see it"


def _of_code(address: Address, what: str, error: BaseException) -> GigamilError:
    code = _code(error)
    if code == 401:
        return RequestError(f"{address}: the hub does not know this token: log in (hf auth login), or set HF_TOKEN")
    if code == 403:
        return RequestError(f"{address}: this account may not do that: expected a token that may write there")
    return RemoteError(f"{address}: {what} failed (the hub answered {code or 'nothing'}): give the command again later")

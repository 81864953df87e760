"""Every error that a user can cause, as one tree.

    GigamilError (Exception)
    ├── RequestError (ValueError)      the request is wrong: an option, a manifest, a path        exit code 2
    │   ├── ManifestError              a cohort table breaks its contract
    │   ├── RecipeMismatchError        the output exists and was made with other settings
    │   └── NoLocksError               the output's file system has no file locks
    ├── ClaimedError (OSError)         another run is writing this output                          exit code 2
    ├── SchedulerLostError (OSError)   the Dask scheduler went away                                exit code 1
    └── ItemError (RuntimeError)       one item failed, the others go on                          exit code 1
        ├── StalledError               its work lives and moves no more
        ├── SlideError                 a slide cannot be used
        │   ├── UnreadableSlideError   no reader opens it, or none reads its pixels
        │   │   └── NotASlideError     what is asked of it no reader could give: no other is tried
        │   ├── DamagedSlideError      some of its pixels cannot be decoded
        │   └── ResolutionError        its um/px cannot be believed
        ├── StoreError                 a tile store is missing, incomplete or damaged
        ├── BagError                   a bag of features is missing, incomplete or damaged
        ├── AnnotationError            a file of annotations cannot be used
        └── RemoteError                what lies behind a URL is not whole, or the network failed for too long

Each carries one message and nothing else, so that pickling (a worker raises, the client prints) keeps it whole.
A message says what was expected, what was found and what to do. It is one line of bounded length, whatever the file
held that it speaks of (`one_line`), and never tells credentials (`masked`).
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

_BREAK = re.compile(r"\s*[^\S ]\s*")
_USER = re.compile(r"""((?:[a-z][a-z0-9+.-]*:/+)?)[^\s'"/@:\\]+:(?![/\\]|\d+/)[^\s'"@]*@""", re.IGNORECASE)
"""``user:password@``, with or without a scheme before it; a password may hold slashes, a port is none."""
_TOKEN = re.compile(r"""([a-z][a-z0-9+.-]*:/+)[^\s'"/@*]+@""", re.IGNORECASE)
_QUERY = re.compile(
    r"""([?&;][\w.-]*(?:sig|signature|token|secret|password|credential|key|accesskeyid)=)[^&;\s'"]+""", re.IGNORECASE
)

MOST_CHARACTERS = 1000
"""Of a message."""


def masked(text: str) -> str:
    """Return a text with the credentials of URLs in it starred: before an ``@``, and in a signed URL's query."""
    for pattern, stars in ((_USER, r"\1***@"), (_TOKEN, r"\1***@"), (_QUERY, r"\1***")):
        text = pattern.sub(stars, text)
    return text


def one_line(told: object, most: int = MOST_CHARACTERS) -> str:
    """Return a text as one line of at most ``most`` characters: its beginning and, of a longer one, its end."""
    text = str(told).strip()
    if not text.isprintable():
        text = "".join(own if own.isprintable() else "?" for own in _BREAK.sub(" ", text))
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail - 5]} ... {text[-tail:]}"


def described(error: BaseException) -> str:
    """Return another library's error as one line of at most 200 characters: its kind and its text."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:197]}..."


class GigamilError(Exception):
    """Base of every error that gigamil raises on purpose."""

    def __init__(self, *arguments: object) -> None:
        # bounded before, too: patterns over what a hostile file holds would take minutes
        told = (one_line(masked(one_line(own, 10_000))) if isinstance(own, str) else own for own in arguments)
        super().__init__(*told)


class RequestError(GigamilError, ValueError):
    """The request cannot be carried out as it was put."""


class ManifestError(RequestError):
    """A cohort table breaks its contract."""


class RecipeMismatchError(RequestError):
    """An output of that name exists and was made with other settings."""


class NoLocksError(RequestError):
    """The output's file system has no file locks."""


class ClaimedError(GigamilError, OSError):
    """Another process is writing the same output."""


class SchedulerLostError(GigamilError, OSError):
    """The Dask scheduler went away in the middle of the work."""


class ItemError(GigamilError, RuntimeError):
    """One slide, store or bag failed; the others can go on."""


class StalledError(ItemError):
    """Work lives and moves no more: a read from a disk that went away."""


class SlideError(ItemError):
    """A slide cannot be used."""


class UnreadableSlideError(SlideError):
    """No reader opens the file, or none reads its pixels."""


class NotASlideError(UnreadableSlideError):
    """The file is understood, and what is asked of it no reader could give: no other need be tried."""


class DamagedSlideError(SlideError):
    """Some pixels of the slide cannot be decoded."""


class ResolutionError(SlideError):
    """The slide's um/px is missing or cannot be believed."""


class StoreError(ItemError):
    """A tile store is missing, incomplete or damaged."""


class BagError(ItemError):
    """A bag of features is missing, incomplete or damaged."""


class DivergedError(BagError):
    """Training gave no number: the settings, or features that are none."""


class AnnotationError(ItemError):
    """A file of annotations cannot be used."""


class RemoteError(ItemError):
    """What lies behind a URL is not whole, or the network failed for too long."""


def says_damage(error: BaseException) -> bool:
    """Tell whether an error that decoding raised speaks of the bytes.

    Disks, networks and memory may do better the next time: what they say is never written down as damage. Codecs raise
    `OSError`, too (bz2, gzip, Pillow), but without a number; and a broken file may name an impossible place (EINVAL).
    """
    if isinstance(error, OSError):
        return error.errno in {None, errno.EINVAL}
    no_memory = type(error).__name__ == "error" and getattr(error, "code", 0) == _CV2_NO_MEMORY
    return not isinstance(error, MemoryError) and not no_memory


@contextmanager
def told_as(kind: type[GigamilError], what: str) -> Iterator[None]:
    """Turn what another library raises on broken data into an error of our tree: ``what``, and in brackets why.

    Our own errors stay as they are, and so does what a disk or memory says.
    """
    try:
        yield
    except GigamilError:
        raise
    except Exception as error:  # such libraries raise nearly anything
        if not says_damage(error):
            raise
        raise kind(f"{what} ({described(error)})") from None


_CV2_NO_MEMORY = -4
"""OpenCV's StsNoMem: it has an error class of its own."""

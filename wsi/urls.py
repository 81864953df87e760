"""URLs where a path may stand: told apart by their look, kept whole through `pathlib`.

Nothing is opened here. ``a://b`` that went through `pathlib.Path` reads ``a:/b``: both are taken for the URL.
"""

import os
import re
from pathlib import Path, PosixPath

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=[^/])")


def url_of(place: object) -> str:
    """Return the URL that a path or text is, without a slash at its end; "" where it is a path of this machine.

    ``file://`` is a path of this machine.
    """
    text = str(place)
    match = _URL.match(text)
    return f"{match[1]}://{text[match.end() :].rstrip('/')}" if match and match[1] != "file" else ""


def local_path(place: str | os.PathLike[str]) -> Path:
    """Return a path of this machine; that of a ``file://`` URL, too."""
    match = _URL.match(str(place))
    return Path("/" + str(place)[match.end() :].rstrip("/")) if match and match[1] == "file" else Path(place)


def path_of(place: str | os.PathLike[str]) -> Path:
    """Return what stands where a path is wanted: a path, or a `UrlPath`."""
    url = url_of(place)
    return UrlPath(url) if url else local_path(place)


def is_web(url: str) -> bool:
    """Tell whether a URL is a web server's, who lists nothing and takes nothing."""
    return url.startswith(("http://", "https://"))


class UrlPath(PosixPath):
    """A URL where a path is wanted: it has a name, a parent and parts below it, and its text is the URL.

    What asks the disk for it finds nothing: whoever opens files asks `url_of` first.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return url_of(text) or text

    def absolute(self) -> "UrlPath":
        return self

    def resolve(self, strict: bool = False) -> "UrlPath":
        return self

"""Who may ask the server for what: pure rules, asked before anything of a request is used.

A page of another site can make a browser send requests here. It cannot read the answers; it cannot pretend to be our
page either, for the browser tells whose page asks (`Origin`, `Sec-Fetch-Site`). A name of its own that leads to this
machine (DNS rebinding) stands in `Host`.
"""

import hmac
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

_OSD_STYLE = "'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='"
"""The one style sheet that OpenSeadragon 6.1 adds by itself: no outline around the picture on touch screens."""
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self' {_OSD_STYLE}; img-src 'self' data: blob:; "
        "connect-src 'self'; "
        "font-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "gigamil",
}
"""Of every answer; some overwrite a few of them."""
EVERYBODY = "*"
_LOCAL = "localhost"


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one server."""

    host: str
    """The address that it listens on, as it was given."""
    token: str | None
    """What must come with every request; None: whoever reaches the address may ask."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may read the stores' files (``https://example.org``), or `EVERYBODY`."""

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach the address."""
        return is_loopback(self.host)

    def knows_host(self, header: str | None) -> bool:
        """Tell whether a `Host` header names this server: any other name was made to lead here by somebody else."""
        try:
            name = (urlsplit(f"//{header}").hostname or "") if header else ""
        except ValueError:
            return False
        if name == _LOCAL or is_loopback(name):
            return True
        own = {self.host.casefold(), socket.gethostname().casefold(), socket.getfqdn().casefold()}
        return not self.is_local and (_is_address(name) or name in own)

    def knows_token(self, given: str | None) -> bool:
        """Tell whether a token is the server's, in a time that does not depend on how much of it is right."""
        return self.token is None or hmac.compare_digest((given or "").encode(), self.token.encode())

    def may_read(self, origin: str) -> bool:
        """Tell whether pages of another site may read the stores' files."""
        return EVERYBODY in self.cors or origin in self.cors


def may_write(headers: Mapping[str, str], host: str) -> bool:
    """Tell whether a request that writes comes from our own pages, or from no page at all."""
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
    if site not in (None, "same-origin", "none"):
        return False
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.casefold() == host.casefold() != ""
    except ValueError:
        return False


def new_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone: ``localhost``, 127.0.0.0/8 or ::1."""
    try:
        return host == _LOCAL or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True

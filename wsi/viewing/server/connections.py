"""An HTTP server that keeps serving, however many connections are opened and left half-way."""

from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application

MOST_CONNECTIONS = 256
"""Beyond these the one that has waited longest without asking anything is closed."""
HEADER_SECONDS, BODY_SECONDS = 30.0, 120.0
"""A connection that has not sent its next request, or its body, in this time is closed."""
MOST_HEADER, MOST_BODY = 16 << 10, 64 << 10
"""Bytes; handlers that take more say so."""


def bounded_server(application: Application) -> "BoundedServer":
    """Return a server with bounds on connections, times and sizes."""
    return BoundedServer(
        application,
        idle_connection_timeout=HEADER_SECONDS,
        body_timeout=BODY_SECONDS,
        max_header_size=MOST_HEADER,
        max_body_size=MOST_BODY,
    )


class BoundedServer(HTTPServer):
    """Tornado's server with a bound on connections; `bounded_server` makes one."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._asked: dict[IOStream, int] = {}
        """Requests that came over each open connection, the connection that has waited longest first."""

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Take a connection; make room for it first."""
        self._asked = {own: count for own, count in self._asked.items() if not own.closed()}
        if len(self._asked) >= MOST_CONNECTIONS:
            silent = next((own for own, count in self._asked.items() if not count), next(iter(self._asked)))
            self._asked.pop(silent)
            silent.close()
        self._asked[stream] = 0
        super().handle_stream(stream, address)

    def asked(self, stream: IOStream) -> None:
        """Count a request whose header came whole: its connection goes to the end of the line."""
        if stream in self._asked:
            self._asked[stream] = self._asked.pop(stream) + 1

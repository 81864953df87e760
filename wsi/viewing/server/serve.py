"""The server, from its address to its end."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tornado.netutil import bind_sockets
from tornado.web import Application

from wsi.errors import RequestError
from wsi.machine.cpu import usable_cpus
from wsi.viewing.served import Served
from wsi.viewing.server import raw_files, reading, writing
from wsi.viewing.server.access import Access
from wsi.viewing.server.connections import bounded_server
from wsi.viewing.server.handler import Nowhere, Serving

_PREFERRED_PORT = 8817
"""Taken where it is free, so that bookmarks and what a browser remembers still fit the next time."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server listens."""

    host: str
    port: int
    token: str | None
    stop: Callable[[], object]
    """Ends the server, from any thread."""

    @property
    def url(self) -> str:
        """What to open in a browser."""
        anywhere = self.host in {"0.0.0.0", "::", ""}
        name = socket.gethostname() if anywhere else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.port}/" + (f"?token={self.token}" if self.token else "")


def serve(served: Served, access: Access, port: int, ready: Callable[[Listening], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; what is being written then is written to its end.

    Parameters
    ----------
    served
        What is shown.
    access
        Who may ask.
    port
        To listen on; 0: one that is free.
    ready
        Called once the server listens.

    Raises
    ------
    RequestError
        The address cannot be listened on.
    """
    asyncio.run(_serve(served, access, port, ready))


async def _serve(served: Served, access: Access, port: int, ready: Callable[[Listening], None]) -> None:
    import wsi.zarr_jpeg  # noqa: F401  (and zarr with it: before somebody waits for the first page)

    stop = asyncio.Event()
    sockets = _bound(access.host, port)
    with ThreadPoolExecutor(min(4, usable_cpus() + 1), thread_name_prefix="view") as threads, _stopped_by(stop):
        serving = Serving(access, served, threads, port=sockets[0].getsockname()[1])
        settings = {"serving": serving}
        routes = [*reading.routes(settings), *writing.routes(settings), *raw_files.routes(settings)]
        app = Application(
            routes, default_handler_class=Nowhere, default_handler_args=settings, log_function=lambda _: None
        )
        serving.server = bounded_server(app)
        serving.server.add_sockets(sockets)
        loop = asyncio.get_running_loop()
        ready(Listening(access.host, serving.port, access.token, lambda: loop.call_soon_threadsafe(stop.set)))
        loop.run_in_executor(threads, served.warm)
        await stop.wait()
        serving.server.stop()
        threads.shutdown(wait=False, cancel_futures=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(serving.server.close_all_connections(), 1)


def _bound(host: str, port: int) -> list[Any]:
    """Return sockets that listen on an address."""
    tried = (port,) if port else (_PREFERRED_PORT, 0)
    reasons = {own: _why_not(host, own) for own in tried}
    free = [own for own in tried if not reasons[own]]
    if not free:
        why = f"{reasons[tried[-1]]}: give another --host or --port"
        raise RequestError(f"{host}, port {port or 'any'}: cannot be listened on: {why}")
    return bind_sockets(free[0], host)


def _why_not(host: str, port: int) -> str:
    """Return why an address cannot be listened on, nothing where it can."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextmanager
def _stopped_by(stop: asyncio.Event) -> Iterator[None]:
    """Have the first signal stop the server, the second one the process; elsewhere than in a main thread nothing."""
    loop, before = asyncio.get_running_loop(), {number: signal.getsignal(number) for number in _SIGNALS}

    def received(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    try:
        for number in _SIGNALS:
            with suppress(ValueError, RuntimeError, NotImplementedError):
                loop.add_signal_handler(number, received, number)
        yield
    finally:
        for number, handler in before.items():
            with suppress(ValueError, RuntimeError, NotImplementedError):
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

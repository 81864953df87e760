"""What every answer of the server has in common: who may ask, headers, one line for what is wrong, work on threads."""

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, unquote, urlencode

from tornado.web import Finish, HTTPError, RequestHandler

from wsi.errors import AnnotationError, ClaimedError, GigamilError, RequestError, masked, one_line
from wsi.viewing.judgements import check_reader
from wsi.viewing.served import Served
from wsi.viewing.server.access import HEADERS, Access, may_write
from wsi.viewing.server.connections import BoundedServer

READER_COOKIE = "gigamil_reader"
_YEAR = 365
_WRITES = frozenset({"POST", "PUT", "DELETE", "PATCH"})
_PARAMS = ParamSpec("_PARAMS")
_Result = TypeVar("_Result")


@dataclass(slots=True)
class Serving:
    """What handlers need of the server that they answer for."""

    access: Access
    served: Served
    threads: Executor
    server: BoundedServer | None = None
    port: int = 0

    @property
    def token_cookie(self) -> str:
        """The name of the cookie; browsers keep one set of cookies for all ports of a host."""
        return f"gigamil_token_{self.port}"


class Handler(RequestHandler):
    """Base of all handlers."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS")

    def initialize(self, serving: Serving) -> None:
        """Take what is served."""
        self.serving, self.served = serving, serving.served

    def set_default_headers(self) -> None:
        """Set what every answer says."""
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse who may not ask, before anything of the request is used."""
        access, request = self.serving.access, self.request
        if self.serving.server:
            self.serving.server.asked(request.connection.stream)  # type: ignore[union-attr]
        if not access.knows_host(request.headers.get("Host")):
            raise HTTPError(403, reason="Forbidden", log_message="the request names another host than this server")
        if request.method in _WRITES and not may_write(request.headers, request.headers.get("Host", "")):
            raise HTTPError(403, log_message="only the pages of this server may write")
        if request.method == "OPTIONS":
            return
        given = self.get_query_argument("token", None)
        if not (access.knows_token(self.get_cookie(self.serving.token_cookie)) or access.knows_token(self._bearer())):
            if not access.knows_token(given):
                raise HTTPError(401, log_message="open the address that gigamil printed, with its token")
            self.set_cookie(self.serving.token_cookie, given or "", httponly=True, samesite="Lax", path="/")
        if given is not None and access.token and request.method == "GET":
            rest = [(name, value) for name in request.query_arguments for value in self.get_query_arguments(name)]
            query = urlencode([pair for pair in rest if pair[0] != "token"])
            self.redirect(_path_only(request.path) + (f"?{query}" if query else ""))
            raise Finish

    def _bearer(self) -> str | None:
        kind, _, value = self.request.headers.get("Authorization", "").partition(" ")
        return value.strip() if kind.lower() == "bearer" else None

    @property
    def reader(self) -> str | None:
        """The name that the reader of this browser typed."""
        try:
            return check_reader(unquote(self.get_cookie(READER_COOKIE) or "", errors="strict"))
        except (RequestError, UnicodeDecodeError):
            return None

    def set_reader(self, name: str | None) -> None:
        """Have the browser remember a name, or forget it."""
        if name is None:
            self.clear_cookie(READER_COOKIE)
        else:
            self.set_cookie(
                READER_COOKIE, quote(name, safe=""), expires_days=_YEAR, httponly=True, samesite="Lax", path="/"
            )

    async def on_threads(
        self, work: Callable[_PARAMS, _Result], *args: _PARAMS.args, **named: _PARAMS.kwargs
    ) -> _Result:
        """Return what a function that reads, writes or computes returns; skipped where nobody waits for it any more."""
        stream = self.request.connection.stream  # type: ignore[union-attr]

        def run() -> _Result:
            if stream.closed():
                raise Finish
            return work(*args, **named)

        return await asyncio.get_running_loop().run_in_executor(self.serving.threads, run)

    def known(self, image_id: str) -> str:
        """Return the id of a slide that is shown, or answer that there is none."""
        if image_id not in self.served.collection.slides:
            raise HTTPError(404, log_message="there is no such slide here")
        return image_id

    def body(self, *, most: int) -> dict[str, Any]:
        """Return the object that was sent as JSON."""
        if len(self.request.body) > most:
            raise HTTPError(413, log_message=f"expected at most {most:,} bytes")
        try:
            told = json.loads(self.request.body)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise HTTPError(400, log_message="expected an object, as JSON")
        return told

    def send_json(self, told: Any, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.finish(json.dumps(told, ensure_ascii=False, allow_nan=False))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with one line that says what is wrong."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        line = {404: "there is nothing at this address"}.get(status_code, self._reason)
        if isinstance(error, HTTPError) and error.log_message:
            line = error.log_message
        elif isinstance(error, GigamilError):
            line = str(error)
        elif isinstance(error, OSError):
            line = f"{error.filename or 'input or output'}: {error.strerror or error}"
        self.send_json({"error": masked(one_line(line))}, status_code)

    def _handle_request_exception(self, e: BaseException) -> None:
        """Give errors of ours and of the disk their status; tornado logs the others."""
        status = _status(e)
        if status is None or self._finished:
            super()._handle_request_exception(e)
        else:
            self.send_error(status, exc_info=(type(e), e, e.__traceback__))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Say nothing of what the answer says already."""
        if not isinstance(value, HTTPError):
            logging.getLogger("gigamil.view").error("%s", one_line(value), exc_info=(typ, value, tb))


def _status(error: BaseException) -> int | None:
    """Return the status of an answer by its error; None for those that tornado knows, and for faults of ours."""
    if isinstance(error, ClaimedError):
        return 409
    if isinstance(error, (RequestError, AnnotationError)):
        return 400
    if isinstance(error, OSError) and not isinstance(error, GigamilError):
        return 507 if error.errno in {28, 122} else 500
    return 500 if isinstance(error, GigamilError) else None


def _path_only(path: str) -> str:
    """Return a path that leads nowhere else: ``//host`` would."""
    return "/" + path.lstrip("/\\")


class Nowhere(Handler):
    """Answers what no other handler does."""

    async def get(self, *_: str) -> None:
        """Say that there is nothing."""
        raise HTTPError(404)

    head = post = put = options = get

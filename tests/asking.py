"""A server of ours on a thread, and requests to it exactly as they are written: no client tidies paths or headers."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from wsi.store.folder import Location
from wsi.viewing.collection import Collection, find_shown, patients_of
from wsi.viewing.judgements import JudgementFile
from wsi.viewing.review import Opinions, Review
from wsi.viewing.served import Served
from wsi.viewing.server.access import Access
from wsi.viewing.server.serve import Listening, serve


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON values."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    listening: Listening

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.listening.port

    @property
    def own(self) -> dict[str, str]:
        """The headers of our own pages' writes."""
        return {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"}

    def ask(self, path: str, method: str = "GET", body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send one request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            told = {"Host": f"127.0.0.1:{self.port}"} | dict(headers or {})
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            if data is not None:
                told |= {"Content-Length": str(len(data))}
            for name, value in told.items():
                connection.putheader(name, value)
            connection.endheaders(data)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()


def served_of(
    stores: tuple[Location, ...], slides: tuple[Path, ...] = (), annotations: Path | None = None,
    opinions: Opinions | None = None, *, blind: bool = False, judgements: Path | None = None,
) -> Served:  # fmt: skip
    """Return what a server shows of stores and slides."""
    shown = find_shown(stores, slides, annotations)
    patients = patients_of([own.image_id for own in shown], opinions.rows if opinions else {})
    file = JudgementFile(judgements) if judgements else None
    return Served(Collection(shown), Review(patients, file, opinions, blind=blind), "Slides")


@contextmanager
def serving(served: Served, access: Access | None = None) -> Iterator[Server]:
    """Run a server while the block does."""
    ready, found = threading.Event(), list[Listening]()

    def tell(listening: Listening) -> None:
        found.append(listening)
        ready.set()

    thread = threading.Thread(target=serve, args=(served, access or Access("127.0.0.1", None), 0, tell))
    thread.start()
    assert ready.wait(30)
    try:
        yield Server(found[0])
    finally:
        found[0].stop()
        thread.join(30)
        assert not thread.is_alive()

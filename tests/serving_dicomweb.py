"""A small DICOMweb server on loopback: metadata as JSON and instances as multipart, of the DICOM files of a folder."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom

_BOUNDARY = "a1b2c3"


class Dicomweb(ThreadingHTTPServer):
    """Serves ``/dicom-web/studies/S[/series/R]/metadata`` and ``.../instances/I``."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = [(pydicom.dcmread(path), path) for path in sorted(folder.rglob("*")) if path.is_file()]
        self.url = f"http://127.0.0.1:{self.server_port}/dicom-web"
        self.asked: Counter[str] = Counter()
        self.told = b""
        """Sent in place of the metadata."""
        self.token = ""
        """Asked for where it is set."""
        self.spoil = ""
        """What happens to the first answer to each question: ``503``, or ``cut`` in its middle."""


@contextmanager
def serving(folder: Path) -> Iterator[Dicomweb]:
    server = Dicomweb(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Dicomweb

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        served = self.server
        path = self.path.partition("?")[0]
        served.asked[path] += 1
        if served.token and self.headers.get("Authorization") != f"Bearer {served.token}":
            self._send(401, "text/plain", b"who are you?")
        elif served.spoil == "503" and served.asked[path] == 1:
            self._send(503, "text/plain", b"later")
        else:
            self._answer(
                path.removeprefix("/dicom-web/").split("/"), cut=served.spoil == "cut" and served.asked[path] == 1
            )

    def _answer(self, parts: list[str], *, cut: bool) -> None:
        wanted = dict(zip(parts[::2], parts[1::2], strict=False))
        names = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}
        asked = {names[key]: value for key, value in wanted.items() if key in names}
        found = [(ds, path) for ds, path in self.server.files if all(ds.get(k) == v for k, v in asked.items())]
        if not found:
            self._send(404, "text/plain", b"nothing")
        elif parts[-1] == "metadata":
            rows = [{tag: own for tag, own in ds.to_json_dict().items() if tag != "7FE00010"} for ds, _ in found]
            self._send(200, "application/dicom+json", self.server.told or json.dumps(rows).encode(), cut=cut)
        else:
            head = f"\r\n--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
            body = b"".join(head + path.read_bytes() for _, path in found) + f"\r\n--{_BOUNDARY}--\r\n".encode()
            kind = f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}'
            self._send(200, kind, body.removeprefix(b"\r\n"), cut=cut)

    def _send(self, code: int, kind: str, body: bytes, *, cut: bool = False) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = True

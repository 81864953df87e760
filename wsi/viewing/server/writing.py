"""Handlers of what readers leave: annotations, their names, judgements, and the order in which they read."""

from typing import Any

from tornado.web import HTTPError, stream_request_body

from wsi.viewing.annotation_file import MOST_BYTES, AnnotationFile, Version
from wsi.viewing.judgements import check_reader
from wsi.viewing.server.handler import Handler

_MOST_JUDGEMENT = 32 << 10


@stream_request_body
class Annotations(Handler):
    """One slide's annotations: GeoJSON as QuPath has it."""

    def prepare(self) -> None:
        """Refuse what is too large before it comes."""
        self._parts: list[bytes] = []
        super().prepare()
        try:
            size = int(self.request.headers.get("Content-Length", "0"))
        except ValueError:
            raise HTTPError(400) from None
        if size > MOST_BYTES:
            raise HTTPError(413, log_message=f"{size:,} bytes of annotations, expected at most {MOST_BYTES:,}")
        self.request.connection.set_max_body_size(MOST_BYTES)  # type: ignore[union-attr]

    def data_received(self, chunk: bytes) -> None:
        """Take a part of what is sent."""
        self._parts.append(chunk)

    def _file(self, image_id: str) -> AnnotationFile:
        file = self.served.collection.slides[self.known(image_id)].annotations
        if file is None:
            raise HTTPError(404, log_message="annotations of this slide cannot be kept here: give --annotations FOLDER")
        return file

    async def get(self, image_id: str) -> None:
        """Send what is there, and its tag."""
        version = await self.on_threads(self._file(image_id).read)
        self._tell(version)
        self.set_header("Content-Type", "application/geo+json; charset=UTF-8")
        self.finish(version.data)

    head = get

    async def put(self, image_id: str) -> None:
        """Put annotations in the place of those whose tag the request names."""
        known = self.request.headers.get("If-Match", "").strip().removeprefix("W/").strip('"')
        if not known or known == "*":
            raise HTTPError(428, log_message="expected If-Match with the tag of what was there")
        file = self._file(image_id)
        version = await self.on_threads(file.save, b"".join(self._parts), known)
        if version is None:
            there = await self.on_threads(file.read)
            self._tell(there)
            error = "somebody else saved annotations of this slide meanwhile: nothing was overwritten"
            self.send_json({"error": error, "etag": f'"{there.tag}"'}, 412)
        else:
            self._tell(version)
            self.send_json({"etag": f'"{version.tag}"', "count": version.count})

    def _tell(self, version: Version) -> None:
        self.set_header("ETag", f'"{version.tag}"')

    def compute_etag(self) -> str | None:
        """Return none: the version's tag is set already."""
        return None


class Reader(Handler):
    """The name of who reads in this browser."""

    async def get(self) -> None:
        """Tell it."""
        self.send_json({"reader": self.reader})

    async def put(self) -> None:
        """Remember or forget it."""
        name = self.body(most=_MOST_JUDGEMENT).get("name")
        reader = None if name is None else check_reader(name)
        self.set_reader(reader)
        self.send_json({"reader": reader})


class Judgements(Handler):
    """What readers said of slides."""

    async def get(self) -> None:
        """Tell what this reader may know."""
        self.send_json(await self.on_threads(self.served.review.told, self.reader))

    async def post(self) -> None:
        """Keep a judgement of this reader."""
        review, reader = self.served.review, self.reader
        told = self.body(most=_MOST_JUDGEMENT)
        if reader is None:
            raise HTTPError(401, log_message="who judges? type your name first")
        judgement = await self.on_threads(review.judge, reader, told)
        shown = await self.on_threads(review.shown, judgement, reader)
        self.send_json({"judgement": shown, "hidden": review.hidden(judgement.slide, reader)}, 201)


class Table(Handler):
    """The judgements as a table."""

    async def get(self) -> None:
        """Send it as a file to keep."""
        if await self.on_threads(self.served.review.all_hidden, self.reader):
            raise HTTPError(403, log_message="blind reading: the table is there when you have judged every slide")
        text = await self.on_threads(self.served.review.manifest)
        self.set_header("Content-Type", "text/csv; charset=UTF-8")
        self.set_header("Content-Disposition", 'attachment; filename="judgements.csv"')
        self.finish(text)


class Worklist(Handler):
    """In which order slides are to be looked at."""

    async def get(self) -> None:
        """Tell the slides in an order."""
        order = self.get_query_argument("order", None)
        told: dict[str, Any] = await self.on_threads(self.served.worklist, order, self.reader)
        self.send_json(told)


def routes(settings: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the addresses that are written to, and who answers."""
    return [
        (r"/slides/([^/]+)/annotations", Annotations, settings),
        (r"/reader", Reader, settings),
        (r"/judgements", Judgements, settings),
        (r"/judgements\.csv", Table, settings),
        (r"/worklist", Worklist, settings),
    ]

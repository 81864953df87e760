"""Handlers that read: pages and what they load."""

from typing import Any

from tornado.web import HTTPError

from wsi.viewing import frontend
from wsi.viewing.server.handler import Handler

_KINDS = {"js": "text/javascript", "css": "text/css", "html": "text/html", "svg": "image/svg+xml", "png": "image/png"}
_TILE_AGE = "private, max-age=3600"


def _kind(name: str) -> str:
    return f"{_KINDS.get(name.rpartition('.')[2], 'application/octet-stream')}; charset=UTF-8"


class Page(Handler):
    """The two pages; the documents beside them tell what they show."""

    async def get(self, image_id: str | None = None) -> None:
        """Send ``index.html`` of the cohort, or of a slide."""
        if image_id is not None:
            self.known(image_id)
        self.set_header("Content-Type", _kind("index.html"))
        self.finish(frontend.index_html() if image_id is None else frontend.slide_html())

    head = get


class Asset(Handler):
    """The front end's files, by their names."""

    async def get(self, name: str) -> None:
        """Send one."""
        data = frontend.assets().get(name)
        if data is None:
            raise HTTPError(404)
        self.set_header("Content-Type", _kind(name))
        self.set_header("Cache-Control", "private, no-cache")
        self.finish(data)

    head = get


class Document(Handler):
    """``cohort.js`` and ``slide.js``: what the pages show, as this reader may see it."""

    async def get(self, image_id: str | None = None) -> None:
        """Send one call of a function of the front end."""
        if image_id is None:
            text = await self.on_threads(self.served.cohort_js, self.reader)
        else:
            text = await self.on_threads(self.served.slide_js, self.known(image_id), self.reader)
        self.set_header("Content-Type", _kind("slide.js"))
        self.finish(text)

    head = get


class Picture(Handler):
    """Tiles, and the small picture of a slide."""

    async def get(self, image_id: str, *place: str) -> None:
        """Send a JPEG; where the store has no tile, one in the slide's background colour."""
        served, name = self.served, self.known(image_id)
        if place:
            file = await self.on_threads(served.tile, name, *map(int, place))
            if file is None:
                raise HTTPError(404, log_message="the slide has no such tile")
        else:
            file = await self.on_threads(served.thumb, name)
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", _TILE_AGE)
        self.finish(file)

    head = get

    def compute_etag(self) -> str | None:
        """Return none: hashing each tile would take as long as sending it."""
        return None


_NUMBER = r"(0|[1-9][0-9]{0,8})"
_SLIDE = r"/slides/([^/]+)"


def routes(settings: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the addresses that are read, and who answers."""
    return [
        (r"/(?:index\.html)?", Page, settings),
        (rf"{_SLIDE}/(?:index\.html)?", Page, settings),
        (r"/assets/([^/]+)", Asset, settings),
        (r"/cohort\.js", Document, settings),
        (rf"{_SLIDE}/slide\.js", Document, settings),
        (rf"{_SLIDE}/thumb\.jpg", Picture, settings),
        (rf"{_SLIDE}/tiles/{_NUMBER}/{_NUMBER}_{_NUMBER}\.jpg", Picture, settings),
    ]

"""What the server shows, as its documents tell it: the collection, what a run says, and who may see which of it."""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import cast

import cv2
import imagecodecs
import numpy as np

from wsi.arrays import RGB
from wsi.errors import GigamilError, masked
from wsi.machine.ordered import ordered
from wsi.recipe import Json
from wsi.store.codecs import Jpeg
from wsi.viewing.collection import Collection, Shown
from wsi.viewing.documents import cohort_document, cohort_row, column, quoted, script, slide_document
from wsi.viewing.live import LivePicture
from wsi.viewing.picture import Picture
from wsi.viewing.review import Review

_PLAIN = Jpeg(checked=False)
_THUMB_PX = 320
"""Longest side of a slide's small picture."""
_KEPT_DOCUMENTS = 32
_ASKED = 16
"""Stores asked for their metadata side by side: behind a URL each takes some 30 ms."""
_COLUMNS = (
    ("tiles", "Tiles", "number"),
    ("mpp", "\N{MICRO SIGN}m per pixel", "number"),
    ("warnings", "Warnings", "number"),
    ("problem", "Problem", "text"),
)


class Served:
    """Everything that can be asked for, by slide and reader. Safe across threads.

    Parameters
    ----------
    collection
        The slides.
    review
        Judgements, and what a run says.
    title
        Of the cohort's page.
    """

    def __init__(self, collection: Collection, review: Review, title: str) -> None:
        self.collection, self.review, self.title = collection, review, title
        self._plain = lru_cache(_KEPT_DOCUMENTS)(self._slide_document)
        self._with_run = lru_cache(_KEPT_DOCUMENTS)(self._slide_with_run)
        self.thumb = lru_cache(512)(self._thumb)
        self._blank = lru_cache(64)(_blank)
        self._cohort = lru_cache(1)(self._cohort_document)
        self._cohort_with_run = lru_cache(1)(self._with_opinions)

    def warm(self) -> None:
        """Make what the first page will ask for, so that it comes at once; what fails will be told when it is asked."""
        with suppress(GigamilError, OSError):
            self._cohort()
            self.slide_js(next(iter(self.collection.slides)), None)

    def withholds(self, key: str) -> bool:
        """Tell whether a file of a store says what a run says of it, which blind readers are not to see."""
        layer = key.split("/")[1:2] if key.startswith("labels/") else []
        return self.review.blind and bool(layer) and layer not in (["tissue"], ["zarr.json"])

    def tile(self, image_id: str, level: int, row: int, column: int) -> bytes | None:
        """Return a tile as a JPEG file: where the store has none, one in the slide's background colour.

        None where the slide does not reach so far. Raises `ItemError` where it cannot be read.
        """
        file = self.collection.tile(image_id, level, row, column)
        if file is not None:
            return file
        picture = self.collection.picture(image_id)
        if not 0 <= level < len(picture.levels):
            return None
        height, width = picture.levels[level]
        inside = row * picture.tile_px < height and column * picture.tile_px < width
        return self._blank(picture.background, picture.tile_px) if inside else None

    def slide_js(self, image_id: str, reader: str | None) -> bytes:
        """Return what the page of a slide shows to a reader, as a script; raises as `Collection.picture`."""
        hidden = self.review.hidden(image_id, reader)
        with self.collection.slides[image_id].lock:
            document = self._plain(image_id) if hidden or not self.review.opinions else self._with_run(image_id)
        return script("slide", document | {"api": self._slide_api(image_id, reader, hidden)})

    def cohort_js(self, reader: str | None) -> bytes:
        """Return what the page of the cohort shows to a reader, as a script."""
        hidden = self.review.all_hidden(reader)
        document, plain = self._cohort_with_run(), self._cohort()
        if hidden:
            document = document | {
                "slides": _veiled(document["slides"], plain["slides"], hidden),
                "said": plain["said"],
            }
        own = {name: self.review.shown(one, reader) for name, one in self.review.own(reader).items()}
        api = self._api(reader, "") | {"hidden": next(iter(hidden.values()), None), "judged": own}
        return script("cohort", document | {"api": api})

    def worklist(self, order: str | None, reader: str | None) -> Json:
        """Return the slides in the order in which they are to be read, with their addresses; see `Review.worklist`."""
        told = self.review.worklist(order, reader)
        return told | {"slides": [own | {"href": f"slides/{quoted(own['id'])}/index.html"} for own in told["slides"]]}

    def _api(self, reader: str | None, up: str) -> Json:
        can_judge = self.review.file is not None
        return {
            "judgements": f"{up}judgements" if can_judge else None,
            "csv": f"{up}judgements.csv" if can_judge else None,
            "worklist": f"{up}worklist",
            "reader": reader,
            "reader_url": f"{up}reader",
            "blind": self.review.blind,
            "classes": list(self.review.classes),
            "token_needed": False,
        }

    def _slide_api(self, image_id: str, reader: str | None, hidden: str | None) -> Json:
        file = self.collection.slides[image_id].annotations
        own = self.review.own(reader).get(image_id)
        return self._api(reader, "../../") | {
            "annotations": "annotations" if file is not None else None,
            "hidden": hidden,
            "siblings": [[name, f"../{quoted(name)}/index.html"] for name in self.collection.slides],
            "judged": self.review.shown(own, reader) if own else None,
        }

    def _slide_document(self, image_id: str) -> Json:
        shown = self.collection.slides[image_id]
        document = slide_document(self.collection.picture(image_id), shown.store)
        return document | {"patient": self.review.patients[image_id]}

    def _slide_with_run(self, image_id: str) -> Json:
        assert self.review.opinions is not None
        return self.review.opinions.of_slide(image_id, self._plain(image_id))

    def _cohort_document(self) -> Json:
        slides = self.collection.slides
        told = zip(slides, ordered(_values, slides.values(), _ASKED), strict=True)
        rows = [cohort_row(name, self.review.patients[name], values) for name, values in told]
        known = {key for row in rows for key in row["values"]}
        columns = [column(key, name, kind) for key, name, kind in _COLUMNS if key in known]
        count = f"{len(rows)} slide{'s' if len(rows) > 1 else ''}"
        return cohort_document(self.title, count, columns, rows)

    def _with_opinions(self) -> Json:
        opinions = self.review.opinions
        return opinions.of_cohort(self._cohort()) if opinions else self._cohort()

    def _thumb(self, image_id: str) -> bytes:
        """Return a small picture of a slide as a JPEG file; raises as `Collection.picture`."""
        store = self.collection.slides[image_id].store
        pixels = _whole(self.collection.picture(image_id)) if store is None else store.overview(2 * _THUMB_PX)
        scale = min(1.0, _THUMB_PX / max(pixels.shape[:2]))
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        return _PLAIN.encode(np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8))


def _values(shown: Shown) -> Json:
    """Return what a store's metadata tell at once."""
    store = shown.store
    try:
        if store is None:
            return {}
        return {"tiles": store.n_tiles, "mpp": store.mpp, "warnings": len(store.provenance.get("warnings", ()))}
    except (GigamilError, OSError) as error:
        return {"problem": masked(str(error))}


def _veiled(told: list[Json], plain: list[Json], hidden: Mapping[str, str]) -> list[Json]:
    """Return the cohort's rows by name, as another order would tell; of hidden slides what is known without the run."""
    known = {row["id"]: row for row in told}
    return [row if row["id"] in hidden else known[row["id"]] for row in plain]


def _blank(colour: tuple[int, int, int], side: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(np.full((side, side, 3), colour, np.uint8), 100, subsampling="444"))


def _whole(picture: Picture) -> RGB:
    """Return a live slide's first level that is small enough, put together."""
    live, side = cast("LivePicture", picture), picture.tile_px
    level = next((i for i, shape in enumerate(live.levels) if max(shape) <= 2 * _THUMB_PX), len(live.levels) - 1)
    rows, columns = live.present(level).shape
    out = np.empty((rows * side, columns * side, 3), np.uint8)
    for row in range(rows):
        for col in range(columns):
            out[row * side : (row + 1) * side, col * side : (col + 1) * side] = live.pixels(level, row, col)
    height, width = live.levels[level]
    return np.ascontiguousarray(out[:height, :width])

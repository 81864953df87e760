"""One slide's page: its tiles as files, what the page says of it, a thumbnail; whole or not there.

slides/<image_id>/
    index.html   slide.js   thumb.jpg
    page.json    by which recipe, and the slide's row in the cohort's table
    tiles/<level>/<row>_<column>.jpg
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import imagecodecs
import numpy as np

from wsi.errors import RequestError
from wsi.files.atomic import replacing, write_bytes, write_text
from wsi.files.documents import parse_json, read_document
from wsi.machine.ordered import ordered
from wsi.recipe import Json, Recipe
from wsi.store.layout import shard_key
from wsi.store.shards import ABSENT, shard_index
from wsi.units import ceil_div
from wsi.viewing.documents import script
from wsi.viewing.frontend import slide_html
from wsi.viewing.picture import StorePicture

FORM = "gigamil page of a slide"
_VERSION = 1
"""Raised when tiles or documents change, so that older pages are not taken for today's."""
_MARK = "page.json"
THUMBNAIL_PX = 320
"""Longest side."""
_THUMBNAIL_QUALITY = 85
_MOST_MARK = 1 << 20
Advance = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class SlidePage:
    """A slide's page, to be written."""

    picture: StorePicture
    folder: Path
    document: Json
    row: Json
    """The slide's row in the cohort's table."""
    recipe: Recipe
    threads: int = 1
    """Tiles encoded at once."""


def page_recipe(picture: StorePicture, said: Recipe | None) -> Recipe:
    """Return what shapes a slide's page: its tiles, and what a run says of it."""
    tiles = {"version": _VERSION, "image_id": picture.image_id, "store": picture.store.recipe_hash}
    return {"form": FORM, "tiles": tiles, "said": said}


def read_mark(folder: Path) -> Json:
    """Return what a slide's page says of its making, ``recipe`` and ``row``; empty where there is none of ours."""
    try:
        found = parse_json(read_document(folder / _MARK, RequestError, _MOST_MARK))
    except (RequestError, ValueError):
        return {}
    fits = isinstance(found, dict) and isinstance(found.get("recipe"), dict) and isinstance(found.get("row"), dict)
    return dict(found) if fits and found["recipe"].get("form") == FORM else {}


def is_ours(folder: Path) -> bool:
    """Tell whether a folder is a slide's page that we wrote."""
    return bool(read_mark(folder))


def has_tiles(folder: Path, recipe: Recipe) -> bool:
    """Tell whether a page has all tiles of a recipe already, whatever it says of the slide."""
    found: Json = read_mark(folder).get("recipe", {})
    return bool(found.get("tiles") == recipe["tiles"])


def write_slide_page(page: SlidePage, advance: Advance) -> int:
    """Write a slide's page and return the bytes of its tiles; tiles that are there of the same recipe stay.

    Raises
    ------
    StoreError
        A tile cannot be read; no page is left, or the one that was there.
    """
    if has_tiles(page.folder, page.recipe):
        tiles_only = {name: value for name, value in page.recipe.items() if name != "said"}
        write_text(page.folder / _MARK, json.dumps({"recipe": tiles_only, "row": {}}))
        _write_texts(page, page.folder)
        return 0
    with replacing(page.folder, is_ours, at_once=True) as unfinished:
        unfinished.mkdir()
        written = sum(_write_tiles(page, unfinished / "tiles", advance))
        write_bytes(unfinished / "thumb.jpg", thumbnail(page.picture))
        _write_texts(page, unfinished)
    return written


def refresh(folder: Path) -> None:
    """Let the page of an earlier version load today's front end."""
    if (folder / "index.html").read_bytes() != slide_html():
        write_bytes(folder / "index.html", slide_html())


def thumbnail(picture: StorePicture) -> bytes:
    """Return a small JPEG of the whole slide, background included."""
    overview = picture.store.overview(2 * THUMBNAIL_PX)
    scale = THUMBNAIL_PX / max(overview.shape[:2])
    size = (max(1, round(overview.shape[1] * scale)), max(1, round(overview.shape[0] * scale)))
    small = cv2.resize(overview, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(small), _THUMBNAIL_QUALITY))


def _write_texts(page: SlidePage, folder: Path) -> None:
    write_bytes(folder / "slide.js", script("slide", page.document))
    write_bytes(folder / "index.html", slide_html())
    write_text(folder / _MARK, json.dumps({"recipe": page.recipe, "row": page.row}, allow_nan=False))


def _write_tiles(page: SlidePage, folder: Path, advance: Advance) -> Iterator[int]:
    """Write every tile of every level, shard by shard; give the size of each."""
    picture, grid = page.picture, page.picture.store.grid
    for level in range(len(picture.levels)):
        side, tiles = grid.shard_tiles(level), grid.level_tiles(level)
        os.makedirs(folder / str(level))
        shards = product(range(ceil_div(tiles.y, side)), range(ceil_div(tiles.x, side)))
        for found in ordered(partial(_shard_files, picture, level), shards, page.threads):
            for row, column, file in found:
                _write_new(f"{folder}/{level}/{row}_{column}.jpg", file)
                yield len(file)
            advance(len(found))


def _shard_files(picture: StorePicture, level: int, shard: tuple[int, int]) -> list[tuple[int, int, bytes]]:
    """Return row, column and JPEG file of each tile of a shard, which is read once and as a whole."""
    store, key = picture.store, shard_key(level, *shard)
    side = store.grid.shard_tiles(level)
    (data,) = store.folder.read([key])
    if data is None:
        return []
    view, files = memoryview(data), []
    for place, (offset, size) in enumerate(shard_index(data, side**2, f"{store.path}/{key}").tolist()):
        row, column = shard[0] * side + place // side, shard[1] * side + place % side
        if offset != ABSENT and picture.holds(level, row, column):
            files.append((row, column, picture.tile_file(level, row, column, view[offset : offset + size])))
    return files


def _write_new(path: str, data: bytes) -> None:
    """Write a file that is not there, by as few calls as there can be: a slide has thousands."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        rest = memoryview(data)
        while rest:  # a full disk takes a part, and tells so at the next call
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)

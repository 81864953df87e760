"""A folder of pages: one of each slide, one of the cohort, and the front end that all of them load.

    index.html   cohort.js   assets/   slides/<image_id>/   pages.json (marks the folder as ours)

Slides are written side by side in processes, each whole or not at all; a slide whose page is there of the same recipe
is skipped. The cohort's page is written last.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from wsi.cohort.manifest import check_id
from wsi.errors import GigamilError, RequestError
from wsi.files.atomic import make_folder, write_bytes, write_text
from wsi.files.claim import claim
from wsi.files.documents import parse_json, read_document
from wsi.files.replace import discard_leftovers, refuse_input, remove
from wsi.progress.outcome import Outcome, Progress, Status
from wsi.recipe import Json, Recipe, refuse_other_recipe
from wsi.store.tile_store import TileStore
from wsi.viewing.documents import script, slide_document
from wsi.viewing.frontend import assets, index_html
from wsi.viewing.pages.page_size import PageSize, block_of, check_room, page_size, told
from wsi.viewing.pages.slide_page import (
    SlidePage,
    has_tiles,
    is_ours,
    page_recipe,
    read_mark,
    refresh,
    write_slide_page,
)
from wsi.viewing.picture import StorePicture

FORM = "gigamil pages"
_MARK = "pages.json"
_NAMED = 12
"""Slides whose sizes are told one by one."""


class Speaker(Protocol):
    """Who has something to say of slides, beside what their stores tell: a run."""

    def recipe(self, store: TileStore) -> Recipe | None:
        """Return what shapes what is said of a slide; None where nothing is."""

    def speak(self, store: TileStore, document: Json) -> tuple[Json, Json]:
        """Return a slide's document with what is said of it, and what `cohort` is to know of the slide."""

    def cohort(self, rows: Mapping[str, Json]) -> Json:
        """Return the cohort's document from what `speak` told of the slides that have a page, by image id."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for."""

    out: Path
    stores: Sequence[TileStore]
    overwrite: bool
    workers: int
    """Processes; 1: this one."""
    threads: int
    """Tiles encoded at once, over all processes."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done of one slide."""

    picture: StorePicture
    folder: Path
    recipe: Recipe
    size: PageSize | None
    """None where its page is there."""


def write_pages(wanted: Wanted, speaker: Speaker, progress: Progress, *, dry: bool = False) -> list[Outcome]:
    """Write the folder, or with ``dry`` tell its size alone; a slide that fails is named and the others go on.

    Raises
    ------
    RequestError
        The folder holds something else or pages of other slides, the disk has no room, or the front end is not there.
    """
    out = wanted.out
    refuse_input(out, [store.path for store in wanted.stores if isinstance(store.path, Path)])
    assets()
    others = _others(out, wanted)
    plans, outcomes = _planned(wanted, speaker)
    sizes = {plan.picture.image_id: plan.size for plan in plans if plan.size}
    _tell(out, sizes, progress)
    check_room(out, sizes.values())
    if dry:
        return [*outcomes, *(_outcome(plan, Status.DONE if plan.size else Status.SKIPPED, plan.size) for plan in plans)]
    with claim(out):
        _take(out)
        progress.begin("pages", sum(size.tiles for size in sizes.values()), "tiles")
        outcomes += _written(wanted, speaker, plans, progress)
        progress.end()
        for other in others:
            remove(other, is_ours)
        _write_cohort(out, speaker, outcomes)
    return outcomes


def _others(out: Path, wanted: Wanted) -> list[Path]:
    """Return the pages of slides that are not asked for, to be removed; refuse a folder of somebody else."""
    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out}: expected a folder, found a file")
    held = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.exists() else set()
    if held and not _is_ours(out):
        raise RequestError(f"--out {out}: the folder is not empty and holds no pages of ours: choose another one")
    names = {store.image_id for store in wanted.stores}
    others = [path for path in sorted((out / "slides").glob("*")) if path.name not in names and path.is_dir()]
    others = [path for path in others if not path.name.startswith(".")]
    if others and not wanted.overwrite:
        named = ", ".join(path.name for path in others[:5]) + (" ..." if len(others) > 5 else "")
        raise RequestError(
            f"--out {out}: it holds pages of other slides ({named}): choose another one, or give --overwrite to remove "
            "them"
        )
    return others


def _is_ours(out: Path) -> bool:
    try:
        return bool(parse_json(read_document(out / _MARK, RequestError, 1 << 16))["form"] == FORM)
    except (RequestError, ValueError, KeyError, TypeError):
        return False


def _take(out: Path) -> None:
    """Make the folder ours, and rid it of what killed runs left."""
    make_folder(out)
    write_text(out / _MARK, json.dumps({"form": FORM}))
    (out / "slides").mkdir(exist_ok=True)
    discard_leftovers(out / "slides")


def _planned(wanted: Wanted, speaker: Speaker) -> tuple[list[_Plan], list[Outcome]]:
    """Return what is to be done, and the slides that failed already."""
    plans, failures, block = list[_Plan](), list[Outcome](), block_of(wanted.out)
    for store in wanted.stores:
        try:
            folder = wanted.out / "slides" / check_id(store.image_id, str(store.path))
            picture = StorePicture(store)
            recipe = page_recipe(picture, speaker.recipe(store))
            found = read_mark(folder).get("recipe", {})
            if "said" in found and not wanted.overwrite:  # else it is not finished
                refuse_other_recipe(folder, found, recipe)
            size = PageSize(0, 0, 0, False) if has_tiles(folder, recipe) else page_size(picture, block)
            plans.append(_Plan(picture, folder, recipe, None if found == recipe else size))
        except (GigamilError, OSError) as error:
            failures.append(Outcome(store.image_id, Status.FAILED, str(error)))
    return plans, failures


def _tell(out: Path, sizes: dict[str, PageSize], progress: Progress) -> None:
    if len(sizes) <= _NAMED:
        for image_id, size in sizes.items():
            progress.note(f"{image_id}: {told([size])}")
    elif sizes:
        largest = max(sizes, key=lambda image_id: sizes[image_id].n_bytes)
        progress.note(f"the largest of {len(sizes)} slides, {largest}: {told([sizes[largest]])}")
    if len(sizes) != 1:
        progress.note(f"{len(sizes)} slides to write into {out}: {told(sizes.values())}")


def _written(wanted: Wanted, speaker: Speaker, plans: Sequence[_Plan], progress: Progress) -> Iterator[Outcome]:
    """Write the slides, here or in processes; give what became of each, in order."""
    asked = [plan for plan in plans if plan.size]
    workers = min(wanted.workers, len(asked))
    threads = max(1, wanted.threads // max(1, workers))
    made = (_made(plan, speaker, threads) for plan in plans)
    if workers <= 1:
        for plan, page in zip(plans, made, strict=True):
            yield _write(plan, page, progress.advance)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        flying: list[tuple[_Plan, Future[Outcome]]] = []
        for plan, page in zip(plans, made, strict=True):
            flying.append((plan, pool.submit(_write, plan, page)))
            while len(flying) > 2 * workers:
                yield _landed(*flying.pop(0), progress)
        for plan, future in flying:
            yield _landed(plan, future, progress)


def _landed(plan: _Plan, future: Future[Outcome], progress: Progress) -> Outcome:
    outcome = future.result()
    progress.advance(plan.size.tiles if plan.size else 0)
    return outcome


def _made(plan: _Plan, speaker: Speaker, threads: int) -> SlidePage | Outcome | None:
    """Return the page with what is said of it, None where it is there, or why it cannot be made."""
    if plan.size is None:
        return None
    try:
        document = slide_document(plan.picture, plan.picture.store)
        document, row = speaker.speak(plan.picture.store, document)
        return SlidePage(plan.picture, plan.folder, document, row, plan.recipe, threads)
    except (GigamilError, OSError) as error:
        return Outcome(plan.picture.image_id, Status.FAILED, str(error))


def _write(plan: _Plan, page: SlidePage | Outcome | None, advance: Callable[[float], None] = lambda _: None) -> Outcome:
    """Write one slide's page."""
    if isinstance(page, Outcome):
        return page
    try:
        if page is None:
            refresh(plan.folder)
            return _outcome(plan, Status.SKIPPED, None)
        n_bytes, tiles = write_slide_page(page, advance), plan.size.tiles if plan.size else 0
        return Outcome(plan.picture.image_id, Status.DONE, facts={"tiles": tiles, "tile_bytes": n_bytes})
    except (GigamilError, OSError) as error:
        return Outcome(plan.picture.image_id, Status.FAILED, str(error))


def _outcome(plan: _Plan, status: Status, size: PageSize | None) -> Outcome:
    facts = {"tiles": size.tiles, "tile_bytes": size.n_bytes, "estimated": size.estimated} if size else {}
    return Outcome(plan.picture.image_id, status, facts=facts)


def _write_cohort(out: Path, speaker: Speaker, outcomes: Sequence[Outcome]) -> None:
    """Write the front end and the cohort's page, which lists every slide that has one."""
    fine = [own.item_id for own in outcomes if own.status is not Status.FAILED]
    rows = {image_id: read_mark(out / "slides" / image_id).get("row", {}) for image_id in fine}
    (out / "assets").mkdir(exist_ok=True)
    for name, data in assets().items():
        write_bytes(out / "assets" / name, data)
    write_bytes(out / "cohort.js", script("cohort", speaker.cohort(rows)))
    write_bytes(out / "index.html", index_html())

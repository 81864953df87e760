"""Bags behind a URL: made in scratch by the code that makes local ones, some stores at a time, and published.

Several commands, on one machine or many, may extract into one folder: each takes stores that nobody holds.
"""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from features.extraction.options import ExtractOptions
from wsi.errors import ClaimedError, GigamilError
from wsi.files.replace import discard
from wsi.progress.outcome import Outcome, Progress, Status, Summary
from wsi.remote.claim import Held, claim_remotely
from wsi.remote.items import as_record, until_all
from wsi.remote.place import Place
from wsi.remote.published import publish
from wsi.remote.scratch import scratch_items, scratch_of
from wsi.remote.staged import done_already, fetch_earlier, replayed, request_of
from wsi.store.tile_store import TileStore, find_stores
from wsi.urls import path_of, url_of

_STORES_PER_ITEM = 8
"""Bags are a hundredth of a store: so many more may lie in scratch."""
Extract = Callable[[ExtractOptions, Progress], Summary]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A store whose bag this process makes."""

    store: TileStore
    held: Held
    request: str


def extract_to_url(options: ExtractOptions, progress: Progress, extract: Extract) -> Summary:
    """Extract the bags of all stores into a folder behind a URL; ``extract`` does it on this machine."""
    began, place, spent = time.perf_counter(), Place(url_of(options.out)), Counter[str]()
    stores = {store.image_id: store for store in find_stores(options.stores)}
    with scratch_of("extract", options.out) as scratch:
        out = scratch.path(place.url)

        def some(left: list[str]) -> dict[str, Outcome]:
            with ExitStack() as claims:
                outcomes, taken = _take(options, [stores[own] for own in left], place, out, claims)
                if taken:
                    paths = tuple(path_of(str(own.store.path)) for own in taken)
                    with scratch.telling():
                        summary = extract(replace(options, stores=paths, out=out), progress)
                    spent.update(summary.spent)
                    outcomes |= _published(taken, summary, out)
                return outcomes

        outcomes = until_all(some, list(stores), progress.note)
        scratch.keep = any(own.status is Status.FAILED for own in outcomes.values())
    return Summary(
        "extract", scratch.told_of(outcomes[own] for own in stores), time.perf_counter() - began, dict(spent)
    )


def _take(
    options: ExtractOptions, stores: list[TileStore], place: Place, out: Path, claims: ExitStack
) -> tuple[dict[str, Outcome], list[_Taken]]:
    """Claim bags to make, as many as may lie in scratch; return them after the outcomes of those that are there."""
    outcomes: dict[str, Outcome] = {}
    taken: list[_Taken] = []
    for store in stores:
        name, image_id = f"{store.image_id}.h5", store.image_id
        with ExitStack() as own:
            try:
                held = own.enter_context(claim_remotely(place, name))
                request = request_of("extract", replace(options, stores=(path_of(str(store.path)),)))
                if record := done_already(place, name, request):
                    outcomes[image_id] = replayed(record)[0]
                    continue
                fetch_earlier(place, name, out)
            except ClaimedError:
                continue
            except GigamilError as error:
                outcomes[image_id] = Outcome(image_id, Status.FAILED, str(error))
                continue
            claims.enter_context(own.pop_all())
            taken.append(_Taken(store, held, request))
        if len(taken) >= _STORES_PER_ITEM * scratch_items():
            break
    return outcomes, taken


def _published(taken: list[_Taken], summary: Summary, out: Path) -> dict[str, Outcome]:
    """Publish the bags that were made, and remove them here."""
    outcomes = {own.item_id: own for own in summary.outcomes}
    for own in taken:
        image_id = own.store.image_id
        if outcomes[image_id].status is Status.FAILED:
            continue
        bags = [path for path in (out / own.held.name, *out.glob("*/*.h5")) if path.name == own.held.name]
        keys = sorted(path.relative_to(out).as_posix() for path in bags if path.is_file())
        try:
            publish(out, keys, own.held, own.request, [as_record(outcomes[image_id])])
        except GigamilError as error:
            outcomes[image_id] = Outcome(image_id, Status.FAILED, str(error))
            continue
        for key in keys:
            discard(out / key)
    return outcomes

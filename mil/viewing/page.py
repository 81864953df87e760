"""`gigamil page`: slides as a folder that opens by a double click, with what a run says of them."""

import time
from collections.abc import Sequence
from pathlib import Path

from mil.viewing.items import Items, sort_items
from mil.viewing.options import PageOptions
from wsi.errors import RequestError
from wsi.machine.cpu import usable_cpus
from wsi.options import stage
from wsi.progress.outcome import Progress, Silent, Summary
from wsi.store.storage import locate
from wsi.store.tile_store import TileStore, find_stores
from wsi.viewing.pages.folder import Speaker, Wanted, write_pages
from wsi.viewing.pages.stores_alone import StoresAlone


@stage
def page(options: PageOptions, progress: Progress | None = None) -> Summary:
    """Write pages of slides; a slide that fails is named and the others go on.

    Raises
    ------
    RequestError
        There is no store, no finished run, or the folder holds something else; see also
        `mil.viewing.documents.RunSpeaker` and `wsi.viewing.pages.folder.write_pages`.
    """
    start, progress = time.monotonic(), progress or Silent()
    items = sorted_items(options)
    stores = chosen(find_stores(items.stores), options.image_ids)
    workers = usable_cpus() if options.workers is None else max(1, options.workers)
    wanted = Wanted(out_of(options), stores, options.overwrite, workers, usable_cpus())
    speaker = _of_run(items.runs[0], items.bags, options) if items.runs else StoresAlone(stores)
    outcomes = write_pages(wanted, speaker, progress, dry=options.dry_run)
    return Summary("page, nothing written" if options.dry_run else "page", outcomes, time.monotonic() - start)


def sorted_items(options: PageOptions) -> Items:
    """Return what is to be shown, one run at most.

    Raises
    ------
    RequestError
        There are two runs, no stores, or bags without a run.
    """
    given = Items(stores=tuple(map(locate, options.stores)), bags=options.bags)
    items = sort_items(list(map(str, options.items))) + given
    if len(items.runs) > 1:
        raise RequestError(f"expected one run, found {len(items.runs)}: {', '.join(map(str, items.runs))}")
    if not items.stores and items.slides:
        raise RequestError(f"{items.slides[0]}: pages are made of tile stores: run `gigamil tile` first")
    if not items.stores:
        raise RequestError(f"{(*items.runs, *items.bags)[0]}: give the slides' tile stores, too: --stores")
    if items.bags and not items.runs:
        raise RequestError("bags go with a run: name its folder, too")
    return items


def chosen(stores: Sequence[TileStore], image_ids: Sequence[str]) -> list[TileStore]:
    """Return the stores of these slides, all of them where none is named; `RequestError` names one that has none."""
    known = {store.image_id: store for store in stores}
    absent = [image_id for image_id in image_ids if image_id not in known]
    if absent:
        raise RequestError(f"--image-id: no tile store of {', '.join(absent)}")
    return [known[image_id] for image_id in dict.fromkeys(image_ids or known)]


def out_of(options: PageOptions) -> Path:
    """Return the folder to write; raises `RequestError` where neither it nor a run is named."""
    runs = sorted_items(options).runs
    if options.out is None and not runs:
        raise RequestError("expected --out, the folder to write, found none")
    return options.out or runs[0] / "pages"


def _of_run(run: Path, bags: Sequence[Path], options: PageOptions) -> Speaker:
    from mil.viewing.documents import RunSpeaker  # stores alone want no models

    return RunSpeaker(run, bags, options.least_tissue, options.device)

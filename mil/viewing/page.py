"""`gigamil page`: slides as a folder that opens by a double click, with what a run says of them."""

import time
from collections.abc import Sequence
from pathlib import Path

from mil.viewing.options import PageOptions
from wsi.cpu import usable_cpus
from wsi.errors import RequestError
from wsi.options import stage
from wsi.outcome import Progress, Silent, Summary
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
    run, places = sort_places(options)
    stores = chosen(find_stores(places), options.image_ids)
    workers = usable_cpus() if options.workers is None else max(1, options.workers)
    wanted = Wanted(out_of(options), stores, options.overwrite, workers, usable_cpus())
    speaker = StoresAlone(stores) if run is None else _of_run(run, options)
    outcomes = write_pages(wanted, speaker, progress, dry=options.dry_run)
    return Summary("page, nothing written" if options.dry_run else "page", outcomes, time.monotonic() - start)


def sort_places(options: PageOptions) -> tuple[Path | None, list[Path]]:
    """Return the run, None where none is named, and where the stores are.

    Raises
    ------
    RequestError
        There are two runs, a run without stores, or bags without a run.
    """
    runs = [item for item in options.items if (item / "config.toml").is_file()]
    places = [item for item in options.items if item not in runs] + list(options.stores)
    if len(runs) > 1:
        raise RequestError(f"expected one run, found {len(runs)}: {', '.join(map(str, runs))}")
    if not places:
        raise RequestError(f"{runs[0]}: give the slides' tile stores, too: --stores")
    if options.bags and not runs:
        raise RequestError("--bags go with a run: name its folder")
    return (runs[0] if runs else None), places


def chosen(stores: Sequence[TileStore], image_ids: Sequence[str]) -> list[TileStore]:
    """Return the stores of these slides, all of them where none is named; `RequestError` names one that has none."""
    known = {store.image_id: store for store in stores}
    absent = [image_id for image_id in image_ids if image_id not in known]
    if absent:
        raise RequestError(f"--image-id: no tile store of {', '.join(absent)}")
    return [known[image_id] for image_id in dict.fromkeys(image_ids or known)]


def out_of(options: PageOptions) -> Path:
    """Return the folder to write; raises `RequestError` where neither it nor a run is named."""
    run, _ = sort_places(options)
    if options.out is None and run is None:
        raise RequestError("expected --out, the folder to write, found none")
    return options.out or Path(str(run)) / "pages"


def _of_run(run: Path, options: PageOptions) -> Speaker:
    from mil.viewing.documents import RunSpeaker  # stores alone want no models

    return RunSpeaker(run, options.bags, options.least_tissue, options.device)

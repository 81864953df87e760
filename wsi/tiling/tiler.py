"""The tiler: every slide of a cohort into its store, as one stream of small Dask tasks.

Each slide goes through the same steps (`wsi.tiling.engine.steps_of`): plan it, make the overview in bands, find the
tissue, make the regions, finish. Workers send small facts back, never pixels.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from wsi.cohort.fingerprint import slide_bytes
from wsi.cohort.slides import Job
from wsi.cohort.summary_table import write_summary
from wsi.errors import RecipeMismatchError
from wsi.files.atomic import make_folder
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Summary
from wsi.tiling.engine import Engine
from wsi.tiling.options import TileOptions
from wsi.tiling.plan import store_path
from wsi.tiling.remote import located
from wsi.tiling.workers import Workers, this_process

_SMALL_BYTES = 16 << 20
"""A slide of at most so many is done before worker processes would have started."""
_FEW_STORES = 200
"""At most so many that are there already are looked at before worker processes would have started."""


@stage
def tile(options: TileOptions, progress: Progress | None = None) -> Summary:
    """Tile every slide of the request, each into ``<out>/<image_id>.zarr``.

    A slide that fails is named in the summary and the others go on; nothing half-written remains of it. A finished
    store with the same recipe is skipped; an interrupted one is taken up where it stopped.

    Raises
    ------
    RequestError
        The request cannot be carried out as it was put. `RecipeMismatchError` when every store that is there was made
        with other settings.
    """
    started = time.perf_counter()
    progress = progress or Silent()
    options = options.absolute()  # a worker elsewhere has another working folder
    if options.dashboard:
        from wsi.tiling.cluster import check_dashboard

        check_dashboard()
    with located(options) as (options, jobs, remote):
        make_folder(options.out)
        sizes = {job.image_id: 0 if job.problem else slide_bytes(job.path) for job in jobs}
        progress.begin("tile", sum(sizes.values()), "B")
        small = remote is None and _small(jobs, sizes, options)
        with _workers(options, progress, small=small) as workers:

            def run(some: list[Job]) -> list[Outcome]:
                return Engine(workers, options, progress, sizes).run(some)

            outcomes = remote.run(jobs, run, progress) if remote else run(jobs)
    progress.end()
    mismatches = [o for o in outcomes if o.facts.get("mismatch")]
    if mismatches and len(mismatches) == len(outcomes):
        raise RecipeMismatchError(mismatches[0].reason)
    summary = Summary("tile", outcomes, time.perf_counter() - started)
    if options.summary:
        write_summary(options.summary, summary)
    return summary


def _small(jobs: list[Job], sizes: dict[str, int], options: TileOptions) -> bool:
    """Tell whether all is done before worker processes would have started: one small slide is left to do at most."""
    if len(jobs) > _FEW_STORES + 1:
        return False
    there = [job for job in jobs if not options.overwrite and store_path(options.out, job.image_id).exists()]
    left = sum(sizes.values()) - sum(sizes[job.image_id] for job in there)
    return len(jobs) - len(there) <= 1 and left <= _SMALL_BYTES and len(there) <= _FEW_STORES


@contextmanager
def _workers(options: TileOptions, progress: Progress, *, small: bool) -> Iterator[Workers]:
    """Give those who take the tasks; this process alone where none are wanted, or where the request is ``small``."""
    here = options.workers == 0 or (small and options.workers is None)
    if here and options.scheduler is None and not options.dashboard:
        with this_process() as workers:
            yield workers
        return
    from wsi.tiling.cluster import DaskWorkers, check_shared, dashboard_of, dask_client

    with dask_client(options.workers, options.scheduler, options.stall) as (client, threads):
        if options.scheduler is not None:
            check_shared(client, options.out)
        if options.dashboard:
            progress.note(f"Dask's dashboard, while this runs: {dashboard_of(client, options.scheduler)}")
        yield DaskWorkers(client, threads)

"""The tiler: every slide of a cohort into its store, as one stream of small Dask tasks.

Each slide goes through the same steps (`wsi.tiling.engine.steps_of`): plan it, make the overview in bands, find the
tissue, make the regions, finish. Workers send small facts back, never pixels.
"""

import time

from wsi.cohort.fingerprint import slide_bytes
from wsi.cohort.slides import Job
from wsi.cohort.summary_table import write_summary
from wsi.errors import RecipeMismatchError
from wsi.files.atomic import make_folder
from wsi.options import stage
from wsi.outcome import Outcome, Progress, Silent, Summary
from wsi.tiling.cluster import check_dashboard, check_shared, dashboard_of, dask_client
from wsi.tiling.engine import Engine
from wsi.tiling.options import TileOptions
from wsi.tiling.remote import located


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
        check_dashboard()
    with located(options) as (options, jobs, remote):
        make_folder(options.out)
        sizes = {job.image_id: 0 if job.problem else slide_bytes(job.path) for job in jobs}
        progress.begin("tile", sum(sizes.values()), "B")
        with dask_client(options.workers, options.scheduler, options.stall) as (client, threads):
            if options.scheduler is not None:
                check_shared(client, options.out)
            if options.dashboard:
                progress.note(f"Dask's dashboard, while this runs: {dashboard_of(client, options.scheduler)}")

            def run(some: list[Job]) -> list[Outcome]:
                return Engine(client, threads, options, progress, sizes).run(some)

            outcomes = remote.run(jobs, run, progress) if remote else run(jobs)
    progress.end()
    mismatches = [o for o in outcomes if o.facts.get("mismatch")]
    if mismatches and len(mismatches) == len(outcomes):
        raise RecipeMismatchError(mismatches[0].reason)
    summary = Summary("tile", outcomes, time.perf_counter() - started)
    if options.summary:
        write_summary(options.summary, summary)
    return summary

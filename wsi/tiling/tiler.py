"""The tiler: every slide of a cohort into its store, as one stream of small Dask tasks.

Each slide goes through the same steps (`_Run.advance`): plan it, make the overview in bands, find the tissue, make the
regions, finish. Tasks of several slides are under way at once, in a bounded window, so that no core idles at a slide's
end. Workers send receipts back, never pixels.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from distributed import CancelledError, Client, Future, as_completed
from distributed.comm import CommClosedError

from wsi.cohort.fingerprint import slide_bytes
from wsi.cohort.slides import Job, find_jobs
from wsi.cohort.summary_table import write_summary
from wsi.errors import GigamilError, NoLocksError, RecipeMismatchError, RequestError, SchedulerLostError, StoreError
from wsi.files.atomic import make_folder
from wsi.files.claim import claim
from wsi.files.replace import refuse_foreign, refuse_input, remove
from wsi.options import stage
from wsi.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import refuse_other_recipe
from wsi.store.metadata import is_our_partial, is_our_store
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify_quickly
from wsi.tiling.cluster import check_shared, dask_client
from wsi.tiling.finish import finish
from wsi.tiling.options import TileOptions
from wsi.tiling.plan import (
    SlidePlan,
    TissuePlan,
    make_band,
    make_plan,
    make_tissue,
    partial_path,
    start_partial,
    store_path,
    tiles_in_overview,
)
from wsi.tiling.region import make_region, make_region_once
from wsi.tiling.settle import settle_region, unsettled_regions
from wsi.tiling.tile_recipe import wanted_of
from wsi.units import YX

Task = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function for a worker, and its arguments."""

_WINDOW = 3
"""Tasks under way per worker."""
_PLAN_SHARE, _OVERVIEW_SHARE, _REGION_SHARE = 0.05, 0.30, 0.65
_ONCE_SHARE, _SETTLE_SHARE = 0.90, 0.05
"""Parts of a slide's bytes that the progress bar counts for each step; with a single pass, for it and what follows."""


@dataclass(slots=True)
class _Run:
    """One slide on its way; `advance` takes the last step's results and gives the next step's tasks."""

    job: Job
    options: TileOptions
    held: ExitStack
    """The claim on the output."""
    size: int
    plan: SlidePlan | None = None
    regions: tuple[YX, ...] = ()
    step: str = "plan"
    waiting: int = 0
    """Tasks of this step that have not come back."""
    share: float = 0.0
    """Bytes that one task of this step counts."""
    flying: int = 0
    """Tasks at the workers."""
    failure: BaseException | None = None
    note: str = ""
    """What is remarkable about what was there before."""
    outcome: Outcome | None = None

    def first(self) -> list[Task]:
        return self._next("plan", [(make_plan, (self.job, self.options))], _PLAN_SHARE)

    def advance(self, result: Any) -> list[Task]:
        """Take one result; return the next step's tasks when it was the step's last."""
        self.waiting -= 1
        if self.step == "plan":
            return self._planned(result)
        if self.step == "check":
            return self._checked(result)
        if self.waiting:
            return []
        plan = self._plan()
        if self.step == "overview":
            return self._next("tissue", [(make_tissue, (plan,))], 0)
        if self.step == "tissue":
            tissue: TissuePlan = result
            self.regions = tissue.regions
            if plan.single_pass:
                return self._next("settle", [(unsettled_regions, (plan,))], 0)
            return self._next("regions", [(make_region, (plan, region)) for region in self.regions], _REGION_SHARE)
        if self.step == "settle":
            return self._next("regions", [(settle_region, (plan, region)) for region in result], _SETTLE_SHARE)
        if self.step == "regions":
            return self._finish()
        self.outcome = Outcome(
            self.job.image_id, Status.DONE, "; ".join([*filter(None, [self.note]), *result["warnings"]]), result
        )
        return []

    def _next(self, step: str, tasks: list[Task], share: float) -> list[Task]:
        if step == "regions" and not tasks:
            return self._finish()
        self.step, self.waiting, self.share = step, len(tasks), self.size * share / len(tasks)
        return tasks

    def _finish(self) -> list[Task]:
        return self._next("finish", [(finish, (self._plan(), self.regions))], 0)

    def _plan(self) -> SlidePlan:
        assert self.plan is not None
        return self.plan

    def _planned(self, plan: SlidePlan) -> list[Task]:
        self.plan = plan
        if plan.out.exists():
            return self._next("check", [(check_finished, (plan,))], 0)
        return self._begin()

    def _checked(self, found: dict[str, Any] | str) -> list[Task]:
        if isinstance(found, str):
            self.note = found
            return self._begin()
        self.outcome = Outcome(self.job.image_id, Status.SKIPPED, "", found)
        return []

    def _begin(self) -> list[Task]:
        plan = self._plan()
        start_partial(plan)
        if plan.single_pass:
            everywhere = (YX(y, x) for y in range(plan.grid.regions.y) for x in range(plan.grid.regions.x))
            return self._next("overview", [(make_region_once, (plan, region)) for region in everywhere], _ONCE_SHARE)
        return self._next("overview", [(make_band, (plan, i)) for i in range(plan.overview.bands)], _OVERVIEW_SHARE)

    def close(self) -> None:
        """Turn a failure into the outcome, remove what is half-written, give the claim back."""
        if self.failure is not None:
            facts = {"mismatch": True} if isinstance(self.failure, RecipeMismatchError) else {}
            self.outcome = Outcome(self.job.image_id, Status.FAILED, reason(self.failure), facts)
            if self.plan is not None and not facts:
                with suppress(OSError, RequestError):
                    remove(partial_path(self.plan.out), is_our_partial)
        self.held.close()


def check_finished(plan: SlidePlan) -> dict[str, Any] | str:
    """Return facts of the store that is there, or in a text why it is to be made anew ("" where that was asked).

    It stays if making it again would give the same, and all of it is there.

    Raises
    ------
    RecipeMismatchError
        It was made with other settings, or from another file, and may not be replaced.
    StoreError
        It cannot be read, and may not be replaced.
    """
    store = TileStore(plan.out)
    try:
        refuse_other_recipe(
            plan.out, store.recipe, wanted_of(plan.recipe, plan.options, store, *tiles_in_overview(plan))
        )
        outcome = verify_quickly(store)
    except (RecipeMismatchError, StoreError):
        if plan.options.overwrite:
            return ""
        raise
    if outcome.status is Status.FAILED:
        return f"the store that was there is not whole and is made anew ({outcome.reason})"
    return {"tiles": store.n_tiles, "mpp": store.mpp}


def reason(error: BaseException) -> str:
    """Return one line for a person."""
    if isinstance(error, GigamilError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'writing'}"
    if type(error).__name__ == "KilledWorker":
        return "its worker process was killed again and again (out of memory?): try fewer --workers"
    first = (str(error).splitlines() or [""])[0]
    return f"unexpected {type(error).__name__}: {first}"


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
    jobs = find_jobs(options.slides, options.manifest)
    make_folder(options.out)
    sizes = {job.image_id: 0 if job.problem else slide_bytes(job.path) for job in jobs}
    progress.begin("tile", sum(sizes.values()), "B")
    with dask_client(options.workers, options.scheduler) as (client, threads):
        if options.scheduler is not None:
            check_shared(client, options.out)
        outcomes = _Engine(client, threads, options, progress, sizes).run(jobs)
    progress.end()
    mismatches = [o for o in outcomes if o.facts.get("mismatch")]
    if mismatches and len(mismatches) == len(outcomes):
        raise RecipeMismatchError(mismatches[0].reason)
    summary = Summary("tile", outcomes, time.perf_counter() - started)
    if options.summary:
        write_summary(options.summary, summary)
    return summary


class _Engine:
    """Keeps a bounded window of tasks under way over the whole cohort."""

    def __init__(
        self, client: Client, threads: int, options: TileOptions, progress: Progress, sizes: dict[str, int]
    ) -> None:
        self._client = client
        self._options = options
        self._progress = progress
        self._sizes = sizes
        self._window = _WINDOW * max(1, threads)
        self._queue: list[tuple[_Run, Task]] = []
        self._flight: dict[str, tuple[_Run, Future]] = {}

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """Tile the jobs; return their outcomes in the jobs' order."""
        outcomes: dict[str, Outcome] = {}
        started = self._start(jobs, outcomes)
        finished = as_completed(with_results=False, raise_errors=False)
        try:
            while self._fill(started, finished) or self._flight:
                future = next(finished)
                run, _ = self._flight.pop(future.key)
                self._settle(run, future)
                if run.outcome is not None or (run.failure is not None and run.flying == 0):
                    run.close()
                    assert run.outcome is not None
                    outcomes[run.job.image_id] = run.outcome
        finally:
            for run, _ in [*self._flight.values(), *self._queue]:
                run.held.close()
        return [outcomes[job.image_id] for job in jobs]

    def _start(self, jobs: list[Job], outcomes: dict[str, Outcome]) -> Iterator[_Run]:
        """Yield a run for each job that can be claimed."""
        for job in jobs:
            held = ExitStack()
            try:
                if job.problem:
                    raise StoreError(job.problem)
                out = store_path(self._options.out, job.image_id)
                refuse_input(out, [job.path])
                refuse_foreign(out, is_our_store)
                held.enter_context(claim(out))
            except NoLocksError:
                raise
            except (GigamilError, OSError) as error:
                outcomes[job.image_id] = Outcome(job.image_id, Status.FAILED, reason(error))
                continue
            yield _Run(job, self._options, held, self._sizes[job.image_id])

    def _fill(self, started: Iterator[_Run], finished: "as_completed") -> bool:
        """Submit tasks until the window is full; take up further slides when the queue runs dry."""
        while len(self._flight) < self._window:
            if not self._queue:
                run = next(started, None)
                if run is None:
                    break
                self._queue += [(run, task) for task in run.first()]
            run, (function, arguments) = self._queue.pop(0)
            future = self._client.submit(function, *arguments, pure=False)
            self._flight[future.key] = (run, future)
            run.flying += 1
            finished.add(future)
        return bool(self._flight)

    def _settle(self, run: _Run, future: Future) -> None:
        """Take one finished task's result and queue what follows; after a failure, wait for the slide's other tasks."""
        run.flying -= 1
        try:
            result = future.result()
            if run.failure is None:
                self._progress.advance(run.share)
                self._queue += [(run, task) for task in run.advance(result)]
        except (CancelledError, CommClosedError):
            raise SchedulerLostError(
                "the Dask scheduler went away: start it anew and run the same command again; what is finished is kept"
            ) from None
        except Exception as error:  # whatever a worker raises belongs to this slide alone
            run.failure = run.failure or error
            self._queue = [(other, task) for other, task in self._queue if other is not run]


__all__ = ["RequestError", "TileOptions", "tile"]

"""The engine of the tiler: the steps of one slide, and a bounded window of tasks over the whole cohort.

Tasks of several slides are under way at once, so that no core idles at a slide's end.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from wsi.cohort.slides import Job
from wsi.errors import (
    ClaimedError,
    GigamilError,
    NoLocksError,
    RecipeMismatchError,
    RequestError,
    SchedulerLostError,
    SlideError,
    StalledError,
    StoreError,
)
from wsi.files.claim import claim
from wsi.files.replace import refuse_foreign, refuse_input, remove
from wsi.machine.interrupt import Leaving, asked_to_leave, leave_if_asked
from wsi.progress.outcome import CLAIMED, Outcome, Progress, Status
from wsi.progress.stage_events import item_ended, item_started
from wsi.recipe import refuse_other_recipe
from wsi.store.metadata import is_our_partial, is_our_store
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify_quickly
from wsi.tiling.opened import run_watched
from wsi.tiling.options import TileOptions
from wsi.tiling.plan import SlidePlan, make_plan, store_path
from wsi.tiling.shares import PLAN, step_shares
from wsi.tiling.tasks.finish import finish
from wsi.tiling.tasks.masking import make_band, make_tissue
from wsi.tiling.tasks.region import make_region
from wsi.tiling.tasks.settle import make_region_once, settle_region, unsettled_regions
from wsi.tiling.tile_recipe import wanted_of
from wsi.tiling.workers import Arrivals, Sent, Workers

Task = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function for a worker, and its arguments."""
_Steps = Generator[tuple[float, list[Task]], Any, Outcome]
"""Gives each step's part of the slide's bytes and its tasks, takes the result of the task that came back last."""

_MOST_TRIES = 3
"""How often a task is begun that stalls each time."""
_WINDOW = 3
"""Tasks under way per worker."""
_SECONDS_TO_SAVE = 10.0
"""How long the tasks under way may take once this process is asked to leave; the next run makes the others anew."""
_SETTLE_PART = 0.05
"""Of the regions' work, where they are made in the pass that finds the tissue."""


def steps_of(job: Job, options: TileOptions) -> _Steps:
    """Go through the steps of one slide; what is half-written goes when one of them fails."""
    plan: SlidePlan = yield PLAN, [(make_plan, (job, options))]
    note = ""
    try:
        if plan.out.exists():
            found: dict[str, Any] | str = yield 0, [(check_finished, (plan,))]
            if not isinstance(found, str):
                return Outcome(job.image_id, Status.SKIPPED, "", found)
            note = found
        plan.start()
        shares = step_shares(plan)
        once = shares.overview + shares.regions * (1 - _SETTLE_PART)
        if plan.single_pass:
            yield once, [(make_region_once, (plan, region)) for region in plan.regions]
        else:
            yield shares.overview, [(make_band, (plan, i)) for i in range(plan.overview.bands)]
        regions = yield shares.tissue, [(make_tissue, (plan,))]
        if plan.single_pass:
            unsettled = yield 0, [(unsettled_regions, (plan,))]
            yield shares.regions * _SETTLE_PART, [(settle_region, (plan, region)) for region in unsettled]
        else:
            yield shares.regions, [(make_region, (plan, region)) for region in regions]
        facts = yield shares.finish, [(finish, (plan, regions))]
    except RecipeMismatchError:
        raise
    except Exception:
        with suppress(OSError, RequestError):
            remove(plan.partial, is_our_partial)
        raise
    return Outcome(job.image_id, Status.DONE, "; ".join([*filter(None, [note]), *facts["warnings"]]), facts)


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
            plan.out, store.recipe, wanted_of(plan.recipe, plan.options, store, *plan.tiles_in_overview)
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


def failed(job: Job, error: BaseException) -> Outcome:
    """Return the outcome of a slide that failed."""
    facts = {"mismatch": True} if isinstance(error, RecipeMismatchError) else {}
    return Outcome(job.image_id, Status.FAILED, reason(error), facts)


@dataclass(slots=True)
class _Run:
    """One slide on its way."""

    job: Job
    steps: _Steps
    held: ExitStack
    """The claim on the output."""
    size: int
    number: int
    """In the order in which slides are taken up."""
    waiting: int = 0
    """Tasks of this step that have not come back."""
    flying: int = 0
    """Tasks at the workers."""
    share: float = 0.0
    """Bytes that one task of this step counts."""
    failure: Exception | None = None
    outcome: Outcome | None = None
    begun: float = field(default_factory=time.monotonic)

    def advance(self, result: Any) -> list[Task]:
        """Take the result of a step's last task and return the next step's tasks; none where the slide is done."""
        try:
            share, tasks = self.steps.send(result)
            while not tasks:
                share, tasks = self.steps.send(None)
        except StopIteration as end:
            self.outcome = end.value
            return []
        self.waiting, self.share = len(tasks), self.size * share / len(tasks)
        return tasks

    def fail(self) -> None:
        """Let the steps clean up after the failure."""
        assert self.failure is not None
        try:
            self.steps.throw(self.failure)
        except Exception as error:
            self.outcome = failed(self.job, error)


@dataclass(slots=True)
class Engine:
    """Keeps a bounded window of tasks under way over the whole cohort."""

    workers: Workers
    options: TileOptions
    progress: Progress
    sizes: dict[str, int]
    """Bytes by image id."""
    _queue: list[tuple[_Run, Task, int]] = field(default_factory=list)
    """With how often it has been tried."""
    _flight: dict[str, tuple[_Run, Task, int, Sent]] = field(default_factory=dict)
    _until: float = float("inf")
    """When this process leaves, whatever is under way."""

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """Tile the jobs; return their outcomes in the jobs' order."""
        outcomes: dict[str, Outcome] = {}
        started = self._start(jobs, outcomes)
        finished = self.workers.arrivals()
        try:
            while self._fill(started, finished) or self._flight:
                sent = self._next(finished)
                if sent.status == "pending":  # lost with its worker since, and on its way anew
                    finished.add(sent)
                    continue
                run, task, tries, _ = self._flight.pop(sent.key)
                self._settle(run, task, tries, sent)
                if run.failure is not None and run.flying == 0:
                    run.fail()
                if run.outcome is not None:
                    run.held.close()
                    outcomes[run.job.image_id] = run.outcome
                    item_ended(run.outcome, time.monotonic() - run.begun)
            if len(outcomes) < len(jobs):
                leave_if_asked()
        finally:
            for run in [*(entry[0] for entry in self._flight.values()), *(entry[0] for entry in self._queue)]:
                run.held.close()
        return [outcomes[job.image_id] for job in jobs]

    def _next(self, finished: Arrivals) -> Sent:
        """Wait for a task that came back; asked to leave, give those under way a last chance to."""
        while (sent := finished.next(0.1)) is None:
            if asked_to_leave():
                self._until = min(self._until, time.monotonic() + _SECONDS_TO_SAVE)
            if time.monotonic() > self._until:
                raise Leaving
        return sent

    def _start(self, jobs: list[Job], outcomes: dict[str, Outcome]) -> Iterator[_Run]:
        """Yield a run for each job that can be claimed."""
        for number, job in enumerate(jobs):
            held = ExitStack()
            try:
                if job.problem:
                    raise StoreError(job.problem)
                out = store_path(self.options.out, job.image_id)
                refuse_input(out, [job.path])
                refuse_foreign(out, is_our_store)
                held.enter_context(claim(out))
            except NoLocksError:
                raise
            except (GigamilError, OSError) as error:
                facts = {CLAIMED: True} if isinstance(error, ClaimedError) else {}
                outcomes[job.image_id] = Outcome(job.image_id, Status.FAILED, reason(error), facts)
                continue
            item_started(job.image_id, bytes=self.sizes[job.image_id])
            yield _Run(job, steps_of(job, self.options), held, self.sizes[job.image_id], number)

    def _fill(self, started: Iterator[_Run], finished: Arrivals) -> bool:
        """Submit tasks until the window is full; take up further slides when the queue runs dry."""
        while not asked_to_leave() and len(self._flight) < _WINDOW * max(1, self.workers.threads):
            if not self._queue:
                run = next(started, None)
                if run is None:
                    break
                self._enqueue(run, run.advance(None))
            run, task, tries = self._queue.pop(0)
            key = f"{task[0].__name__}-{uuid4().hex}"  # what the dashboard shows
            sent = self.workers.submit(key, run_watched, run.job.image_id, self.options.stall, *_flat(task))
            self._flight[sent.key] = (run, task, tries, sent)
            run.flying += 1
            finished.add(sent)
        return bool(self._flight)

    def _enqueue(self, run: _Run, tasks: list[Task]) -> None:
        """Put a slide's next step before the tasks of later slides: those go on meanwhile, and it is finished soon."""
        place = next((i for i, entry in enumerate(self._queue) if entry[0].number > run.number), len(self._queue))
        self._queue[place:place] = [(run, task, 1) for task in tasks]

    def _settle(self, run: _Run, task: Task, tries: int, sent: Sent) -> None:
        """Take one finished task's result and queue what follows; after a failure, wait for the slide's other tasks."""
        run.flying -= 1
        run.waiting -= 1
        try:
            # a step goes on by its last task's result alone: those of the others stay where they are
            last = not run.waiting or sent.status != "finished"
            result = sent.result() if last else None
            if run.failure is None:
                with suppress(Leaving):  # what is under way comes back first
                    self.progress.advance(run.share)
                if not run.waiting:
                    self._enqueue(run, run.advance(result))
        except SchedulerLostError:
            raise
        except StalledError as error:
            self._try_again(run, task, tries, error)
        except Exception as error:  # whatever a worker raises belongs to this slide alone
            self._give_up(run, error)

    def _try_again(self, run: _Run, task: Task, tries: int, error: StalledError) -> None:
        """Give a task that stalled to whoever is free; the slide fails where it does so again and again."""
        if run.failure is None and tries < _MOST_TRIES:
            run.waiting += 1
            self._queue.insert(0, (run, task, tries + 1))
            self.progress.note(f"{error}: tried anew")
        else:
            self._give_up(run, SlideError(f"{error}, {tries} times: see to its disk, and run the same command again"))

    def _give_up(self, run: _Run, error: Exception) -> None:
        run.failure = run.failure or error
        self._queue = [entry for entry in self._queue if entry[0] is not run]


def _flat(task: Task) -> tuple[Any, ...]:
    function, arguments = task
    return (function, *arguments)

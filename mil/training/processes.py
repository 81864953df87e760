"""Models trained one after the other or in turns, in one process or several, or each by several processes together.

The result depends neither on whether models take turns or stand side by side nor on the number of cores. Processes that
train one model together add numbers in another order, so theirs agrees within rounding.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from features.distributed import Group, Place, process_group
from features.encoders.device import device_of_rank
from features.fork_server import begin_process, fresh_processes
from features.started import JOINED, Message, RankWork, run_ranks
from mil.data.cohort import Cohort
from mil.training.fit import fit, fitting
from mil.training.jobs import FitJob
from mil.training.options import TrainOptions
from mil.training.ranks import Ranks
from mil.training.together import fit_in_turns
from mil.training.training_data import gather
from wsi.arrays import Ints
from wsi.errors import ItemError
from wsi.machine.interrupt import PASSED_ON, Leaving, end_with_parent, interrupts_held, leave_if_asked, save_on_signals

POLL_SECONDS = 0.2
"""How often it is looked whether somebody asks to save and leave."""
_Facts = list[dict[str, float]]
"""Of each model of a group."""
View = Callable[[Sequence[Cohort], Ints, int], tuple[Cohort, Ints]]
"""Called with bags, folds and an outer fold: what its nested models are trained on, and its inner folds. Pickled."""
Done = Callable[[FitJob, dict[str, float]], None]
"""Called with each model and its facts as it is finished."""


@dataclass(frozen=True, slots=True)
class _Data:
    """What models are trained on."""

    cohorts: Sequence[Cohort]
    folds: Ints
    view: View | None = None
    views: dict[int, tuple[Cohort, Ints]] = field(default_factory=dict)
    """Of each outer fold, once it was asked for."""

    def of(self, job: FitJob) -> tuple[Cohort, Ints]:
        """Return the bags and the folds of a model."""
        if self.view is None:
            return job.cohort_of(self.cohorts), self.folds
        if job.outer not in self.views:
            self.views[job.outer] = self.view(self.cohorts, self.folds, job.outer)
        return self.views[job.outer]


def fit_all(
    todo: Sequence[FitJob], cohorts: Sequence[Cohort], folds: Ints, done: Done, view: View | None = None
) -> None:
    """Train the models; with several cohorts, one for each encoder, the seeds take them in turn.

    ``view``: of nested models, what those of an outer fold are trained on.

    Raises
    ------
    BagError
        A loss is not finite.
    ItemError
        A training process died.
    """
    groups = in_groups(todo)
    if todo and todo[0].options.nproc > 1:
        _by_ranks(todo, done)
    elif len(groups) > 1 and todo[0].options.workers > 1:
        _side_by_side(groups, min(todo[0].options.workers, len(groups)), done, view)
    else:
        data = _Data(cohorts, folds, view)
        for group in groups:
            _fit_group(group, data, done)


def in_groups(todo: Sequence[FitJob]) -> list[list[FitJob]]:
    """Return the models that are trained in turns by one process: those of one fold after another, a seed at a time."""
    size = todo[0].options.together if todo else 1
    parts = [list(own) for _, own in groupby(todo, key=lambda job: job.outer)]
    return [part[first : first + size] for part in parts for first in range(0, len(part), size)]


def _fit_group(group: Sequence[FitJob], data: _Data, done: Done) -> None:
    """Train the models of a group in turns; one alone goes through as it is."""
    with deterministic(group):
        fittings = [(job, fitting(job, *data.of(job))) for job in group]
        fit_in_turns(fittings, torch.device(group[0].options.device), done)


def _side_by_side(groups: Sequence[list[FitJob]], workers: int, done: Done, view: View | None) -> None:
    """Train in processes, which gather their data themselves: little goes through the pipes."""
    options, context = groups[0][0].options, fresh_processes(__name__)
    devices: SimpleQueue[str] = context.SimpleQueue()
    for worker in range(workers):
        devices.put(device_of_worker(options.device, worker, torch.cuda.device_count()))
    with ProcessPoolExecutor(workers, context, _begin_worker, (dict(os.environ), options, devices, view)) as pool:
        with interrupts_held():  # the processes leave Ctrl-C to this one
            running = {pool.submit(_fit_in_worker, group): group for group in groups}
        try:
            for future in _finished(running):
                for job, facts in zip(running[future], future.result(), strict=True):
                    done(job, facts)
        except Leaving:
            _leave(pool)
            raise
        except BrokenProcessPool:
            raise ItemError(
                "a training process died, for want of memory perhaps: run the same command again to go on, with fewer "
                "--workers (a script that calls train needs its `if __name__ == '__main__':`)"
            ) from None
        except BaseException:
            for process in list(pool._processes.values()):  # nobody waits for their models
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise


def _finished(running: Collection[Future[_Facts]]) -> Iterator[Future[_Facts]]:
    """Yield the models that are finished, as they are; `Leaving` where this process is asked to."""
    left = set(running)
    while left:
        ended, left = wait(left, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        yield from ended
        if left:
            leave_if_asked()


def _leave(pool: ProcessPoolExecutor) -> None:
    """Let the processes save at the end of their epochs, and end them."""
    processes = list(pool._processes.values())
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, PASSED_ON)
    pool.shutdown(cancel_futures=True)


def device_of_worker(asked: str, worker: int, gpus: int) -> str:
    """Return the device of one of the workers side by side: the GPUs in turn, where no single one was asked for."""
    return f"cuda:{worker % gpus}" if asked == "cuda" and gpus > 1 else asked


def _by_ranks(todo: Sequence[FitJob], done: Done) -> None:
    """Train each model by several processes on this machine."""
    fresh_processes(__name__)
    work: list[RankWork] = [partial(_rank, todo) for _ in range(todo[0].options.nproc)]
    ends = run_ranks(work, lambda message: done(*message[1]), stall=todo[0].options.stall)
    for end in ends:
        if end.error is not None:
            raise end.error
    died = [end.told() for end in ends if end.exit_code]
    if died:
        raise ItemError(f"{', '.join(died)}: run the same command again to go on, with fewer --nproc")


def _rank(todo: Sequence[FitJob], place: Place, store: Store, send: Callable[[Message], None]) -> None:
    """Train as one of the ranks that `_by_ranks` started."""
    options = todo[0].options
    device = device_of_rank(torch.device(options.device), place.local_rank)
    with process_group(place, device, store) as group:
        data = gather(options)
        for fitted in fit_in_group(todo, data.open(), data.folds, group, device):
            if place.rank == 0:
                send(("fitted", fitted))
        send((JOINED, ()))  # only now: a rank that dies before would leave the others waiting, so they are stopped


def fit_in_group(
    todo: Sequence[FitJob], cohorts: Sequence[Cohort], folds: Ints, group: Group, device: torch.device
) -> Iterator[tuple[FitJob, dict[str, float]]]:
    """Train the models as one rank of a process group; give each with its facts."""
    if todo:
        group.from_all(None)  # until every rank has loaded: from here on they wait for minutes only
    ranks = Ranks(group.place.rank, group.place.world, group, device)
    for job in todo:
        own = job.on(str(device))
        with deterministic([own]):
            yield job, fit(own, job.cohort_of(cohorts), folds, ranks)


@contextmanager
def deterministic(jobs: Sequence[FitJob]) -> Iterator[None]:
    """Make torch repeat itself bit for bit, and put its settings back afterwards.

    One thread a model, whatever the cores: with another number sums come in another order. Models side by side
    (``jobs``) are what keeps more cores busy.

    What runs here on a CPU repeats itself anyway, and asking torch for it costs two seconds of imports.
    """
    on_gpu = any(torch.device(job.options.device).type == "cuda" for job in jobs)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, threads_before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.set_num_threads(1)
    if on_gpu:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        if on_gpu:
            torch.use_deterministic_algorithms(before)


_WORKER: dict[str, Any] = {}
"""In a worker process: the data it opened, and its device."""


def _begin_worker(
    environment: dict[str, str], options: TrainOptions, devices: "SimpleQueue[str]", view: View | None
) -> None:
    begin_process(environment)
    end_with_parent()
    save_on_signals()
    data = gather(options)
    _WORKER.update(data=_Data(data.open(), data.folds, view), device=devices.get())


def _fit_in_worker(group: Sequence[FitJob]) -> _Facts:
    facts: dict[str, dict[str, float]] = {}
    own = [job.on(_WORKER["device"]) for job in group]
    _fit_group(own, _WORKER["data"], lambda job, found: facts.update({job.name: found}))
    return [facts[job.name] for job in group]

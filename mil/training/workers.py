"""Models trained one after the other, side by side in their own processes, or each by several processes together.

The result depends neither on whether models stand side by side nor on the number of cores. Processes that train one
model together add numbers in another order, so theirs agrees within rounding.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
from torch.distributed import Store  # type: ignore[attr-defined]

from features.distributed import JOINED, Group, Message, Place, RankWork, process_group, run_ranks
from features.encoders.device import device_of_rank
from mil.data.cohort import Cohort
from mil.targets.metrics import Ints
from mil.training.fit import fit
from mil.training.jobs import FitJob
from mil.training.options import TrainOptions
from mil.training.ranks import Ranks
from mil.training.training_data import gather
from wsi.errors import ItemError, RequestError
from wsi.files.documents import parse_json, read_document
from wsi.interrupt import interrupts_held

Done = Callable[[FitJob, dict[str, float]], None]
"""Called with each model and its facts as it is finished."""


def is_whole(job: FitJob) -> bool:
    """Tell whether the model was finished by a run of the same recipe."""
    try:
        return bool(
            parse_json(read_document(job.folder / "model.json", RequestError))["recipe_hash"] == job.recipe_hash
        )
    except (ValueError, KeyError, TypeError):  # a RequestError, where there is no such file, is a ValueError, too
        return False


def fit_all(todo: Sequence[FitJob], cohorts: Sequence[Cohort], folds: Ints, done: Done) -> None:
    """Train the models; with several cohorts, one for each encoder, the seeds take them in turn.

    Raises
    ------
    BagError
        A loss is not finite.
    ItemError
        A training process died.
    """
    if not todo:
        return
    options = todo[0].options
    if options.nproc > 1:
        _by_ranks(todo, done)
        return
    workers = min(options.workers, len(todo))
    if workers > 1:
        _side_by_side(todo, workers, done)
        return
    with deterministic(todo):
        for job in todo:
            done(job, fit(job, cohort_of(job, cohorts), folds))


def _side_by_side(todo: Sequence[FitJob], workers: int, done: Done) -> None:
    """Train in processes, which gather their material themselves: little goes through the pipes."""
    options, context = todo[0].options, get_context("spawn")
    devices: SimpleQueue[str] = context.SimpleQueue()
    for worker in range(workers):
        devices.put(device_of_worker(options.device, worker, torch.cuda.device_count()))
    with ProcessPoolExecutor(workers, context, _begin_worker, (options, devices)) as pool:
        with interrupts_held():  # the processes leave Ctrl-C to this one
            running = {pool.submit(_fit_in_worker, job): job for job in todo}
        try:
            for future in as_completed(running):
                done(running[future], future.result())
        except BrokenProcessPool:
            raise ItemError(
                "a training process died, for want of memory perhaps: run the same command again to go on, with fewer "
                "--jobs (a script that calls train needs its `if __name__ == '__main__':`)"
            ) from None
        except BaseException:
            for process in list(pool._processes.values()):  # nobody waits for their models
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise


def device_of_worker(asked: str, worker: int, gpus: int) -> str:
    """Return the device of one of the workers side by side: the GPUs in turn, where no single one was asked for."""
    return f"cuda:{worker % gpus}" if asked == "cuda" and gpus > 1 else asked


def _by_ranks(todo: Sequence[FitJob], done: Done) -> None:
    """Train each model by several processes on this machine."""

    def hear(message: Message) -> None:
        number, facts = message[1]
        done(todo[number], facts)

    work: list[RankWork] = [partial(_rank, todo) for _ in range(todo[0].options.nproc)]
    ends = run_ranks(work, hear)
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
        material = gather(options)
        cohorts = material.open_all()
        for number, facts in fit_in_group(todo, cohorts, material.folds, group, device):
            if place.rank == 0:
                send(("fitted", (number, facts)))
        send((JOINED, ()))  # only now: a rank that dies before would leave the others waiting, so they are stopped


def fit_in_group(
    todo: Sequence[FitJob], cohorts: Sequence[Cohort], folds: Ints, group: Group, device: torch.device
) -> Iterator[tuple[int, dict[str, float]]]:
    """Train the models as one rank of a process group; give the number of each, and its facts."""
    if todo:
        group.from_all(None)  # until every rank has loaded: from here on they wait for minutes only
    ranks = Ranks(group.place.rank, group.place.world, group, device)
    for number, job in enumerate(todo):
        own = replace(job, options=replace(job.options, device=str(device)))
        with deterministic([own]):
            yield number, fit(own, cohort_of(job, cohorts), folds, ranks)


def cohort_of(job: FitJob, cohorts: Sequence[Cohort]) -> Cohort:
    """Return the bags that a model is trained on: of the encoder whose turn it is, or of its fold's own."""
    number = job.fold if job.options.fusion == "folds" else job.seed
    return cohorts[number % len(cohorts)]


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
"""In a worker process: the cohorts it opened, the folds, and its device."""


def _begin_worker(options: TrainOptions, devices: "SimpleQueue[str]") -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    material = gather(options)
    _WORKER.update(cohorts=material.open_all(), folds=material.folds, device=devices.get())


def _die_with_parent() -> None:
    """End this process when the one that started it is gone, killed perhaps: nobody waits for its models."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _fit_in_worker(job: FitJob) -> dict[str, float]:
    own = replace(job, options=replace(job.options, device=_WORKER["device"]))
    with deterministic([own]):
        return fit(own, cohort_of(job, _WORKER["cohorts"]), _WORKER["folds"])

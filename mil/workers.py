"""Models trained one after the other, or side by side in their own processes; the result does not depend on which."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

import torch

from mil.cohort import Cohort
from mil.fit import FitJob, fit
from mil.material import gather
from mil.metrics import Ints
from mil.options import TrainOptions
from wsi.cpu import usable_cpus
from wsi.errors import ItemError

_LARGE = 5e7
"""Feature values in the cohort above which a model's products are worth more than one thread."""


def is_whole(job: FitJob) -> bool:
    """Tell whether the model was finished by a run of the same recipe."""
    try:
        return bool(json.loads((job.folder / "model.json").read_text())["recipe_hash"] == job.recipe_hash)
    except (OSError, ValueError, KeyError):
        return False


def fit_all(todo: Sequence[FitJob], cohort: Cohort, folds: Ints) -> Iterator[tuple[FitJob, dict[str, float]]]:
    """Train the models; give each with its facts as it is finished.

    Raises
    ------
    BagError
        A loss is not finite.
    ItemError
        A training process died.
    """
    workers = min(todo[0].options.jobs, len(todo)) if todo else 1
    threads = _threads(cohort, workers)
    if workers > 1:
        yield from _side_by_side(todo, workers, threads)
        return
    with _deterministic(todo, threads):
        for job in todo:
            yield job, fit(job, cohort, folds)


def _side_by_side(todo: Sequence[FitJob], workers: int, threads: int) -> Iterator[tuple[FitJob, dict[str, float]]]:
    """Train in processes, which gather their material themselves: little goes through the pipes."""
    options = todo[0].options
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (options, threads)) as pool:
        running = {pool.submit(_fit_in_worker, job): job for job in todo}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool:
            raise ItemError(
                "a training process died, for want of memory perhaps: run the same command again to go on, with fewer "
                "--jobs (a script that calls train needs its `if __name__ == '__main__':`)"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _threads(cohort: Cohort, workers: int) -> int:
    """Return the torch threads per model: one for small cohorts, where more only cost."""
    values = sum(bag.size for bag in cohort.bags)
    return 1 if values < _LARGE else max(1, usable_cpus() // workers)


@contextmanager
def _deterministic(jobs: Sequence[FitJob], threads: int) -> Iterator[None]:
    """Make torch repeat itself bit for bit, and put its settings back afterwards.

    What runs here on a CPU repeats itself anyway, and asking torch for it costs two seconds of imports.
    """
    on_gpu = any(torch.device(job.options.device).type == "cuda" for job in jobs)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, threads_before = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.set_num_threads(threads)
    if on_gpu:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        if on_gpu:
            torch.use_deterministic_algorithms(before)


_WORKER: dict[str, Any] = {}
"""In a worker process: the cohort it opened, and the folds."""


def _begin_worker(options: TrainOptions, threads: int) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    material = gather(options)
    _WORKER.update(cohort=material.open(), folds=material.folds, threads=threads)


def _die_with_parent() -> None:
    """End this process when the one that started it is gone, killed perhaps: nobody waits for its models."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _fit_in_worker(job: FitJob) -> dict[str, float]:
    with _deterministic([job], _WORKER["threads"]):
        return fit(job, _WORKER["cohort"], _WORKER["folds"])

"""`gigamil run`: the stages of a cohort file as far as they are needed, in their order, by the verbs' own functions.

A slide or an experiment that fails is named, and the others go on. What is finished is skipped; what was stopped goes
on where it was.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from mil.pipeline.cohort_file import CohortFile, read_cohort_file
from mil.pipeline.options import RunOptions
from mil.pipeline.stages import STAGES
from wsi.options import stage
from wsi.outcome import Outcome, Progress, Silent, Summary

__all__ = ["RunOptions", "run"]


@stage
def run(options: RunOptions, progress: Progress | None = None) -> Summary:
    """Do what is left to do of a cohort file.

    Raises
    ------
    RequestError
        The file is wrong, a stage cannot be carried out as it was put, or no rehearsal was passed and one is required.
    """
    start, progress = time.monotonic(), progress or Silent()
    file = read_cohort_file(options.cohort)
    outcomes: list[Outcome] = []
    for name in STAGES if options.stage == "all" else (options.stage,):
        outcomes += _DO[name](file, options, progress)
    return Summary("run", outcomes, time.monotonic() - start)


def _tile(file: CohortFile, options: RunOptions, progress: Progress) -> Iterator[Outcome]:
    from wsi.tiling.tiler import tile

    for tiling in file.tilings:
        own = replace(tiling, overwrite=options.overwrite)
        own = own if options.workers is None else replace(own, workers=options.workers)
        yield from tile(own, progress).outcomes


def _extract(file: CohortFile, options: RunOptions, progress: Progress) -> Iterator[Outcome]:
    from features.extraction.extract import extract

    for extraction in file.extract:
        own = replace(extraction, overwrite=options.overwrite, nproc=options.nproc or extraction.nproc)
        yield from extract(own, progress).outcomes


def _train(file: CohortFile, options: RunOptions, progress: Progress) -> Iterator[Outcome]:
    from mil.pipeline.training import work_through

    yield from work_through(file, options, progress)


def _after(file: CohortFile, options: RunOptions, progress: Progress) -> Iterator[Outcome]:
    from mil.pipeline.afterwards import make_after

    yield from make_after(file, options, progress)


_DO: dict[str, Callable[[CohortFile, RunOptions, Progress], Iterator[Outcome]]] = {
    "tile": _tile,
    "extract": _extract,
    "train": _train,
    "after": _after,
}

"""Which head scores a fold, chosen on inner folds of its training patients; and which one is for new patients.

Whoever trains several heads and tells of the one with the best result tells of luck. Here the choice is part of what
is judged: for every outer fold the heads are compared on inner folds of the other patients alone, and the best one's
models, which have learnt from those other patients, score the fold (Varma and Simon, BMC Bioinformatics 2006). For new
patients the head is taken that is best over all inner folds together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mil.data.cohort import Cohort
from mil.nested.inner import inner_view, loss_of
from mil.run.scores import read_scores
from mil.training.jobs import FitJob
from mil.training.options import TrainOptions
from mil.training.processes import fit_all
from wsi.arrays import Ints
from wsi.files.replace import remove
from wsi.recipe import Json, recipe_hash

WORK = "nested"
"""Folder of the run in which the inner models lie while heads are chosen."""


@dataclass(frozen=True, slots=True)
class Inner:
    """The inner folds of an outer one."""

    fold: int
    part: Cohort
    """Everybody outside the fold."""
    folds: Ints


def inner_of(options: TrainOptions, cohort: Cohort, folds: Ints) -> list[Inner]:
    """Return the inner folds of each outer one; raises as `inner_folds`."""
    return [Inner(fold, *inner_view(options, [cohort], folds, fold)) for fold in range(options.folds)]


def choose_heads(
    options: TrainOptions,
    cohort: Cohort,
    folds: Ints,
    every: Sequence[Inner],
    run: Path,
    stamp: str,
    advance: Callable[[int], None],
) -> Json:
    """Train each head on each inner fold, in as many processes as the run; return what nested.json holds.

    A choosing that was stopped goes on with the models that are whole. ``stamp``: the run's recipe hash.
    """
    alone = replace(options, nproc=1, track=())
    jobs = {own.fold: _jobs(alone, own.fold, run / WORK, stamp) for own in every}
    todo = [job for own in jobs.values() for job in own if not job.is_whole]
    advance(sum(map(len, jobs.values())) - len(todo))
    fit_all(todo, [cohort], folds, lambda *_: advance(1), partial(inner_view, alone))
    choices = [_choice(alone, own, jobs[own.fold]) for own in every]
    remove(run / WORK)
    mean = {head: float(np.mean([choice["losses"][head] for choice in choices])) for head in options.heads}
    return {
        "inner_folds": options.nested,
        "candidates": list(options.heads),
        "loss": "of inner test patients; lower is better",
        "choices": choices,
        "for_new_patients": min(mean, key=lambda head: mean[head]),
    }


def _jobs(options: TrainOptions, outer: int, work: Path, stamp: str) -> list[FitJob]:
    """Return the inner models of an outer fold."""
    return [
        FitJob(
            head=head,
            fold=inner,
            seed=0,
            folder=work / f"fold{outer}" / head / f"inner{inner}",
            options=options,
            recipe_hash=recipe_hash({"run": stamp, "outer": outer}),
            outer=outer,
        )
        for head in options.heads
        for inner in range(options.nested)
    ]


def _choice(options: TrainOptions, own: Inner, jobs: Sequence[FitJob]) -> Json:
    losses: dict[str, list[float]] = {head: [] for head in options.heads}
    for job in jobs:
        table = read_scores(job.folder / "scores.csv", own.part.image_ids, len(own.part.target.names))
        losses[job.head].append(loss_of(table, own.part, options.aggregate))
    return {"fold": own.fold, "head": min(losses, key=lambda head: float(np.mean(losses[head]))), "losses": losses}

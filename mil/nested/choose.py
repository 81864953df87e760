"""Which head scores a fold, chosen on inner folds of its training patients; and which one is for new patients.

Whoever trains several heads and tells of the one with the best result tells of luck. Here the choice is part of what
is judged: for every outer fold the heads are compared on inner folds of the other patients alone, and the best one's
models, which have learnt from those other patients, score the fold (Varma and Simon, BMC Bioinformatics 2006). For new
patients the head is taken that is best over all inner folds together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mil.data.cohort import Cohort
from mil.nested.inner import inner_folds, loss_of, without_fold
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
    found = []
    for fold in range(options.folds):
        part, outer = without_fold(cohort, folds, fold)
        found.append(Inner(fold, part, inner_folds(part, outer, options)))
    return found


def choose_heads(
    options: TrainOptions, every: Sequence[Inner], run: Path, stamp: str, advance: Callable[[int], None]
) -> Json:
    """Train each head on each inner fold, in this process; return what nested.json holds.

    A choosing that was stopped goes on with the models that are whole. ``stamp``: the run's recipe hash.
    """
    alone = replace(options, workers=1, nproc=1, track=())
    choices = [_choice(alone, own, run / WORK, stamp, advance) for own in every]
    remove(run / WORK)
    mean = {head: float(np.mean([choice["losses"][head] for choice in choices])) for head in options.heads}
    return {
        "inner_folds": options.nested,
        "candidates": list(options.heads),
        "loss": "of inner test patients; lower is better",
        "choices": choices,
        "for_new_patients": min(mean, key=lambda head: mean[head]),
    }


def _choice(options: TrainOptions, own: Inner, work: Path, stamp: str, advance: Callable[[int], None]) -> Json:
    jobs = [
        FitJob(
            head=head,
            fold=inner,
            seed=0,
            folder=work / f"fold{own.fold}" / head / f"inner{inner}",
            options=options,
            recipe_hash=recipe_hash({"run": stamp, "outer": own.fold}),
        )
        for head in options.heads
        for inner in range(options.nested)
    ]
    todo = [job for job in jobs if not job.is_whole]
    advance(len(jobs) - len(todo))
    fit_all(todo, [own.part], own.folds, lambda *_: advance(1))
    losses: dict[str, list[float]] = {head: [] for head in options.heads}
    for job in jobs:
        table = read_scores(job.folder / "scores.csv", own.part.image_ids, len(own.part.target.names))
        losses[job.head].append(loss_of(table, own.part, options.aggregate))
    return {"fold": own.fold, "head": min(losses, key=lambda head: float(np.mean(losses[head]))), "losses": losses}

"""One model to train: which head, fold and seed, on which slides."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mil.data.cohort import Cohort
from mil.data.splits import inner_split
from mil.training.options import TrainOptions
from wsi.arrays import Ints
from wsi.errors import RequestError
from wsi.files.documents import parse_json, read_document


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """One model to train."""

    head: str
    fold: int
    seed: int
    folder: Path
    options: TrainOptions
    """With device and precision resolved."""
    recipe_hash: str
    outer: int = -1
    """Of a nested model the outer fold whose patients it does not see; ``fold`` is an inner one."""

    @property
    def name(self) -> str:
        """Return which of the run's models it is, for a person."""
        return f"{self.head} fold {self.fold} seed {self.seed}"

    @property
    def is_whole(self) -> bool:
        """Tell whether the model was finished by a run of the same recipe."""
        try:
            told = parse_json(read_document(self.folder / "model.json", RequestError))
            return bool(told["recipe_hash"] == self.recipe_hash)
        except (ValueError, KeyError, TypeError):  # a RequestError, where there is no such file, is a ValueError, too
            return False

    def on(self, device: str) -> "FitJob":
        """Return the job on another device."""
        return replace(self, options=replace(self.options, device=device))

    def cohort_of(self, cohorts: Sequence[Cohort]) -> Cohort:
        """Return the bags that it is trained on: of the encoder whose turn it is, or of its fold's own."""
        number = self.fold if self.options.fusion == "folds" else self.seed
        return cohorts[number % len(cohorts)]


@dataclass(frozen=True, slots=True)
class Parts:
    """Slide numbers of the three parts; ``train`` and ``val`` without slides that have no tiles."""

    train: Ints
    val: Ints
    test: Ints


def divide(cohort: Cohort, folds: Ints, job: FitJob) -> Parts:
    """Return the slides to train on, to validate on and to test."""
    rest = np.flatnonzero((folds != job.fold) & cohort.usable_N)
    asked, only_trained_on = rest[folds[rest] >= 0], rest[folds[rest] < 0]
    labels = [cohort.strata[i] for i in asked.tolist()]
    patients = [cohort.groups[i] for i in asked]
    val = inner_split(labels, patients, job.options.inner_share, seed_of(job, 0, "inner"))
    return Parts(np.concatenate([asked[~val], only_trained_on]), asked[val], np.flatnonzero(folds == job.fold))


def seed_of(job: FitJob, epoch: int, purpose: str) -> int:
    """Return a 32-bit seed of its own for this model, epoch and purpose; the inner split is the same for every head."""
    head = "" if purpose == "inner" else job.head
    key = [job.options.seed, job.fold, job.seed, epoch, *f"{head}/{purpose}".encode()]
    return int(np.random.SeedSequence(key).generate_state(1)[0])

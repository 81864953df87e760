"""Which patients served for what, fold by fold: who trained, who chose the epoch, who was tested."""

from dataclasses import dataclass

import numpy as np

from mil.run.evidence import Evidence
from mil.run.scores import read_scores
from wsi.arrays import Bools


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the patients."""

    patients: int
    carried: dict[str, int]
    """What they carry: patients of each class, with each label, with the event."""

    @property
    def told(self) -> str:
        """Return what they carry, for a reader."""
        return ", ".join(f"{name} {count}" for name, count in self.carried.items() if name != "in all")

    @property
    def text(self) -> str:
        """Return all numbers for a reader."""
        return f"{self.patients} ({self.told})" if self.told else str(self.patients)


@dataclass(frozen=True, slots=True)
class FoldUse:
    """The patients of one fold's models."""

    fold: int
    train: Part
    inner: Part
    """Who chose the epoch."""
    test: Part


def use_of_folds(evidence: Evidence) -> list[FoldUse]:
    """Return what the patients of a run served for, from oof.csv and the scores of the first model of each fold.

    Further models of a fold draw other patients to choose the epoch, as many of each class. Patients of whom there is
    nothing to look at train nothing; they are tested where they count.
    """
    ids, run = [row["patient_id"] for row in evidence.patients], evidence.run
    owner = {row["image_id"]: row[run.unit_column] for row in evidence.slides}
    owner |= {patient: patient for patient in ids}  # where their slides are one bag
    found = []
    for fold in range(evidence.config["recipe"]["folds"]):
        scores = read_scores(run.model(run.head, fold, 0) / "scores.csv", owner)
        inner = {owner[i] for i, test in zip(scores.image_ids, scores.test_S, strict=True) if not test}
        inner_P = np.array([patient in inner for patient in ids])
        test_P = evidence.folds_P == fold
        train_P = ~test_P & ~inner_P & evidence.usable_P
        parts = (_carried(evidence, part_P) for part_P in (train_P, inner_P, test_P & evidence.scored_P))
        found.append(FoldUse(fold, *parts))
    return found


def _carried(evidence: Evidence, chosen_P: Bools) -> Part:
    return Part(int(chosen_P.sum()), evidence.truth.of(chosen_P).carriers())

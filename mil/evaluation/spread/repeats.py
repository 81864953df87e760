"""Repeats of runs beside each other: fold by fold on the same divisions, tested by the corrected resampled t.

Two ways are compared on the same folds of the same repeats: a fold that is easy is so for both. What is tested is the
mean of the differences in the metric that compares patients, over all folds of all repeats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mil.evaluation.spread.resampled import Resampled, fold_values, ranking_metric, resampled
from mil.run.beside import REPEATS
from mil.run.evidence import Evidence
from mil.run.folder import RunFolder
from mil.targets import Target
from wsi.arrays import Floats, Ints
from wsi.errors import RequestError


def members(path: Path) -> list[Path]:
    """Return the repeats in a folder of `train --repeats`, else the folder itself.

    Raises
    ------
    RequestError
        A repeat is missing.
    """
    if (path / "config.toml").exists() or not (path / REPEATS).exists():
        return [path]
    found = sorted(
        (config.parent for config in path.glob("repeat*/config.toml") if config.parent.name[6:].isdigit()),
        key=lambda own: int(own.name[6:]),
    )
    if [own.name for own in found] != [f"repeat{number}" for number in range(len(found))] or not found:
        raise RequestError(
            f"{path}: expected repeat0, repeat1, ..., found {', '.join(own.name for own in found) or 'none'}"
        )
    return found


def check_alike(runs: Mapping[Path, Sequence[Path]]) -> int:
    """Return how many repeats each has; `RequestError` where they differ."""
    first, *others = runs
    for other in others:
        if len(runs[other]) != len(runs[first]):
            counts = [f"{len(runs[own])} of {own}" for own in (first, other)]
            raise RequestError(f"expected as many repeats of each, found {' and '.join(counts)}")
    return len(runs[first])


@dataclass(frozen=True, slots=True)
class Repeated:
    """What each way tells of the shared patients in each repeat."""

    tables: dict[str, list[Floats]]
    """(P, C) of each repeat."""
    folds: list[Ints]
    """The fold (P,) of each patient in each repeat, the same for all ways."""
    n_folds: int

    def tested(self, truth: Target) -> dict[str, Resampled | None]:
        """Return for each way but the first the test of its difference to the first, fold by fold."""
        first, *others = self.tables
        own_J = self._by_fold(truth, first)
        return {name: resampled(self._by_fold(truth, name) - own_J, 1 / (self.n_folds - 1)) for name in others}

    def _by_fold(self, truth: Target, name: str) -> Floats:
        found = []
        for told_PC, folds_P in zip(self.tables[name], self.folds, strict=True):
            measures = truth.measures(told_PC, folds_P, truth.blind(folds_P))
            found.append(fold_values(measures[ranking_metric(measures)], folds_P))
        return np.concatenate(found)


def repeated(
    ids: Sequence[str], evidences: Mapping[str, Sequence[Evidence]], tables: dict[str, list[Floats]], n_folds: int
) -> Repeated:
    """Put together what the repeats of each way tell; ``evidences``: of each way, repeat by repeat.

    Raises
    ------
    RequestError
        Two ways divide the patients differently.
    """
    folds: dict[str, list[Ints]] = {}
    for name, own in evidences.items():
        where = [{row["patient_id"]: int(row["fold"]) for row in evidence.patients} for evidence in own]
        folds[name] = [np.array([of[patient] for patient in ids], np.int64) for of in where]
    first, *others = folds
    for other in others:
        for number, (own_P, their_P) in enumerate(zip(folds[first], folds[other], strict=True)):
            if not np.array_equal(own_P, their_P):
                raise RequestError(
                    f"repeat {number} of {other} divides the patients otherwise than that of {first}: expected repeats "
                    "of the same cohort with the same --seed, --folds and --split"
                )
    return Repeated(tables, folds[first], n_folds)


def folds_of(run: Path) -> int:
    """Return the number of folds of a run."""
    return int(RunFolder(run).recipe["folds"])

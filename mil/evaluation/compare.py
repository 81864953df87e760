"""Several runs on the patients that they share: metrics with intervals, paired differences, and ensembles of the runs.

What is compared is what each run said of patients that its models had not seen. Beside the runs stand ensembles of
them: the mean of what they tell, of classes of the calibrated log probabilities, and of classes a stack, a logistic
regression on those, fitted on the other patients only (five parts of the patients, by the patient).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mil.evaluation.bootstrap import draw_patients, estimates
from mil.evaluation.delong import DeLong, delong
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.targets import Target
from mil.targets.base import Measure
from mil.targets.metrics import finite, ones, percentile_interval
from mil.targets.stacking import stacked
from wsi.arrays import Floats, Ints
from wsi.errors import RequestError
from wsi.recipe import Json

MEAN, STACK = "mean of the runs", "stack of the runs"


@dataclass(frozen=True, slots=True)
class Shared:
    """The patients that all runs have scored."""

    ids: tuple[str, ...]
    truth: Target
    """What is true of them."""
    told: dict[str, Floats]
    """Run -> what it tells of them out of fold (P, C)."""
    notes: tuple[str, ...]


def read_shared(runs: Sequence[Path]) -> Shared:
    """Return what the runs say of the patients that they share, named as shortly as tells them apart.

    Raises
    ------
    RequestError
        A run is not finished, targets or truths differ, or no patient is in all of them.
    """
    folders = [RunFolder(run) for run in runs]
    for run in folders:
        if run.recipe.get("unit") == "slide":
            raise RequestError(
                f"{run.path}: its slides are judged by themselves (--unit slide): expected a run by patient"
            )
    first = folders[0]
    names = first.classes
    for run in folders:
        if run.predicts is not first.predicts:
            raise RequestError(f"{run.path}: expected --target {first.predicts.kind}, found {run.predicts.kind}")
        if run.classes != names:
            raise RequestError(
                f"{run.path}: expected the {first.predicts.kind} {', '.join(names)}, found {', '.join(run.classes)}"
            )
    tables = [{row["patient_id"]: row for row in read_evidence(run).patients} for run in folders]
    ids = tuple(sorted(set.intersection(*(set(own) for own in tables))))
    if not ids:
        raise RequestError("expected runs on the same patients: no patient is in all of them")
    most = max(map(len, tables))
    notes = (f"compared on the {len(ids)} patients that all runs have, of up to {most}",) if len(ids) < most else ()
    columns = first.predicts.columns(names)
    for patient in ids:
        true = {" ".join(own[patient][column] for column in columns) for own in tables}
        if len(true) > 1:
            raise RequestError(f"patient {patient}: the runs have different labels of it: {', '.join(sorted(true))}")
    told = {
        name: np.array([[float(own[patient][f"p_{output}"]) for output in names] for patient in ids])
        for name, own in zip(_names(runs), tables, strict=True)
    }
    truth = first.predicts.of_cells([tables[0][patient] for patient in ids], names)
    if truth.groups and len(np.unique(truth.groups_N)) < len(truth.groups):
        raise RequestError("the patients that the runs share lack a class: expected patients of every class")
    return Shared(ids, truth, told, notes)


def _names(runs: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parents as make them different."""
    depth = 1
    while len({tuple(run.resolve().parts[-depth:]) for run in runs}) < len(runs):
        depth += 1
    return ["/".join(run.resolve().parts[-depth:]) for run in runs]


def ensembles(shared: Shared, seed: int) -> dict[str, Floats]:
    """Return what the ensembles of the runs tell (P, C), by name."""
    tables, truth = list(shared.told.values()), shared.truth
    found = {MEAN: truth.mean(tables)}
    return found | ({STACK: stacked(tables, truth.groups_N, seed)} if truth.groups else {})


def compared(shared: Shared, seed: int, tell: Callable[[], None] = lambda: None) -> dict[str, Json]:
    """Return for each run and ensemble its metrics with intervals, and what sets it apart from the first run."""
    draws_BP = draw_patients(len(shared.ids), seed)
    tables = {**shared.told, **ensembles(shared, seed)}
    first_PC = next(iter(tables.values()))
    first = shared.truth.measures(first_PC)
    base = {name: measure(draws_BP) for name, measure in first.items()}
    rows: dict[str, Json] = {}
    for position, (name, told_PC) in enumerate(tables.items()):
        measures = shared.truth.measures(told_PC)
        rows[name] = {"metrics": estimates(measures, draws_BP)}
        if position:
            rows[name]["difference"] = {
                key: _difference(first[key], measures[key], draws_BP, base[key]) for key in measures
            }
        if position and shared.truth.groups:
            rows[name]["delong"] = finite(asdict(_tested(shared.truth.groups_N, first_PC, told_PC)))
        tell()
    return rows


def _difference(first: Measure, second: Measure, draws_BP: Floats, base_B: Floats) -> Json:
    """Return the metric's difference with the paired bootstrap's interval: the same draws for both."""
    weights = ones(draws_BP.shape[1])
    low, high = percentile_interval(second(draws_BP) - base_B)
    return finite({"value": float(second(weights)[0] - first(weights)[0]), "low": low, "high": high})


def _tested(labels_P: Ints, first: Floats, second: Floats) -> DeLong:
    """Return DeLong's test; with more than two classes of the class with the smallest p, times the classes."""
    n_classes = first.shape[1]
    if n_classes == 2:
        return delong(labels_P == 1, first[:, 1], second[:, 1])
    tests = [delong(labels_P == c, first[:, c], second[:, c]) for c in range(n_classes)]
    least = min(tests, key=lambda test: test.p if test.p == test.p else -1.0)  # one that cannot be told comes first
    return DeLong(least.difference, least.deviation, min(1.0, least.p * n_classes))

"""Several runs on the patients that they share: metrics with intervals, paired differences, and ensembles of the runs.

What is compared is what each run said of patients that its models had not seen. Beside the runs stand ensembles of
them: the mean of what they tell, of classes of the calibrated log probabilities, and of classes a stack, a logistic
regression on those, fitted on the other patients only (five parts of the patients, by the patient).

Folders of repeats are compared, too: each metric is the mean over the repeats, and the difference to the first is
tested by the corrected resampled t over their folds; ensembles are then left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from mil.evaluation.bootstrap import draw_patients, estimates, left_out, standard_error
from mil.evaluation.delong import DeLong, delong
from mil.evaluation.spread.multiplicity import holm
from mil.evaluation.spread.repeats import Repeated, check_alike, folds_of, members, repeated
from mil.evaluation.spread.verdicts import TESTS
from mil.run.beside import runs_beside
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.targets import Target
from mil.targets.base import Measure
from mil.targets.metrics import finite, ones
from mil.targets.stacking import stacked
from wsi.arrays import Floats, Ints
from wsi.errors import RequestError
from wsi.pages import plural
from wsi.recipe import Json

MEAN, STACK = "mean of the runs", "stack of the runs"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shared:
    """The patients that all runs have scored."""

    ids: tuple[str, ...]
    truth: Target
    """What is true of them."""
    told: dict[str, Floats]
    """Run -> what it tells of them out of fold (P, C)."""
    notes: tuple[str, ...]
    repeats: Repeated | None = None
    """Where each is not one run but the repeats of one; `told` is then their mean."""
    looks: int = 0
    """How often the first run's cohort was looked at beside it, as far as its folder tells."""


def read_shared(runs: Sequence[Path]) -> Shared:
    """Return what the runs say of the patients that they share, named as shortly as tells them apart.

    Raises
    ------
    RequestError
        A run is not finished, targets or truths differ, or no patient is in all of them.
    """
    parts = {run: members(run) for run in runs}
    n_repeats = check_alike(parts)
    folders = [RunFolder(part) for own in parts.values() for part in own]
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
    evidences = [read_evidence(run) for run in folders]
    tables = [{row["patient_id"]: row for row in evidence.patients} for evidence in evidences]
    ids = tuple(sorted(set.intersection(*(set(own) for own in tables))))
    if not ids:
        raise RequestError("expected runs on the same patients: no patient is in all of them")
    most = max(map(len, tables))
    notes = (
        (f"compared on the {plural(len(ids), 'patient')} that all runs have, of up to {most}",)
        if len(ids) < most
        else ()
    )
    columns = first.predicts.columns(names)
    for patient in ids:
        true = {" ".join(own[patient][column] for column in columns) for own in tables}
        if len(true) > 1:
            raise RequestError(f"patient {patient}: the runs have different labels of it: {', '.join(sorted(true))}")
    scores = [np.array([[float(own[i][f"p_{output}"]) for output in names] for i in ids]) for own in tables]
    each, of = _by_name(_names(runs), scores, n_repeats), _by_name(_names(runs), evidences, n_repeats)
    truth = first.predicts.of_cells([tables[0][patient] for patient in ids], names)
    if truth.groups and len(np.unique(truth.groups_N)) < len(truth.groups):
        raise RequestError("the patients that the runs share lack a class: expected patients of every class")
    looks = runs_beside(first).looks - 1
    if n_repeats == 1:
        return Shared(ids, truth, {name: own[0] for name, own in each.items()}, notes, looks=looks)
    both = repeated(ids, of, each, folds_of(first.path))
    return Shared(ids, truth, {name: truth.mean(own) for name, own in each.items()}, notes, both, looks)


def _by_name(names: Sequence[str], values: Sequence[T], size: int) -> dict[str, list[T]]:
    """Return the values of each name, so many one after the other."""
    return {name: list(values[number * size : (number + 1) * size]) for number, name in enumerate(names)}


def _names(runs: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parents as make them different."""
    depth = 1
    while len({tuple(run.resolve().parts[-depth:]) for run in runs}) < len(runs):
        depth += 1
    return ["/".join(run.resolve().parts[-depth:]) for run in runs]


def ensembles(shared: Shared, seed: int) -> dict[str, Floats]:
    """Return what the ensembles of the runs tell (P, C), by name."""
    if shared.repeats is not None:
        return {}
    tables, truth = list(shared.told.values()), shared.truth
    found = {MEAN: truth.mean(tables)}
    return found | ({STACK: stacked(tables, truth.groups_N, seed)} if truth.groups else {})


def compared(shared: Shared, seed: int, tell: Callable[[], None] = lambda: None) -> dict[str, Json]:
    """Return for each run and ensemble its metrics with intervals, and what sets it apart from the first run."""
    draws_BP = draw_patients(len(shared.ids), seed)
    tables = {**shared.told, **ensembles(shared, seed)}
    first_name, first_PC = next(iter(tables.items()))
    first = _measured(shared, first_name, first_PC)
    tests = shared.repeats.tested(shared.truth) if shared.repeats is not None else {}
    weights_BP = np.concatenate([ones(len(shared.ids)), draws_BP, left_out(draws_BP)])
    base = {name: measure(weights_BP) for name, measure in first.items()}
    rows: dict[str, Json] = {}
    for position, (name, told_PC) in enumerate(tables.items()):
        measures = _measured(shared, name, told_PC)
        rows[name] = {"metrics": estimates(measures, draws_BP)}
        if position:
            apart = {key: _apart(measure(weights_BP) - base[key], len(draws_BP)) for key, measure in measures.items()}
            rows[name]["difference"] = {
                key: {end: own[end] for end in ("value", "low", "high")} for key, own in apart.items()
            }
        if position and shared.repeats is not None:
            own = tests[name]
            rows[name]["resampled"] = {"p": None} if own is None else _within(own.told(), shared.truth.chance)
        elif position and shared.truth.groups:
            rows[name]["delong"] = finite(asdict(_tested(shared.truth.groups_N, first_PC, told_PC)))
        elif position:
            rows[name]["t"] = {"p": apart[shared.truth.shown[0]]["p"]}
        tell()
    _correct(rows, shared.looks)
    return rows


def _within(told: Json, chance: float) -> Json:
    """Return a difference whose interval stays within what two metrics can differ by: from 0 or, of ranks, -1 to 1."""
    most = 2 * (1 - chance)
    return told | {end: min(most, max(-most, told[end])) for end in ("low", "high") if told[end] is not None}


def _correct(rows: dict[str, Json], looks: int) -> None:
    """Add to each test its p corrected for all that are told, and for the runs of the cohort that are not (Holm)."""
    tests = [row[kind] for row in rows.values() for kind in TESTS if kind in row]
    known = [float("nan") if test["p"] is None else test["p"] for test in tests]
    for test, corrected in zip(tests, holm(known, looks), strict=True):
        test["corrected_p"] = corrected if corrected == corrected else None


def _measured(shared: Shared, name: str, told_PC: Floats) -> dict[str, Measure]:
    """Return the metrics of what is told; of repeats the mean of each repeat's."""
    if shared.repeats is None:
        return shared.truth.measures(told_PC)
    each = [shared.truth.measures(own_PC) for own_PC in shared.repeats.tables[name]]
    return {key: partial(_mean, [own[key] for own in each]) for key in each[0]}


def _mean(measures: Sequence[Measure], weights_BP: Floats) -> Floats:
    return np.asarray(np.mean([measure(weights_BP) for measure in measures], axis=0))


def _apart(differences_W: Floats, draws: int) -> Json:
    """Return a difference with interval and p, both by Student's t; NaN where nothing varies. The first is the value.

    So many draws of patients stand behind it, then the differences without one patient after the other. A difference
    of two metrics on the same patients is as likely to err to either side, so that no draw's percentile is needed, and
    with the t distribution the interval holds as much of few patients (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, section 12.4).
    """
    from scipy.special import stdtr, stdtrit

    value, drawn_B, left_K = float(differences_W[0]), differences_W[1 : 1 + draws], differences_W[1 + draws :]
    error, freedom = standard_error(drawn_B, left_K), len(left_K) - 1
    if not error > 0:
        return finite({"value": value, "low": value, "high": value, "p": 1.0 if value == 0 else float("nan")})
    reach = float(stdtrit(freedom, 0.975)) * error
    p = float(2 * stdtr(freedom, -abs(value) / error))
    return finite({"value": value, "low": value - reach, "high": value + reach, "p": p})


def _tested(labels_P: Ints, first: Floats, second: Floats) -> DeLong:
    """Return DeLong's test; with more than two classes of the class with the smallest p, times the classes."""
    n_classes = first.shape[1]
    if n_classes == 2:
        return delong(labels_P == 1, first[:, 1], second[:, 1])
    tests = [delong(labels_P == c, first[:, c], second[:, c]) for c in range(n_classes)]
    least = min(tests, key=lambda test: test.p if test.p == test.p else -1.0)  # one that cannot be told comes first
    return DeLong(least.difference, least.deviation, min(1.0, least.p * n_classes))

"""What a run is asked for, read from the manifest: one class of several, several labels, a value, or a survival time.

``classes``   column label
``labels``    column label, ``a;b`` for several, ``none`` for none of them, ``?c`` for one that is not known
``value``     column value: a number
``survival``  columns time (above 0) and event (1 it happened, 0 not seen until then)

A slide whose cells are empty is not trained on. The truth is the patient's: all slides of a patient have the same,
unless slides are judged by themselves (``--unit slide``).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mil.data.cohort import choose_classes
from mil.targets.metrics import Floats
from mil.targets.targets import (
    NOT_KNOWN,
    LabelsTarget,
    SurvivalTarget,
    Target,
    ValueTarget,
    labels_of,
    parse_labels,
    parse_survival,
    parse_values,
)
from wsi.cohort.manifest import ManifestRow
from wsi.errors import ManifestError, RequestError

CLASSES = "classes"
KINDS = (CLASSES, "labels", "value", "survival")
BINS = 4
"""Of values, and of times, for folds that resemble each other."""


@dataclass(frozen=True, slots=True)
class Task:
    """The task, with the truth about rows of the manifest."""

    kind: str
    outputs: tuple[str, ...]
    """Names of a model's outputs: the classes or labels, ``value``, ``risk``."""
    strata: tuple[str, ...]
    """Of each row: folds hold alike shares of each."""
    target: Target | None
    """None for classes, whose truth the cohort has."""


def is_known(kind: str, row: ManifestRow) -> bool:
    """Tell whether the manifest says what is true of the slide."""
    cell = {"value": row.value, "survival": row.time}.get(kind, row.label)
    return cell is not None


def read_task(
    kind: str, rows: Sequence[ManifestRow], classes: Sequence[str], n_folds: int, unit: str = "patient"
) -> Task:
    """Read the truth about the rows; with the ``unit`` slide, slides of a patient may differ.

    Raises
    ------
    ManifestError
        A cell cannot be read, a patient has two truths, or there is but one class, label or value.
    RequestError
        Fewer patients than folds.
    """
    if kind == CLASSES:
        return Task(kind, choose_classes(rows, classes), tuple(row.label or "" for row in rows), None)
    patients = [row.patient_id for row in rows]
    if len(set(patients)) < 2 * n_folds:
        raise RequestError(f"expected {2 * n_folds} or more patients for {n_folds} folds, found {len(set(patients))}")
    outputs, target, strata = _READ[kind](rows, classes)
    cells = [(labels_of(row.label or ""), row.value, row.time, row.event) for row in rows]
    first: dict[str, tuple[object, ...]] = {}
    for patient, cell in zip(patients, cells, strict=True):
        if first.setdefault(patient, cell) != cell and unit == "patient":
            raise ManifestError(f"patient {patient}: expected one {kind} for all slides, found two")
    return Task(kind, outputs, _merged(strata, patients, n_folds), target)


def _labels(rows: Sequence[ManifestRow], classes: Sequence[str]) -> tuple[tuple[str, ...], Target, list[str]]:
    cells = [row.label for row in rows]
    parts = {part.removeprefix(NOT_KNOWN).strip() for cell in cells for part in labels_of(cell or "")}
    names = tuple(classes) or tuple(sorted(parts))
    if not names:
        raise ManifestError("--target labels: expected labels in the manifest, found none")
    present_NC = parse_labels(cells, names)
    rare = np.argsort(np.nansum(present_NC, axis=0), kind="stable")
    strata = [next((names[c] for c in rare if row[c] == 1), "none") for row in present_NC]
    return names, LabelsTarget(present_NC), strata


def _value(rows: Sequence[ManifestRow], classes: Sequence[str]) -> tuple[tuple[str, ...], Target, list[str]]:
    values_N = parse_values([row.value for row in rows], "value")
    if np.ptp(values_N) == 0:
        raise ManifestError(f"--target value: expected different values in the manifest, found {values_N[0]:g} only")
    return ("value",), ValueTarget(values_N, float(values_N.mean()), float(values_N.std())), _binned(values_N)


def _survival(rows: Sequence[ManifestRow], classes: Sequence[str]) -> tuple[tuple[str, ...], Target, list[str]]:
    times_N, events_N = parse_survival([row.time for row in rows], [row.event for row in rows])
    if not events_N.any():
        raise ManifestError("--target survival: expected events in the manifest (event 1), found none")
    strata = [f"{event:d}/{part}" for event, part in zip(events_N, _binned(times_N), strict=True)]
    return ("risk",), SurvivalTarget(times_N, events_N), strata


_READ: dict[str, Callable[[Sequence[ManifestRow], Sequence[str]], tuple[tuple[str, ...], Target, list[str]]]] = {
    "labels": _labels,
    "value": _value,
    "survival": _survival,
}


def _binned(values_N: Floats) -> list[str]:
    edges = np.quantile(values_N, np.arange(1, BINS) / BINS)
    return [str(part) for part in np.searchsorted(edges, values_N, side="right").tolist()]


def _merged(strata: Sequence[str], patients: Sequence[str], n_folds: int) -> tuple[str, ...]:
    """Return the strata, those with fewer patients than folds put together."""
    count = Counter(dict(zip(patients, strata, strict=True)).values())
    return tuple(own if count[own] >= n_folds else "rare" for own in strata)

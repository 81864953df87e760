"""Whether a run is as good for everybody: further columns of the manifest, group by group.

Groups of few are not judged: a number of nine patients says more about chance than about them, and may point at one.
The test asks whether the first metric differs among the groups by more than chance: groups are dealt anew among
patients of the same class, so that it is not the classes' shares that differ (a permutation test of the interaction of
group and performance; Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from mil.evaluation.bootstrap import draw_groups, estimate, of_pairs
from mil.evaluation.decisions.called import told_of_calls
from mil.evaluation.decisions.decide import Answered
from mil.targets.base import Measure
from mil.targets.questions import Question
from wsi.arrays import Bools, Floats, Ints
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError
from wsi.pages import natural
from wsi.recipe import Json

LEAST = 10
"""Patients of a group, and where a question is answered at least `LEAST_OF_EACH` with and without it."""
LEAST_OF_EACH = 3
PERMUTATIONS = 1999
MOST_GROUPS = 8
"""Values of a column that is taken when none is asked for by name: ids are no groups."""
BANDS = 3
NOT_KNOWN, SEVERAL = "not known", "several"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the manifest, patient by patient."""

    name: str
    values_P: tuple[str, ...]


def columns_of(
    rows: Sequence[ManifestRow], ids: Sequence[str], wanted: Sequence[str], *, by_slide: bool, source: str
) -> list[Column]:
    """Return further columns for these patients (or slides): those wanted, else all that make groups.

    A number of many values is cut into thirds of the patients. Slides of one patient that differ are ``several``.

    Raises
    ------
    RequestError
        A column that is wanted is not there.
    """
    there = list(dict.fromkeys(name for row in rows for name in row.facts))
    unknown = [name for name in wanted if name not in there]
    if unknown:
        listed = ", ".join(there) or "none"
        raise RequestError(f"--subgroups {unknown[0]}: expected further columns of {source}, which are {listed}")
    found = []
    for name in wanted or there:
        cells: dict[str, set[str]] = {}
        for row in rows:
            cells.setdefault(row.image_id if by_slide else row.patient_id, set()).add(row.facts.get(name, NOT_KNOWN))
        own = [cells.get(patient, {NOT_KNOWN}) for patient in ids]
        values = banded([next(iter(cell)) if len(cell) == 1 else SEVERAL for cell in own])
        groups = len(set(values) - {NOT_KNOWN, SEVERAL})
        if groups > 1 and (wanted or groups <= MOST_GROUPS):
            found.append(Column(name, tuple(values)))
    return found


def banded(cells: Sequence[str]) -> list[str]:
    """Return cells as they are, or numbers of more than `MOST_GROUPS` values as the third that they stand in."""
    numbers = [_number(cell) for cell in cells]
    known = np.array([own for own in numbers if own is not None])
    if len(set(known.tolist())) <= MOST_GROUPS or len(known) < sum(c not in (NOT_KNOWN, SEVERAL) for c in cells):
        return list(cells)
    edges = np.quantile(known, np.arange(1, BANDS) / BANDS)
    band_of = {value: int(np.searchsorted(edges, value, side="right")) for value in set(known.tolist())}
    spans = {}
    for band in set(band_of.values()):
        own = [value for value, other in band_of.items() if other == band]
        spans[band] = f"{min(own):g} to {max(own):g}"
    return [cell if own is None else spans[band_of[own]] for cell, own in zip(cells, numbers, strict=True)]


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if isfinite(value) else None


def subgroups(answered: Answered, blind_PC: Floats, called_P: Bools | None, columns: Sequence[Column]) -> list[Json]:
    """Return each column's groups with their metrics, the test, and the gaps between the best and the worst.

    ``called_P``: who counts as positive by the first cut, where the first question has one.
    """
    truth, shown = answered.truth, answered.truth.shown[0]
    measure = truth.measures(answered.told_PC, answered.folds_P, blind_PC)[shown]
    questions = answered.questions
    asked = questions[0] if len(questions) == 1 else None
    draws_BP = draw_groups(answered.groups, answered.seed)
    return [_column(own, answered, measure, asked, called_P, draws_BP) for own in columns]


def _column(
    column: Column,
    answered: Answered,
    measure: Measure,
    asked: Question | None,
    called_P: Bools | None,
    draws_BP: Floats,
) -> Json:
    values = np.array(column.values_P, dtype=object)
    rows, judged = [], []
    for value in sorted(set(column.values_P), key=natural):
        own_P: Bools = np.asarray(values == value, bool)
        positive_P = own_P & (asked.positive_P if asked is not None else own_P)
        few = int(own_P.sum()) < LEAST
        if asked is not None:
            few = few or min(int(positive_P.sum()), int((own_P & ~asked.positive_P).sum())) < LEAST_OF_EACH
        row: Json = {"value": value, "few": few, "patients": int(own_P.sum())}
        if not few:
            row["metric"] = _estimate(measure, own_P, draws_BP, pairs=of_pairs(answered.truth.shown[0]))
            if asked is not None:
                row |= _answers(asked, own_P, called_P, draws_BP, answered.groups)
            if value not in (NOT_KNOWN, SEVERAL):
                judged.append(own_P)
        rows.append(row)
    return {
        "column": column.name,
        "groups": rows,
        "p": interaction(measure, judged, answered.truth.groups_N, answered.seed, answered.groups)
        if len(judged) > 1
        else None,
        "gaps": _gaps(rows),
    }


def _estimate(measure: Measure, own_P: Bools, draws_BP: Floats, *, pairs: bool) -> Json:
    """Return a metric of some patients, with its interval over draws of them."""

    def of_own(weights_BP: Floats) -> Floats:
        return measure(weights_BP * own_P)

    return estimate(of_own, draws_BP, pairs=pairs)


def _answers(asked: Question, own_P: Bools, called_P: Bools | None, draws_BP: Floats, groups: Sequence[str]) -> Json:
    """Return how many have it, who of them are called, and by how much more is told than there is."""
    positive_P = asked.positive_P[own_P]
    found: Json = {"positive": int(positive_P.sum())}
    if called_P is not None:
        fewer = len({groups[i] for i in np.flatnonzero(own_P).tolist()})
        alone = fewer == int(own_P.sum())
        calls = told_of_calls(positive_P, called_P[own_P], draws_BP[:, own_P], None if alone else fewer)
        found |= {name: calls[name] for name in ("sensitivity", "specificity")}
    found["excess"] = float(asked.real_P[own_P].mean() - positive_P.mean())
    return found


def _gaps(rows: Sequence[Json]) -> Json:
    """Return the distance of the highest from the lowest group: of sensitivities (equal opportunity), of the excess."""
    judged = [row for row in rows if not row["few"] and row["value"] not in (NOT_KNOWN, SEVERAL)]
    found: Json = {}
    for name, of in (("equal_opportunity", "sensitivity"), ("calibration", "excess")):
        values = [row[of]["value"] if isinstance(row[of], Mapping) else row[of] for row in judged if of in row]
        known = [value for value in values if value is not None]
        found[name] = max(known) - min(known) if len(known) > 1 else None
    return found


def interaction(
    measure: Measure, groups: Sequence[Bools], classes_P: Ints, seed: int, people: Sequence[str] = ()
) -> float | None:
    """Return the p of a metric that differs among the groups by more than chance; None where it is not defined.

    What differs is the sum over the groups of their size times the square of their distance from the mean. ``people``:
    whose the rows are, where several are one patient's: patients whose rows all stand in one group are dealt whole.
    """
    chosen = np.flatnonzero(np.any(groups, axis=0))
    number_P = np.full(len(classes_P), -1, np.int64)
    for number, own_P in enumerate(groups):
        number_P[own_P] = number
    rng = np.random.default_rng(seed)
    dealt = np.tile(number_P, (PERMUTATIONS + 1, 1))
    whole = _of_people(number_P[chosen], [people[i] for i in chosen.tolist()] if people else [])
    if whole is not None:
        of_people, person_K = whole
        dealt[1:, chosen] = rng.permuted(np.tile(of_people, (PERMUTATIONS, 1)), axis=1)[:, person_K]
    for cls in np.unique(classes_P[chosen]) if whole is None else ():
        places = chosen[classes_P[chosen] == cls]
        dealt[1:, places] = rng.permuted(dealt[1:, places], axis=1)
    values = np.stack([measure((dealt == number).astype(np.float64)) for number in range(len(groups))])
    sizes = np.array([own_P.sum() for own_P in groups])[:, None]
    there = np.isfinite(values)
    weights = np.where(there, sizes, 0)
    mean = (weights * np.where(there, values, 0)).sum(axis=0) / np.maximum(weights.sum(axis=0), 1)
    apart = (weights * np.square(np.where(there, values - mean, 0))).sum(axis=0)
    if not there[:, 0].all():
        return None
    return float((apart >= apart[0] - 1e-12).mean())


def _of_people(number_K: Ints, people: Sequence[str]) -> tuple[Ints, Ints] | None:
    """Return each person's group and each row's person; None where rows are one person's each, or of several groups."""
    names, first_H, person_K = np.unique(
        np.array(people, dtype=object).astype(str), return_index=True, return_inverse=True
    )
    if len(names) == len(number_K) or not len(names) or (number_K[first_H][person_K] != number_K).any():
        return None
    return number_K[first_H], person_K

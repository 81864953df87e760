"""Folds of patients: made, and read from the splits.csv of a training or a fine-tuning."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wsi.arrays import Ints
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError, one_line
from wsi.files.csv_table import csv_text, read_records
from wsi.pages import plural

_FOLD = re.compile(r"(-?\d{1,9})(\.0)?")
FIELDS = ("image_id", "patient_id", "label", "center_id", "fold")


def make_folds(rows: Sequence[ManifestRow], n_folds: int, seed: int) -> dict[str, int]:
    """Return a fold for each patient, as `outer_folds`: of the same rows that of `gigamil train`."""
    labels, patients = [row.label or "" for row in rows], [row.patient_id for row in rows]
    folds = outer_folds(labels, [row.center_id for row in rows], patients, n_folds, seed)
    return dict(zip(patients, folds.tolist(), strict=True))


def check_patients_per_class(labels: Sequence[str], patients: Sequence[str], n_folds: int) -> None:
    """Raise `RequestError` where a class has fewer patients than there are folds, or there is one class only."""
    per_class = Counter(label for _, label in set(zip(patients, labels, strict=True)))
    if len(per_class) < 2 or min(per_class.values()) < n_folds:
        found = ", ".join(f"{label}: {count}" for label, count in sorted(per_class.items()))
        raise RequestError(
            f"expected two or more classes with {n_folds} or more patients each (one per fold), found "
            f"{found or 'none'}; give fewer --folds or more patients"
        )


def strata(labels: Sequence[str], centers: Sequence[str | None], patients: Sequence[str], n_folds: int) -> list[str]:
    """Return each slide's stratum: label x center, or label alone where fewer patients than folds share the pair."""
    center_of, label_of = dict(zip(patients, centers, strict=True)), rarest_labels(labels, patients)
    first = {patient: (label, center_of[patient]) for patient, label in label_of.items()}
    count = Counter(first.values())
    return [
        f"{first[patient][0]}|{first[patient][1]}" if count[first[patient]] >= n_folds else f"{first[patient][0]}|*"
        for patient in patients
    ]


def rarest_labels(labels: Sequence[str], patients: Sequence[str]) -> dict[str, str]:
    """Return a label for each patient: the one there is, or where slides differ the one of the fewest patients."""
    held = set(zip(patients, labels, strict=True))
    count = Counter(label for _, label in held)
    found: dict[str, str] = {}
    for patient, label in zip(patients, labels, strict=True):
        other = found.setdefault(patient, label)
        found[patient] = min(other, label, key=lambda own: (count[own], own))
    return found


def outer_folds(
    labels: Sequence[str], centers: Sequence[str | None], patients: Sequence[str], n_folds: int, seed: int
) -> Ints:
    """Return the test fold of each slide, (n,) int64; every fold tests and trains every class.

    Raises
    ------
    RequestError
        A class has fewer patients than folds.
    """
    check_patients_per_class(labels, patients, n_folds)
    folds = patient_folds(strata(labels, centers, patients, n_folds), patients, n_folds, seed)
    if not _every_class_everywhere(folds, labels, n_folds):
        folds = patient_folds(labels, patients, n_folds, seed)
    return folds


def _every_class_everywhere(folds: Ints, labels: Sequence[str], n_folds: int) -> bool:
    pairs = set(zip(folds.tolist(), labels, strict=True))
    return len(pairs) == n_folds * len(set(labels))


def patient_folds(stratum: Sequence[str], patients: Sequence[str], n_folds: int, seed: int) -> Ints:
    """Return the fold of each slide, (n,) int64, by scikit-learn's StratifiedGroupKFold with patients as groups.

    Asserted: no patient stands in two folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    folds = np.full(len(patients), -1, np.int64)
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for fold, (_, test) in enumerate(splitter.split(np.zeros(len(patients)), list(stratum), list(patients))):
            folds[test] = fold
    assert_patients_whole(folds, patients)
    return folds


def assert_patients_whole(folds: Ints, patients: Sequence[str]) -> None:
    """Raise `RequestError` naming a patient that stands in two folds, or a slide that stands in none."""
    seen: dict[str, int] = {}
    for fold, patient in zip(folds.tolist(), patients, strict=True):
        if fold < 0:
            raise RequestError(f"patient {one_line(patient, 60)} stands in fold {fold}: expected 0 or more")
        if seen.setdefault(patient, fold) != fold:
            told = f"patient {one_line(patient, 60)} stands in folds {seen[patient]} and {fold}"
            raise RequestError(f"{told}: expected one fold")


def read_folds(path: Path, rows: Sequence[ManifestRow]) -> dict[str, int]:
    """Return the fold of each patient of a splits.csv; raises as `folds_of` the slides of ``rows``."""
    folds_of(path, [row.image_id for row in rows], [row.patient_id for row in rows])
    return dict(fold_table(path).values())


def folds_of(path: Path, image_ids: Sequence[str], patients: Sequence[str]) -> Ints:
    """Return the test fold of each slide, (n,) int64, from a splits.csv, whose patients are those of the manifest.

    Raises
    ------
    RequestError
        As `fold_table`; or a slide is not in the table, or is another patient's there: folds of other patients would
        train on the slides of somebody whom they test.
    """
    given = fold_table(path)
    missing = [image_id for image_id in image_ids if image_id not in given]
    if missing:
        told = one_line(", ".join(missing[:5]), 200)
        raise RequestError(f"{path}: no fold for {told}; expected every labelled slide")
    other = [(i, given[i][0], p) for i, p in zip(image_ids, patients, strict=True) if given[i][0] != p]
    if other:
        image_id, found, wanted = (one_line(own, 60) for own in other[0])
        raise RequestError(
            f"{path}: {plural(len(other), 'slide', verb='are')} of another patient than in the manifest "
            f"({image_id}: expected patient {wanted}, found {found}): make the splits from this manifest, "
            "or correct one of the two"
        )
    return np.array([given[image_id][1] for image_id in image_ids], np.int64)


def fold_table(path: Path) -> dict[str, tuple[str, int]]:
    """Return image id -> patient id and fold of a splits.csv.

    Raises
    ------
    RequestError
        Unreadable, without the columns image_id, patient_id, fold, with a slide twice or a patient in two folds.
    """
    records = splits_records(path, "image_id", "patient_id", "fold")
    try:
        found = {record["image_id"]: (record["patient_id"], _fold(record["fold"])) for record in records}
    except ValueError as error:
        raise _no_splits(path, str(error)) from None
    twice = [image_id for image_id, count in Counter(record["image_id"] for record in records).items() if count > 1]
    if twice:
        told = one_line(twice[0], 60)
        raise RequestError(f"{path}: slide {told} stands there twice: expected one row for each slide")
    folds = np.array([fold for _, fold in found.values()], np.int64)
    try:
        assert_patients_whole(folds, [who for who, _ in found.values()])
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    return found


def _fold(text: str) -> int:
    found = _FOLD.fullmatch(text.strip())
    if not found:
        raise ValueError(f"fold {one_line(text, 40)!r}")
    return int(found[1])


def splits_records(path: Path, *wanted: str) -> list[dict[str, str]]:
    """Return the rows of a splits.csv by column; `RequestError` where one of the wanted ones is missing."""
    try:
        records = read_records(path)
        if absent := [name for name in wanted if records and name not in records[0]]:
            raise ValueError(f"no column {absent[0]}")
        return records
    except RequestError:
        raise
    except ValueError as error:
        raise _no_splits(path, str(error)) from None


def _no_splits(path: Path, found: str) -> RequestError:
    return RequestError(
        f"{path}: expected a table with image_id, patient_id and an integer fold in each row; found "
        f"{one_line(found, 200)}"
    )


def splits_table(rows: Sequence[ManifestRow], folds: Mapping[str, int]) -> str:
    """Return splits.csv: one row per slide with the fold that tests it; `gigamil train --splits` takes it."""
    table = [(r.image_id, r.patient_id, r.label, r.center_id or "", folds[r.patient_id]) for r in rows]
    return csv_text([FIELDS, *table])

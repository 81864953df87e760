"""Who is tested where: patients are split, never slides, balanced on label and center."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi.arrays import Bools, Ints
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError, one_line
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text, read_records

_FOLD = re.compile(r"-?\d{1,9}")
FIELDS = ("image_id", "patient_id", "label", "center_id", "fold", "overview_sha256")


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
        if fold < 0 or seen.setdefault(patient, fold) != fold:
            raise RequestError(f"patient {patient} stands in folds {seen.get(patient)} and {fold}: expected one fold")


def outer_folds(
    labels: Sequence[str], centers: Sequence[str | None], patients: Sequence[str], n_folds: int, seed: int
) -> Ints:
    """Return the test fold of each slide, (n,) int64; every fold tests and trains every class.

    Raises
    ------
    RequestError
        A class has fewer patients than folds.
    """
    per_class = Counter(label for _, label in set(zip(patients, labels, strict=True)))
    scarce = {label: count for label, count in per_class.items() if count < n_folds}
    if scarce or len(per_class) < 2:
        found = ", ".join(f"{label}: {count}" for label, count in sorted(per_class.items()))
        raise RequestError(
            f"expected two or more classes with {n_folds} or more patients each (one per fold), found "
            f"{found or 'none'}; give fewer --folds or more patients"
        )
    folds = patient_folds(strata(labels, centers, patients, n_folds), patients, n_folds, seed)
    if not _every_class_everywhere(folds, labels, n_folds):
        folds = patient_folds(labels, patients, n_folds, seed)
    return folds


def center_folds(centers: Sequence[str | None], patients: Sequence[str], n_folds: int) -> Ints:
    """Return the test fold of each slide, (n,) int64: whole centers, the largest first into the smallest fold.

    Raises
    ------
    RequestError
        A slide has no center, a patient has two, or there are fewer centers than folds.
    """
    where: dict[str, str] = {}
    for patient, center in zip(patients, centers, strict=True):
        if not center:
            raise RequestError(f"--split centers: patient {patient} has no center_id: expected one for every slide")
        if where.setdefault(patient, center) != center:
            raise RequestError(
                f"--split centers: patient {patient} stands in centers {where[patient]} and {center}: expected one"
            )
    sizes = Counter(where.values())
    if len(sizes) < n_folds:
        raise RequestError(f"--split centers: expected {n_folds} or more centers, found {len(sizes)}: lower --folds")
    filled = [0] * n_folds
    fold_of: dict[str, int] = {}
    for center, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold_of[center] = int(np.argmin(filled))
        filled[fold_of[center]] += size
    return np.array([fold_of[str(center)] for center in centers], np.int64)


def _every_class_everywhere(folds: Ints, labels: Sequence[str], n_folds: int) -> bool:
    pairs = set(zip(folds.tolist(), labels, strict=True))
    return len(pairs) == n_folds * len(set(labels))


def inner_split(labels: Sequence[str], patients: Sequence[str], share: float, seed: int) -> Bools:
    """Return which slides of a training fold validate: whole patients, stratified by label.

    At least one patient of every class stays on each side; where a class has one patient only, it trains, unless
    nobody would validate.
    """
    label_of = rarest_labels(labels, patients)
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for label in sorted(set(labels)):
        members = sorted(patient for patient, own in label_of.items() if own == label)
        n_val = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.update(members[i] for i in rng.permutation(len(members))[:n_val])
    everyone = sorted(label_of)
    if not chosen and len(everyone) > 1:  # every label is one patient's alone: somebody has to validate
        chosen.update(everyone[i] for i in rng.permutation(len(everyone))[: max(1, round(share * len(everyone)))])
    return np.array([patient in chosen for patient in patients])


def write_splits(
    path: Path, rows: Sequence[ManifestRow], folds: Ints, picture_of: Mapping[str, str] | None = None
) -> None:
    """Write splits.csv: one row per slide with the fold that tests it, and the hash of its overview where known."""
    known = picture_of or {}
    table = [
        [
            *(row.image_id, row.patient_id, row.label or row.value or row.time or "", row.center_id),
            *(fold, known.get(row.image_id, "")),
        ]
        for row, fold in zip(rows, folds.tolist(), strict=True)
    ]
    write_text(path, csv_text([FIELDS, *table]))


def read_splits(path: Path) -> dict[str, int]:
    """Return image id -> test fold from a splits.csv.

    Raises
    ------
    RequestError
        Unreadable, without the columns image_id, patient_id, fold, with a slide twice or a patient in two folds.
    """
    return {image_id: fold for image_id, (_, fold) in _rows_of(path).items()}


def folds_of(path: Path, image_ids: Sequence[str], patients: Sequence[str]) -> Ints:
    """Return the test fold of each slide, (n,) int64, from a splits.csv, whose patients are those of the manifest.

    Raises
    ------
    RequestError
        As `read_splits`; or a slide is not in the table, or is another patient's there: folds of other patients would
        train on the slides of somebody whom they test.
    """
    given = _rows_of(path)
    missing = [image_id for image_id in image_ids if image_id not in given]
    if missing:
        raise RequestError(f"{path}: no fold for {', '.join(missing[:5])}; expected every labelled slide")
    other = [(i, given[i][0], p) for i, p in zip(image_ids, patients, strict=True) if given[i][0] != p]
    if other:
        image_id, found, wanted = other[0]
        raise RequestError(
            f"{path}: {len(other)} slides are of another patient than in the manifest ({image_id}: expected patient "
            f"{wanted}, found {found}): make the splits from this manifest, or correct one of the two"
        )
    return np.array([given[image_id][1] for image_id in image_ids], np.int64)


def _rows_of(path: Path) -> dict[str, tuple[str, int]]:
    """Return image id -> patient id and fold of a splits.csv."""
    records = _records(path)
    try:
        found = {record["image_id"]: (record["patient_id"], _fold(record["fold"])) for record in records}
    except (KeyError, ValueError) as error:
        raise _no_splits(path, repr(error)) from None
    twice = [image_id for image_id, count in Counter(record["image_id"] for record in records).items() if count > 1]
    if twice:
        raise RequestError(f"{path}: slide {twice[0]} stands there twice: expected one row for each slide")
    assert_patients_whole(np.array([fold for _, fold in found.values()], np.int64), [who for who, _ in found.values()])
    return found


def _fold(text: str) -> int:
    if not _FOLD.fullmatch(text.strip()):
        raise ValueError(f"fold {one_line(text, 40)!r}")
    return int(text)


def _records(path: Path) -> list[dict[str, str]]:
    try:
        return read_records(path)
    except RequestError:
        raise
    except ValueError as error:
        raise _no_splits(path, str(error)) from None


def _no_splits(path: Path, found: str) -> RequestError:
    return RequestError(
        f"{path}: expected a table with image_id, patient_id and an integer fold in each row; found "
        f"{one_line(found, 200)}"
    )


def read_column(path: Path, name: str, default: str | None = None) -> dict[str, str]:
    """Return a column by image id from a splits.csv of ours; ``default`` where an earlier version wrote none.

    Raises as `read_splits`, but for folds, which are not looked at.
    """
    records = _records(path)
    wanted = ["image_id"] if default is not None else ["image_id", name]
    absent = [own for own in wanted if records and own not in records[0]]
    if absent:
        raise _no_splits(path, f"no column {absent[0]}")
    return {record["image_id"]: record.get(name) or default or "" for record in records}


@dataclass(frozen=True, slots=True)
class Known:
    """What a run's splits.csv says of the slides that it was trained and tested on, by image id."""

    folds: dict[str, int]
    labels: dict[str, str]
    patients: dict[str, str]


def known_slides(run: Path) -> Known:
    """Return what a run knows of its own slides; raises as `read_splits`."""
    table = run / "splits.csv"
    return Known(read_splits(table), read_column(table, "label"), read_column(table, "patient_id"))

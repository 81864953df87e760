"""Who is tested where: patients are split, never slides, balanced on label and center."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.folds import fold_table, rarest_labels, splits_records
from wsi.arrays import Bools, Ints
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text

FIELDS = ("image_id", "patient_id", "label", "center_id", "fold", "overview_sha256")


def centers_of(centers: Sequence[str | None], patients: Sequence[str], n_folds: int, option: str) -> dict[str, str]:
    """Return each patient's center.

    Raises
    ------
    RequestError
        A slide has no center, a patient has two, or there are fewer centers than folds.
    """
    where: dict[str, str] = {}
    for patient, center in zip(patients, centers, strict=True):
        if not center:
            raise RequestError(f"{option}: patient {patient} has no center_id: expected one for every slide")
        if where.setdefault(patient, center) != center:
            raise RequestError(
                f"{option}: patient {patient} stands in centers {where[patient]} and {center}: expected one"
            )
    found = len(set(where.values()))
    if found < n_folds:
        raise RequestError(f"{option}: expected {n_folds} or more centers, found {found}: lower --folds")
    return where


def center_folds(centers: Sequence[str | None], patients: Sequence[str], n_folds: int) -> Ints:
    """Return the test fold of each slide, (n,) int64: whole centers, the largest first into the smallest fold.

    Raises as `centers_of`.
    """
    sizes = Counter(centers_of(centers, patients, n_folds, "--split centers").values())
    filled = [0] * n_folds
    fold_of: dict[str, int] = {}
    for center, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        fold_of[center] = int(np.argmin(filled))
        filled[fold_of[center]] += size
    return np.array([fold_of[str(center)] for center in centers], np.int64)


def inner_split(labels: Sequence[str], patients: Sequence[str], share: float, seed: int) -> Bools:
    """Return which slides of a training fold validate: whole patients, stratified by label; of share 0 none.

    At least one patient of every class stays on each side; where a class has one patient only, it trains, unless
    nobody would validate.
    """
    if share == 0:
        return np.zeros(len(patients), bool)
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
    return {image_id: fold for image_id, (_, fold) in fold_table(path).items()}


def read_column(path: Path, name: str, default: str | None = None) -> dict[str, str]:
    """Return a column by image id from a splits.csv of ours; ``default`` where an earlier version wrote none.

    Raises as `read_splits`, but for folds, which are not looked at.
    """
    records = splits_records(path, "image_id", *((name,) if default is None else ()))
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

"""Folds of patients for fine-tuning: read from the splits.csv of a training run, or made in the same form."""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError, one_line
from wsi.files.csv_table import csv_text, read_records

_FOLD = re.compile(r"-?\d{1,9}")
FIELDS = ("image_id", "patient_id", "label", "center_id", "fold")


def read_folds(path: Path, rows: Sequence[ManifestRow]) -> dict[str, int]:
    """Return the fold of each patient of ``rows``, from a splits.csv.

    Raises
    ------
    RequestError
        Unreadable, a column is missing, a patient stands in two folds or is another one's slide, or a slide of
        ``rows`` has no fold.
    """
    try:
        found = {r["image_id"]: (r["patient_id"], _fold(r["fold"])) for r in read_records(path)}
    except RequestError:
        raise
    except (KeyError, ValueError) as error:
        raise RequestError(
            f"--splits {path}: expected a table with image_id, patient_id and an integer fold, found "
            f"{one_line(repr(error), 200)}"
        ) from None
    missing = [row.image_id for row in rows if row.image_id not in found]
    if missing:
        raise RequestError(f"--splits {path}: expected every labelled slide, found no fold for {_some(missing)}")
    other = [row.image_id for row in rows if found[row.image_id][0] != row.patient_id]
    if other:
        raise RequestError(f"--splits {path}: expected the manifest's patient for each slide, found others: {other[0]}")
    folds: dict[str, int] = {}
    for patient, fold in found.values():
        if fold < 0 or folds.setdefault(patient, fold) != fold:
            raise RequestError(f"--splits {path}: patient {patient} stands in folds {folds.get(patient)} and {fold}")
    return folds


def _fold(text: str) -> int:
    if not _FOLD.fullmatch(text.strip()):
        raise ValueError(f"fold {text[:40]!r}")
    return int(text)


def make_folds(rows: Sequence[ManifestRow], n_folds: int, seed: int) -> dict[str, int]:
    """Return a fold for each patient, stratified by label (scikit-learn's StratifiedGroupKFold).

    Raises
    ------
    RequestError
        A class has fewer patients than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    labels, patients = [row.label or "" for row in rows], [row.patient_id for row in rows]
    per_class = Counter(dict(zip(patients, labels, strict=True)).values())
    if len(per_class) < 2 or min(per_class.values()) < n_folds:
        told = ", ".join(f"{label}: {count}" for label, count in sorted(per_class.items())) or "none"
        raise RequestError(
            f"--folds {n_folds}: expected two or more classes with as many patients each, found {told}; "
            "give fewer folds or more patients"
        )
    splitter = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    folds: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for fold, (_, test) in enumerate(splitter.split(np.zeros(len(rows)), labels, patients)):
            folds.update((patients[i], fold) for i in test)
    return folds


def splits_table(rows: Sequence[ManifestRow], folds: Mapping[str, int]) -> str:
    """Return splits.csv: one row per slide with the fold that tests it; `gigamil train --splits` takes it."""
    table = [(r.image_id, r.patient_id, r.label, r.center_id or "", folds[r.patient_id]) for r in rows]
    return csv_text([FIELDS, *table])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")

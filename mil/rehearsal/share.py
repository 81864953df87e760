"""Which patients are rehearsed: the same ones every time, of every class."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from math import ceil
from pathlib import Path

from mil.rehearsal.options import Rehearsed
from wsi.cohort.manifest import COLUMNS, TARGET_COLUMNS, ManifestRow
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text

FOLDS = 2
_OF_A_CLASS = 2 * FOLDS
"""Patients of each class at least, where it has so many: each fold tests and trains two."""
COLUMNS_AS_OURS = "image_id=image_id"
"""The table of a share has our names, whatever the cohort's has."""


def chosen_rows(rows: Sequence[ManifestRow], asked: Rehearsed) -> list[ManifestRow]:
    """Return the rows of a share of the patients, by label and in the table's order.

    Who is chosen depends on the patients' ids alone, not on their order or number.
    """
    by_label: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        by_label[row.label or row.event or ""].add(row.patient_id)
    share = max(asked.share, asked.patients / len({row.patient_id for row in rows}))
    chosen: set[str] = set()
    for patients in by_label.values():
        count = max(_OF_A_CLASS, ceil(min(share, 1) * len(patients)))
        chosen |= set(sorted(patients, key=_drawn)[:count])
    return [row for row in rows if row.patient_id in chosen]


def write_share(path: Path, rows: Sequence[ManifestRow]) -> None:
    """Write a cohort table of these rows; slides by their absolute paths."""
    names = [name for name in (*COLUMNS, *TARGET_COLUMNS) if any(_cell(row, name) for row in rows)]
    write_text(path, csv_text([names, *([_cell(row, name) for name in names] for row in rows)]))


def _cell(row: ManifestRow, name: str) -> str:
    value = getattr(row, name, None) if name not in row.facts else row.facts[name]
    return "" if value is None else str(value)


def _drawn(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()

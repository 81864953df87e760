"""The tables of a bundle: new ids in place of the old, and only the columns that were asked for."""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError
from wsi.sharing.ids import NewIds

_NEVER = frozenset({"image_id", "slide_id", "patient_id", "case_id", "path"})
_DATE = re.compile(r"\b(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|(?:19|20)\d{2}[01]\d[0-3]\d)\b")
CENTER = "center_id"
Centers = Callable[[str], str]
"""Gives a center's name a number; nothing where centers do not go."""


def cohort_table(
    rows: Mapping[str, ManifestRow], ids: NewIds, keep: Sequence[str], shared: Iterable[str], center: Centers
) -> list[Any]:
    """Return the rows of cohort.csv, the header first, sorted by the new ids.

    Parameters
    ----------
    rows
        Of the cohort table, by image id; those of slides that are not in it are blank.
    ids
        Old to new.
    keep
        Further columns.
    shared
        Image ids of the slides in the bundle.
    center
        Gives a center its number.

    Raises
    ------
    RequestError
        A column is not there, is one that never goes, or holds a date or an id.
    """
    names = list(dict.fromkeys(keep))
    columns = {name: _column(name, rows) for name in names}
    if CENTER in columns:
        columns[CENTER] = {image_id: center(cell) for image_id, cell in columns[CENTER].items()}
    known = {old.casefold() for old in (*ids.slides, *ids.patients)}
    for name, cells in columns.items():
        bad = next((cell for cell in cells.values() if _DATE.search(cell) or cell.casefold() in known), None)
        if bad is not None and name != CENTER:
            raise RequestError(f"--keep {name}: the column holds a date or an id: it cannot go with a bundle")
    table = []
    for image_id in shared:
        new = ids.slides[image_id]
        patient = new.rpartition("_")[0]
        table.append([new, patient, *(columns[name].get(image_id, "") for name in names)])
    return [["image_id", "patient_id", *names], *sorted(table)]


def _column(name: str, rows: Mapping[str, ManifestRow]) -> dict[str, str]:
    if name.casefold() in _NEVER:
        raise RequestError(f"--keep {name}: ids and paths never go with a bundle")
    cells = {
        i: row.facts.get(name, getattr(row, name, None) if name in _fields(row) else None) for i, row in rows.items()
    }
    if not any(cell is not None for cell in cells.values()):
        raise RequestError(f"--keep {name}: expected a column of the cohort table, found none of that name")
    return {image_id: str(cell) for image_id, cell in cells.items() if cell is not None}


def _fields(row: ManifestRow) -> Sequence[str]:
    return ("label", "center_id", "mpp", "value", "time", "event")


def renumbered(names: Iterable[str]) -> Centers:
    """Return what gives each name a number of its own, in no order; nothing stays nothing."""
    found = sorted(set(filter(None, names)))
    secrets.SystemRandom().shuffle(found)
    number = {name: f"center{place}" for place, name in enumerate(found, start=1)}
    return lambda name: number.get(name, "")


def with_new_ids(records: Iterable[Mapping[str, str]], ids: NewIds, center: Centers) -> list[dict[str, str]]:
    """Return rows of a run's table with new ids and centers, sorted by them; rows of who has no new id are left out."""
    found = []
    for record in records:
        row = dict(record)
        for name in ("image_id", "patient_id"):
            if row.get(name):
                row[name] = ids.patients.get(row[name], "") if name == "patient_id" else ids.slides.get(row[name], "")
                # of a run that judges slides, a slide stands where a patient does
                row[name] = row[name] or ids.slides.get(record[name], "")
        if CENTER in row:
            row[CENTER] = center(row[CENTER])
        if "overview_sha256" in row:
            row["overview_sha256"] = ""
        if all(row[name] for name in ("image_id", "patient_id") if record.get(name)):
            found.append(row)
    return sorted(
        found, key=lambda row: (row.get("level") == "patient", row.get("patient_id", ""), row.get("image_id", ""))
    )

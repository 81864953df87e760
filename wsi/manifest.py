"""The cohort table: one row per slide, as STRIP AI names its columns. Ids are strings; ``049194`` keeps its zero.

Columns: ``image_id`` (required), ``patient_id`` (else the image id without its last ``_<n>``), ``label``,
``center_id``, ``image_num``, ``other_specified``, and ours: ``path`` (relative to the table's folder), ``mpp`` (um/px),
and for other targets than classes ``value``, or ``time`` and ``event``.
STRIP AI's train.csv, test.csv and other.csv work as they are.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi.errors import ManifestError

COLUMNS = ("image_id", "patient_id", "label", "center_id", "image_num", "other_specified", "path", "mpp")
TARGET_COLUMNS = ("value", "time", "event")
_SAFE_ID = re.compile(r"[^/\\\0]+")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One slide of the cohort."""

    image_id: str
    patient_id: str
    label: str | None = None
    center_id: str | None = None
    path: Path | None = None
    """Absolute path of the slide, where the table gives one."""
    mpp: float | None = None
    """um/px at level 0, where the table gives it."""
    value: str | None = None
    """What is to be predicted, where it is a number: the cell as it stands there."""
    time: str | None = None
    """Until the event, or until last seen without it."""
    event: str | None = None
    """1 where it happened."""


def check_id(item_id: str, source: str) -> str:
    """Return the id if it can safely name a file inside an output folder, else raise `ManifestError`."""
    if not _SAFE_ID.fullmatch(item_id) or item_id.startswith(".") or len(item_id.encode()) > 200:
        raise ManifestError(
            f"{source}: id {item_id!r} cannot name a file: expected 1 to 200 bytes without '/', '\\' or a leading dot"
        )
    return item_id


def load_manifest(path: Path) -> tuple[ManifestRow, ...]:
    """Read and check a cohort table.

    Raises
    ------
    ManifestError
        Unreadable file, unknown or missing columns, an empty or unsafe id, a duplicate image id, a patient with two
        labels, an mpp that is not a number above 0. The message names the row or the ids.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="(surplus)")
            header = reader.fieldnames or []
            records = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read as a UTF-8 CSV table: {error}") from None
    _check_header(path, header)
    rows = tuple(_row(path, number, record) for number, record in enumerate(records, start=2))
    if not rows:
        raise ManifestError(f"{path}: the table has no rows")
    _check_unique(path, rows)
    check_one_label_per_patient(rows, str(path))
    return rows


def check_one_label_per_patient(rows: Iterable[ManifestRow], source: str) -> None:
    """Raise `ManifestError` naming the patients that have two labels."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        if row.label is not None:
            labels.setdefault(row.patient_id, set()).add(row.label)
    torn = {patient: sorted(found) for patient, found in labels.items() if len(found) > 1}
    if torn:
        listed = ", ".join(f"{patient} ({' and '.join(found)})" for patient, found in list(torn.items())[:5])
        raise ManifestError(f"{source}: expected one label per patient, found two for {listed}")


def check_disjoint(train: Sequence[ManifestRow], test: Sequence[ManifestRow]) -> None:
    """Raise `ManifestError` naming images or patients that stand in both tables: a leak."""
    for field in ("image_id", "patient_id"):
        both = sorted({getattr(r, field) for r in train} & {getattr(r, field) for r in test})
        if both:
            raise ManifestError(
                f"{field} in both train and test: {', '.join(both[:5])}{' ...' if len(both) > 5 else ''}; "
                "remove them from one of the tables"
            )


def _check_header(path: Path, header: Sequence[str]) -> None:
    if "image_id" not in header:
        raise ManifestError(f"{path}: expected a column image_id, found {', '.join(header) or 'an empty file'}")
    unknown = [name for name in header if name not in (*COLUMNS, *TARGET_COLUMNS)]
    if unknown:
        raise ManifestError(f"{path}: unknown columns {', '.join(unknown)}; known are {', '.join(COLUMNS)}")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise ManifestError(f"{path}: column {twice[0]} stands twice in the header")


def _row(path: Path, number: int, record: dict[str, str]) -> ManifestRow:
    where = f"{path}, line {number}"
    if "(surplus)" in record or None in record.values():
        raise ManifestError(f"{where}: the number of fields differs from the header's")
    values = {key: value.strip() for key, value in record.items()}
    image_id = check_id(values["image_id"], where)
    given = values.get("path")
    return ManifestRow(
        image_id=image_id,
        patient_id=check_id(values.get("patient_id") or re.sub(r"_\d+$", "", image_id), where),
        label=values.get("label") or None,
        center_id=values.get("center_id") or None,
        path=(path.parent / given).resolve() if given else None,
        mpp=_mpp(where, values.get("mpp")),
        **{name: values.get(name) or None for name in TARGET_COLUMNS},
    )


def _mpp(where: str, text: str | None) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise ManifestError(f"{where}: mpp {text!r}: expected um/px as a number above 0")
    return value


def _check_unique(path: Path, rows: Sequence[ManifestRow]) -> None:
    twice = [image_id for image_id, count in Counter(row.image_id for row in rows).items() if count > 1]
    if twice:
        raise ManifestError(f"{path}: image_id more than once: {', '.join(twice[:5])}; each slide needs one row")

"""The cohort table: one row per slide, as STRIP AI names its columns. Ids are strings; ``049194`` keeps its zero.

Columns: ``image_id`` (required), ``patient_id`` (else the image id without its last ``_<n>``), ``label``,
``center_id``, ``image_num``, ``other_specified``, and ours: ``path`` (relative to the table's folder), ``mpp`` (um/px),
and for other targets than classes ``value``, or ``time`` and ``event``. Others are kept as facts of the row.
STRIP AI's train.csv, test.csv and other.csv work as they are, and so do CLAM's ``slide_id`` and ``case_id``.

Capitals and spaces in the names of columns do not matter. A slide's ending is no part of its id. ``nan``, ``NA`` and
an empty cell say that nothing is known.
"""

import difflib
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from wsi.errors import ManifestError, one_line
from wsi.files.csv_table import DELIMITERS, Table, read_table
from wsi.options import NAMES
from wsi.readers.resolution import POSSIBLE_MPP, is_possible_mpp
from wsi.urls import path_of, url_of

COLUMNS = ("image_id", "patient_id", "label", "center_id", "image_num", "other_specified", "path", "mpp")
TARGET_COLUMNS = ("value", "time", "event")
ALIASES = {"image_id": "slide_id", "patient_id": "case_id"}
"""What CLAM calls our columns; ours come first where both stand there."""
ENDINGS = frozenset(
    ".svs .tif .tiff .ndpi .mrxs .scn .vms .vmu .bif .dcm .dicom .svslide .czi .qptiff .vsi .isyntax".split()  # noqa: SIM905
) | {".zarr", ".h5", ".pt"}
"""What an image id may end in, and is not part of it."""
_MISSING = frozenset({"", "nan", "na", "n/a", "<na>", "#n/a", "null"})
_SAFE_ID = re.compile(r"[^/\\\0]+")
_AS_FLOAT = re.compile(r"\d+\.0")
_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
"""A number with a decimal comma."""
_ALIKE = 0.8
"""A column that resembles a known one so much that is not there is taken for misspelt."""


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
    facts: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Further columns, such as age or sex: name, as it stands there, and cell; what is not known is left out."""


def check_id(item_id: str, source: str) -> str:
    """Return the id if it can safely name a file inside an output folder, else raise `ManifestError`."""
    if not _SAFE_ID.fullmatch(item_id) or item_id.startswith(".") or len(item_id.encode()) > 200:
        named = repr(one_line(item_id, 100))
        raise ManifestError(
            f"{source}: id {named} cannot name a file: expected 1 to 200 bytes without '/', '\\' or a leading dot"
        )
    return item_id


def slide_name(name: str) -> str:
    """Return a slide's file name without the ending that tells its format."""
    for ending in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    stem, dot, ending = name.rpartition(".")
    return stem if stem and f"{dot}{ending}".lower() in ENDINGS else name


def load_manifest(path: Path, columns: Mapping[str, str] | None = None) -> tuple[ManifestRow, ...]:
    """Read and check a cohort table.

    Parameters
    ----------
    path
        A table with a header, parted by commas, semicolons, tabs or bars.
    columns
        The table's name for a column of ours; default: what the environment says (`NAMES`).

    Raises
    ------
    ManifestError
        Unreadable file, missing or misspelt columns, an empty or unsafe id, a duplicate image id, an mpp that is
        not a number above 0. The message names the row or the ids.
    """
    table = read_table(path)
    names = _names(path, table, parse_columns(os.environ.get(NAMES, "")) if columns is None else columns)
    whole = {theirs for theirs in table.header if _is_whole(table, theirs)}
    rows = tuple(_row(path, number, record, names, whole, table.delimiter) for number, record in table.rows)
    if not rows:
        raise ManifestError(f"{path}: the table has no rows")
    _check_unique(path, rows)
    return rows


def parse_columns(text: str) -> dict[str, str]:
    """Read ``image_id=slide_id,label=Diagnosis``: our name of a column, and the table's.

    Raises
    ------
    ManifestError
        Not of that form, or no column of ours.
    """
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        ours, sign, theirs = (part.strip() for part in pair.partition("="))
        if not sign or not theirs or ours not in (*COLUMNS, *TARGET_COLUMNS):
            known = ", ".join((*COLUMNS, *TARGET_COLUMNS))
            raise ManifestError(f"--columns {pair}: expected OURS=THEIRS such as image_id=slide_id; ours are {known}")
        found[ours] = theirs
    return found


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
    for name in ("image_id", "patient_id"):
        both = sorted({getattr(r, name) for r in train} & {getattr(r, name) for r in test})
        if both:
            raise ManifestError(
                f"{name} in both train and test: {', '.join(both[:5])}{' ...' if len(both) > 5 else ''}; "
                "remove them from one of the tables"
            )


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip()).casefold()


def _names(path: Path, table: Table, chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the table's name of each column of ours that it has."""
    theirs = {_plain(name): name for name in table.header}
    found = {ours: theirs[ours] for ours in (*COLUMNS, *TARGET_COLUMNS) if ours in theirs}
    for ours, alias in ALIASES.items():
        if ours not in found and alias in theirs:
            found[ours] = theirs[alias]
    for ours, name in chosen.items():
        if _plain(name) in theirs:
            found[ours] = theirs[_plain(name)]
        elif ours not in found:
            raise ManifestError(f"{path}: --columns {ours}={name}: found no such column, but {_listed(table)}")
    if "image_id" not in found:
        raise ManifestError(
            f"{path}: expected a column image_id, found {_listed(table)}: name it with --columns image_id=NAME"
        )
    for name in set(table.header) - set(found.values()):
        for ours in difflib.get_close_matches(_plain(name), (*COLUMNS, *TARGET_COLUMNS), 1, _ALIKE):
            if ours not in found:
                raise ManifestError(f"{path}: column {name}: is {ours} meant? rename it, or --columns {ours}={name}")
    return found


def _listed(table: Table) -> str:
    if not table.header:
        return "an empty file"
    more = f" and {len(table.header) - 20} more" if len(table.header) > 20 else ""
    shown = ", ".join(name[:60] for name in table.header[:20])
    return f"{shown}{more} (parted by {DELIMITERS[table.delimiter]}s)"


def _is_whole(table: Table, name: str) -> bool:
    """Tell whether a column holds whole numbers that a program wrote as ``12.0``, as it does beside missing ones."""
    cells = [cell for _, row in table.rows if (cell := row[name]).lower() not in _MISSING]
    return bool(cells) and all(_AS_FLOAT.fullmatch(cell) for cell in cells)


def _row(
    path: Path, number: int, record: Mapping[str, str], names: Mapping[str, str], whole: set[str], delimiter: str
) -> ManifestRow:
    where = f"{path}, line {number}"
    known = {name: cell for name, cell in record.items() if cell.lower() not in _MISSING}
    if delimiter != ",":
        texts = {theirs for ours, theirs in names.items() if ours not in ("mpp", *TARGET_COLUMNS)}
        known |= {n: c.replace(",", ".") for n, c in known.items() if n not in texts and _COMMA.fullmatch(c)}
    values = {ours: known.get(theirs) for ours, theirs in names.items()}
    for ours in ("image_id", "patient_id", "label", "center_id", "event"):
        if (value := values.get(ours)) and names[ours] in whole:
            values[ours] = value.removesuffix(".0")
    image_id = check_id(slide_name(values.get("image_id") or ""), where)
    return ManifestRow(
        image_id=image_id,
        patient_id=check_id(values.get("patient_id") or re.sub(r"_\d+$", "", image_id), where),
        label=values.get("label"),
        center_id=values.get("center_id"),
        path=_path(path, values.get("path")),
        mpp=_mpp(where, values.get("mpp")),
        **{name: values.get(name) for name in TARGET_COLUMNS},
        facts={name: cell for name, cell in known.items() if name not in names.values()},
    )


def _path(table: Path, given: str | None) -> Path | None:
    """Return the absolute path of a slide; Windows' way of writing it is read, its drives are not to be had here."""
    if not given:
        return None
    if url_of(given):
        return path_of(given)
    if os.name != "nt" and "\\" in given and not (table.parent / given).exists():
        windows = PureWindowsPath(given)
        if windows.drive:
            return None  # of another machine: the slide is looked for by its name
        given = windows.as_posix()
    return Path(os.path.realpath(table.parent / given))  # resolve() does not survive a link to itself


def _mpp(where: str, text: str | None) -> float | None:
    if not text:
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not is_possible_mpp(value):
        raise ManifestError(f"{where}: mpp {one_line(text, 100)!r}: expected {POSSIBLE_MPP}")
    return value


def _check_unique(path: Path, rows: Sequence[ManifestRow]) -> None:
    twice = [image_id for image_id, count in Counter(row.image_id for row in rows).items() if count > 1]
    if twice:
        raise ManifestError(f"{path}: image_id more than once: {', '.join(twice[:5])}; each slide needs one row")

"""What must not be found: each value of the cohort table, and what slides say of themselves, with where it stands."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wsi.errors import RequestError
from wsi.files.csv_table import Table, read_table
from wsi.sharing.phi.spellings import Edge, is_date, is_decimal, short_dates, spellings, squeezed

_CATEGORIES = frozenset(
    {"label", "value", "time", "event", "mpp", "image_num", "fold", "split", "sex", "gender", "age"}
)
"""Columns of the table whose cells name nobody."""
_WORDS = frozenset(
    "true false none null yes no unknown male female positive negative left right normal other tissue na".split()  # noqa: SIM905
)
_NAME = re.compile(r"(?:^|[^a-z])(?:name|surname|physician|doctor|pathologist|operator|user|reader)", re.IGNORECASE)
_SLIDE = re.compile(r"(?:image|slide)[ _]?id", re.IGNORECASE)
_PATH = re.compile(r"[/\\]")
_REPEATED = 0.2
"""Share of the rows from which a further column's value is a category."""


@dataclass(frozen=True, slots=True)
class Needle:
    """One value that must not be found."""

    what: str
    """Where it is known from: ``patient_id of line 12``."""
    value: str
    spelt: tuple[tuple[str, Edge], ...]
    """Squeezed spellings."""
    literal: tuple[str, ...]
    """Spellings that count only as they stand, in small letters."""

    @property
    def masked(self) -> str:
        """What it is, for a person who holds the table, without the value."""
        value = self.value
        shown = f"{value[0]}...{value[-1]}, " if len(value) >= 6 else ""
        return f"{self.what} ({shown}{len(value)} characters)"


@dataclass(frozen=True, slots=True)
class Needles:
    """All values, and how many could not be looked for."""

    found: tuple[Needle, ...]
    skipped: int
    """Values of so few characters, or such plain numbers, that they would be found anywhere."""


def needles_of(values: Iterable[tuple[str, str, bool]]) -> Needles:
    """Return the needles of values, each given by where it is from, itself, and whether it names a person."""
    found: dict[str, Needle] = {}
    skipped = set()
    for what, value, name in values:
        if value in found or value in skipped or squeezed(value).strip() in _WORDS:
            continue
        spelt, literal = spellings(value, name=name), short_dates(value)
        if spelt or literal:
            found[value] = Needle(what, value, tuple(sorted(spelt.items(), key=str)), tuple(sorted(literal)))
        else:
            skipped.add(value)
    return Needles(tuple(found.values()), len(skipped))


def values_of_table(path: Path) -> list[tuple[str, str, bool]]:
    """Return the values of a cohort table that may tell who somebody is.

    Taken are ids, paths, dates, names and whatever else stands in few rows; not the columns of the task (label, value,
    time, event, ...), numbers with decimals, and words that many rows share.

    Raises
    ------
    RequestError
        It cannot be read, or has no rows.
    """
    table = read_table(path)
    if not table.rows:
        raise RequestError(f"{path}: expected a cohort table with rows, found none")
    found: list[tuple[str, str, bool]] = []
    for column in table.header:
        found += _of_column(table, column)
    return [*found, *_of_slides(table)]


def _of_slides(table: Table) -> Iterator[tuple[str, str, bool]]:
    """Yield the patients that ids of slides name, where the table has no column of them: ``049194_0``."""
    for column in filter(_SLIDE.fullmatch, table.header):
        for number, row in table.rows:
            if (patient := re.sub(r"_\d+$", "", row.get(column, ""))) != row.get(column, ""):
                yield f"{column} of line {number}", patient, False


def _of_column(table: Table, column: str) -> list[tuple[str, str, bool]]:
    if column.strip().casefold() in _CATEGORIES:
        return []
    cells = [(number, row.get(column, "").strip()) for number, row in table.rows]
    count, most = Counter(cell for _, cell in cells), max(2, int(_REPEATED * len(cells)))
    telling = bool(_NAME.search(column)) or re.search(
        r"id$|date|birth|path|file|number|serial|mrn|case", column.casefold()
    )
    found = []
    for number, cell in cells:
        rare = telling or is_date(cell) or count[cell] <= most
        if cell and rare and not is_decimal(cell):
            found += [(f"{column} of line {number}", own, bool(_NAME.search(column))) for own in _parts(cell)]
    return found


def _parts(cell: str) -> Sequence[str]:
    """Return a cell and, of a path, the file's name and its stem."""
    if not _PATH.search(cell) or is_date(cell):
        return [cell]
    name = PurePosixPath(cell.replace("\\", "/")).name
    return list(dict.fromkeys(filter(None, [cell, name, name.partition(".")[0] if len(name) > 3 else ""])))

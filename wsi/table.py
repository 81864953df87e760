"""A table as people hand it over: comma, semicolon, tab or bar; UTF-8, UTF-16 or Windows' Latin; Excel's blank rows."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi.errors import ManifestError
from wsi.regular import read_regular

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MOST_BYTES, _MOST_COLUMNS = 1 << 30, 4096


@dataclass(frozen=True, slots=True)
class Table:
    """The cells of a table, without the spaces around them."""

    header: tuple[str, ...]
    """As it stands there; columns without a name are left out."""
    rows: tuple[tuple[int, dict[str, str]], ...]
    """Line number and cells by column name; rows that are blank are left out."""
    delimiter: str


def read_table(path: Path) -> Table:
    """Read a table whose first row names the columns; the delimiter is the one that parts the first row most often.

    Raises
    ------
    ManifestError
        Unreadable, too large, a row has other fields than the header, or a column stands there twice.
    """
    try:
        text = _decoded(read_regular(path, _MOST_BYTES))
        first = next((line for line in text.splitlines() if line.strip()), "")
        delimiter = max(DELIMITERS, key=first.count)
        if first.count(delimiter) >= _MOST_COLUMNS:
            raise ValueError(f"more than {_MOST_COLUMNS} columns")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, ValueError, csv.Error) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise ManifestError(f"{path}: cannot be read as a UTF-8 CSV table: {told}") from None
    filled = [(number, cells) for number, cells in lines if any(cells)]
    if not filled:
        return Table((), (), delimiter)
    header = filled[0][1]
    _check_names(path, [name for name in header if name])
    rows = [(number, _row(path, number, header, cells, delimiter)) for number, cells in filled[1:]]
    return Table(tuple(name for name in header if name), tuple(rows), delimiter)


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # what Excel calls Unicode text
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def _check_names(path: Path, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise ManifestError(f"{path}: column {name} stands twice in the header")
        seen.add(name.casefold())


def _row(path: Path, number: int, header: list[str], cells: list[str], delimiter: str) -> dict[str, str]:
    surplus = cells[len(header) :]
    if len(cells) < len(header) or any(surplus):
        raise ManifestError(
            f"{path}, line {number}: the number of fields differs from the header's: expected {len(header)} parted by "
            f"{DELIMITERS[delimiter]}s, found {len(cells)}"
        )
    return {name: cell for name, cell in zip(header, cells, strict=False) if name}

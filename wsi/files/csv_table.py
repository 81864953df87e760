"""CSV tables: ours, which stay text when a spreadsheet opens them and read back as written, and those of other people.

In a table of ours a cell of text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a return, a formula to a
spreadsheet, gets an apostrophe in front, and so does one that begins with apostrophes and then one of these, so that
reading takes exactly one off again. Numbers stay as they are. People's come parted by commas, semicolons, tabs or bars;
in UTF-8, UTF-16 or Windows' Latin; with Excel's blank rows.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi.errors import ManifestError, RequestError, one_line
from wsi.files.documents import read_document

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_SEP = re.compile(r"sep=(.)", re.IGNORECASE)
"""What Excel reads the delimiter from, in a line before the header."""
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MOST_CELLS, _MOST_COLUMNS = 20_000_000, 4096


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return the rows, the header first, as CSV; floats so that they read back bit for bit, None as an empty cell."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([_safe(cell) for cell in row] for row in rows)
    return text.getvalue()


def read_records(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table of ours by column.

    Raises
    ------
    RequestError
        There is no such file, or it is no regular one.
    OSError
        The storage fails.
    ValueError
        It is no UTF-8 CSV, a row is uneven, or a column stands there twice.
    """
    lines = _parsed(read_document(path, RequestError).decode("utf-8-sig"))
    header, *rows = [[_plain(cell) for cell in cells] for _, cells in lines if cells] or [[]]
    if len(set(header)) != len(header):
        raise ValueError("a column stands there twice")
    uneven = next((number for number, row in enumerate(rows, start=2) if len(row) != len(header)), None)
    if uneven is not None:
        raise ValueError(f"row {uneven} has {len(rows[uneven - 2])} cells, the header {len(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows]


@dataclass(frozen=True, slots=True)
class Table:
    """The cells of a table of somebody else's, without the spaces around them."""

    header: tuple[str, ...]
    """As it stands there; columns without a name are left out."""
    rows: tuple[tuple[int, dict[str, str]], ...]
    """Line number and cells by column name; rows that are blank are left out."""
    delimiter: str


def read_table(path: Path) -> Table:
    """Read a table whose first row names the columns; the delimiter is the one that parts the first row most often.

    Of Excel, a line ``sep=;`` before the header is taken at its word, and ``="007"`` is read as 007.

    Raises
    ------
    ManifestError
        Unreadable, too large, a row has other fields than the header, or a column stands there twice.
    OSError
        The storage fails.
    """
    data = read_document(path, ManifestError)
    try:
        text = _decoded(data)
        first = next((line for line in text.splitlines() if line.strip()), "")
        told = _SEP.fullmatch(first.strip('" \r\n'))
        delimiter = told[1] if told and told[1] in DELIMITERS else max(DELIMITERS, key=first.count)
        lines = [(number, [_cell(own) for own in cells]) for number, cells in _parsed(text, delimiter, spaces=True)]
        filled = [(number, cells) for number, cells in lines if any(cells)][1 if told else 0 :]
        if filled and len(filled[0][1]) > _MOST_COLUMNS:
            raise ValueError(f"more than {_MOST_COLUMNS} columns")
    except ValueError as error:
        raise ManifestError(f"{path}: cannot be read as a UTF-8 CSV table: {one_line(error, 200)}") from None
    if not filled:
        return Table((), (), delimiter)
    header = filled[0][1]
    names = [name for name in header if name]
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise ManifestError(f"{path}: column {one_line(name, 60)} stands twice in the header")
        seen.add(name.casefold())
    rows = [(number, _row(path, number, header, cells, delimiter)) for number, cells in filled[1:]]
    return Table(tuple(names), tuple(rows), delimiter)


def _cell(text: str) -> str:
    """Return a cell without the spaces around it, and without what keeps a spreadsheet from taking it for a number."""
    text = text.strip()
    return text[2:-1].strip() if len(text) > 2 and text.startswith('="') and text.endswith('"') else text


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # what Excel calls Unicode text
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def _row(path: Path, number: int, header: list[str], cells: list[str], delimiter: str) -> dict[str, str]:
    surplus = cells[len(header) :]
    if len(cells) < len(header) or any(surplus):
        raise ManifestError(
            f"{path}, line {number}: the number of fields differs from the header's: expected {len(header)} parted by "
            f"{DELIMITERS[delimiter]}s, found {len(cells)}"
        )
    return {name: cell for name, cell in zip(header, cells, strict=False) if name}


def _parsed(text: str, delimiter: str = ",", *, spaces: bool = False) -> list[tuple[int, list[str]]]:
    """Return line number and cells of each row; `ValueError` where it is no CSV, or has too many cells."""
    if text.count(delimiter) > _MOST_CELLS:
        raise ValueError(f"more than {_MOST_CELLS:,} cells")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=spaces)
    try:
        return [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise ValueError(one_line(error)) from None


def _safe(cell: Any) -> Any:
    """Return the cell, with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell) else cell


def _plain(cell: str) -> str:
    """Return what `_safe` was given."""
    return cell[1:] if _ESCAPED.match(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

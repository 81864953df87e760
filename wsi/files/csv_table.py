"""CSV tables whose cells stay text when a spreadsheet opens them, and that read back as they were written.

A cell of text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a return is a formula to a spreadsheet: it gets an
apostrophe in front, and so does one that begins with apostrophes and then one of these, so that reading takes exactly
one off again. Numbers stay as they are.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from wsi.errors import RequestError
from wsi.files.documents import parse_csv, read_document

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return the rows, the header first, as CSV; floats so that they read back bit for bit, None as an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([safe(cell) for cell in row] for row in rows)
    return text.getvalue()


def safe(cell: Any) -> Any:
    """Return the cell, with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell) else cell


def plain(cell: str) -> str:
    """Return what `safe` was given."""
    return cell[1:] if _ESCAPED.match(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_rows(path: Path) -> Iterator[list[str]]:
    """Give the rows of a table of ours, the header first.

    Raises
    ------
    RequestError
        There is no such file, or it is no regular one.
    OSError
        The storage fails.
    ValueError
        It is no UTF-8 CSV.
    """
    for _, row in parse_csv(read_document(path, RequestError).decode("utf-8-sig")):
        yield [plain(cell) for cell in row]


def read_records(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table of ours by column; raises as `read_rows`, and where a row is uneven."""
    header, *rows = [row for row in read_rows(path) if row] or [[]]
    if len(set(header)) != len(header):
        raise ValueError("a column stands there twice")
    uneven = next((number for number, row in enumerate(rows, start=2) if len(row) != len(header)), None)
    if uneven is not None:
        raise ValueError(f"row {uneven} has {len(rows[uneven - 2])} cells, the header {len(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows]

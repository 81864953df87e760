"""A table as people hand it over: comma, semicolon, tab or bar; UTF-8, UTF-16 or Windows' Latin; Excel's blank rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi.errors import ManifestError, one_line
from wsi.files.documents import parse_csv, read_document

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MOST_COLUMNS = 4096


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
    OSError
        The storage fails.
    """
    data = read_document(path, ManifestError)
    try:
        text = _decoded(data)
        first = next((line for line in text.splitlines() if line.strip()), "")
        delimiter = max(DELIMITERS, key=first.count)
        lines = [
            (number, [cell.strip() for cell in cells]) for number, cells in parse_csv(text, delimiter, spaces=True)
        ]
        filled = [(number, cells) for number, cells in lines if any(cells)]
        if filled and len(filled[0][1]) > _MOST_COLUMNS:
            raise ValueError(f"more than {_MOST_COLUMNS} columns")
    except ValueError as error:
        raise ManifestError(f"{path}: cannot be read as a UTF-8 CSV table: {one_line(error, 200)}") from None
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
            raise ManifestError(f"{path}: column {one_line(name, 60)} stands twice in the header")
        seen.add(name.casefold())


def _row(path: Path, number: int, header: list[str], cells: list[str], delimiter: str) -> dict[str, str]:
    surplus = cells[len(header) :]
    if len(cells) < len(header) or any(surplus):
        raise ManifestError(
            f"{path}, line {number}: the number of fields differs from the header's: expected {len(header)} parted by "
            f"{DELIMITERS[delimiter]}s, found {len(cells)}"
        )
    return {name: cell for name, cell in zip(header, cells, strict=False) if name}

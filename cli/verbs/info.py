"""`gigamil info`: what is in slides, as tables."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from wsi.qc.options import InfoOptions

_SHOWN = 5
"""Images named in a line of the resolution table."""


def info(options: "InfoOptions", json: bool) -> int:
    """Show what is in slides; return 1 where one fails."""
    import json as json_module
    import sys

    from rich.console import Console

    from wsi.errors import masked
    from wsi.qc.info import describe_all

    rows = describe_all(options)
    if json:
        sys.stdout.write(masked(json_module.dumps(rows, indent=1)) + "\n")
    else:
        console = Console(width=None if Console().is_terminal else 200)
        _show_slides(console, rows)
        if len(rows) > 1:
            _show_resolutions(console, rows)
    return int(any(row["failed"] for row in rows))


def _show_slides(console: "Console", rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from wsi.errors import masked

    table = Table("image", "size", "levels", "reader, and why", "um/px", "from", "tiling", "notes", show_lines=True)
    for row in rows:
        why = f"{row['reader']}: {row['reader_because']}" if row["reader"] else ""
        cells = [row["image_id"], row["size"], row["levels"], why, row["mpp"], row["mpp_source"], row["tiling"]]
        table.add_row(*(escape(masked(cell)) for cell in [*cells, row["notes"]]))
    console.print(table)


def _show_resolutions(console: "Console", rows: list[dict[str, Any]]) -> None:
    """Print how many slides have which um/px, the odd ones by name."""
    from rich.markup import escape
    from rich.table import Table

    from wsi.qc.info import count_resolutions

    table = Table("um/px", "from", "slides", "", title="Resolutions")
    for group in count_resolutions(rows):
        names = ", ".join(group["images"][:_SHOWN]) + (" ..." if len(group["images"]) > _SHOWN else "")
        odd = f"differs from the others: {names}" if group["odd"] else ""
        table.add_row(group["mpp"], *map(escape, (group["source"], str(len(group["images"])), odd)))
    console.print(table)

"""`gigamil info`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json, Manifest, Scene

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN = 5
"""Images named in a line of the resolution table."""


def info(
    slides: Annotated[list[Path] | None, typer.Argument(help="Slides, or folders of slides.")] = None,
    manifest: Manifest = None,
    mpp: Annotated[float, typer.Option("--mpp", help="um/px that tiling would ask for.")] = 0.5,
    assume_mpp: Annotated[
        float | None, typer.Option("--assume-mpp", help="um/px of slides that do not say it.")
    ] = None,
    reader: Annotated[
        str | None, typer.Option("--reader", help="Force a reader: tiff, openslide, dicom or ome-zarr.")
    ] = None,
    scene: Scene = None,
    verify: Annotated[bool, typer.Option("--verify", help="Decode every tile and count the damaged ones.")] = False,
    json: Json = False,
) -> None:
    """Say what is in slides, which um/px is believed and why, and what tiling would do."""
    import json as json_module

    from rich.console import Console

    from cli.console import one_line_errors
    from wsi.errors import masked
    from wsi.qc.info import InfoOptions, describe_all

    with one_line_errors():
        options = InfoOptions(target_mpp=mpp, assume_mpp=assume_mpp, reader=reader, scene=scene, verify=verify)
        rows = describe_all(tuple(slides or ()), manifest, options)
    if json:
        typer.echo(masked(json_module.dumps(rows, indent=1)))
    else:
        console = Console(width=None if Console().is_terminal else 200)
        _show_slides(console, rows)
        if len(rows) > 1:
            _show_resolutions(console, rows)
    if any(row["failed"] for row in rows):
        raise typer.Exit(1)


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

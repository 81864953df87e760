"""`gigamil info`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Manifest


def info(
    slides: Annotated[list[Path] | None, typer.Argument(help="Slides, or folders of slides.")] = None,
    manifest: Manifest = None,
    mpp: Annotated[float, typer.Option("--mpp", help="um/px that tiling would ask for.")] = 0.5,
    assume_mpp: Annotated[
        float | None, typer.Option("--assume-mpp", help="um/px of slides that do not say it.")
    ] = None,
    reader: Annotated[str | None, typer.Option("--reader", help="Force a reader: tiff or openslide.")] = None,
    json: Json = False,
) -> None:
    """Say what is in slides, which um/px is believed and why, and what tiling would do."""
    import json as json_module

    from rich.console import Console
    from rich.table import Table

    from cli.console import one_line_errors
    from wsi.info import describe_all

    with one_line_errors():
        rows = describe_all(tuple(slides or ()), manifest, target_mpp=mpp, assume_mpp=assume_mpp, reader=reader)
    if json:
        typer.echo(json_module.dumps(rows, indent=1))
    else:
        table = Table("image", "size", "levels", "reader", "um/px", "from", "tiling", "notes", show_lines=True)
        for row in rows:
            table.add_row(
                *(row[key] for key in ("image_id", "size", "levels", "reader", "mpp", "mpp_source", "tiling")),
                row["notes"],
            )
        Console(width=None if Console().is_terminal else 200).print(table)
    if any(row["failed"] for row in rows):
        raise typer.Exit(1)

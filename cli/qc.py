"""`gigamil qc`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json


def qc(
    stores: Annotated[list[Path], typer.Argument(metavar="STORES", help="Tile stores, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for qc.html and qc.png.")] = Path("qc"),
    json: Json = False,
) -> None:
    """Write a contact sheet of a cohort: overview, tissue outline, quality numbers, warnings; the odd slides first."""
    from cli.console import one_line_errors, run_stage
    from wsi.qc.sheet import QcOptions
    from wsi.qc.sheet import qc as run

    with one_line_errors():
        options = QcOptions(stores=tuple(stores), out=out)
    run_stage(lambda progress: run(options, progress), json_output=json)

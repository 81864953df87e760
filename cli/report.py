"""`gigamil report`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `gigamil train`.")],
    bags: Annotated[list[Path] | None, typer.Option("--bags", help="Bags, to draw heat maps anew.")] = None,
    stores: Annotated[list[Path] | None, typer.Option("--stores", help="Tile stores, to draw heat maps anew.")] = None,
    json: Json = False,
) -> None:
    """Write report.html (one self-contained page) and model_card.md of a finished run."""
    from cli.console import one_line_errors, run_stage
    from mil.report.report import ReportOptions
    from mil.report.report import report as run

    with one_line_errors():
        options = ReportOptions(run=run_folder, bags=tuple(bags or ()), stores=tuple(stores or ()))
    run_stage(lambda progress: run(options, progress), json_output=json)

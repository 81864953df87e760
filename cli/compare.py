"""`gigamil compare`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Overwrite


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs; differences are to the first.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the table and the page.")] = Path("compare"),
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare runs on the patients they share: intervals, paired differences, DeLong's test, a page with a plot."""
    from cli.console import one_line_errors, run_stage
    from mil.report.compare import CompareOptions
    from mil.report.compare import compare as run

    with one_line_errors():
        options = CompareOptions(runs=tuple(runs), out=out, seed=seed, overwrite=overwrite)
    run_stage(lambda progress: run(options, progress), json_output=json)

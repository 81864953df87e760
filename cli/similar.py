"""`gigamil similar`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Overwrite


def similar(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `gigamil train`.")],
    bags: Annotated[list[Path], typer.Argument(help="Bags (.h5) of the slides to look up, or folders of them.")],
    known: Annotated[list[Path], typer.Option("--known", help="The bags that the run was trained on.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write; what it means stands beside it as JSON.")],
    most: Annotated[int, typer.Option("--most", help="Cases told for each slide.")] = 5,
    refused: Annotated[
        float, typer.Option("--refused", help="Share of known slides that may be called unknown.")
    ] = 0.05,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Find the known cases most like each slide; name the slides that are like none of them."""
    from cli.console import one_line_errors, run_stage
    from mil.inference.similar import SimilarOptions
    from mil.inference.similar import similar as run

    with one_line_errors():
        options = SimilarOptions(
            run=run_folder,
            bags=tuple(bags),
            known=tuple(known),
            out=out,
            most=most,
            refused=refused,
            device=device,
            overwrite=overwrite,
        )
    run_stage(lambda progress: run(options, progress), json_output=json)

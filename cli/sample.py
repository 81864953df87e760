"""``gigamil sample``: write the sample cohort."""

from pathlib import Path
from typing import Annotated

import typer


def sample(
    out: Annotated[Path, typer.Argument(help="Folder for train.csv, test.csv, truth.csv and slides/.")],
    patients: Annotated[
        int, typer.Option(help="Patients in train.csv, 12 or more; test.csv gets a tenth as many more.")
    ] = 60,
    seed: Annotated[int, typer.Option(help="Another seed, another cohort.")] = 7,
    size: Annotated[
        int,
        typer.Option(help="Longest side a slide may have, in pixels; the shortest is 3/8 of it. 60000 is gigapixels."),
    ] = 8000,
    workers: Annotated[int | None, typer.Option(help="Processes; all usable CPUs where not given.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")] = False,
) -> None:
    """Write a small synthetic cohort in the STRIP AI form, for trying everything out."""
    from cli.console import one_line_errors, run_stage
    from sample_data.make import make_cohort
    from sample_data.plan import SampleOptions

    with one_line_errors():
        options = SampleOptions(
            out=out, patients=patients, seed=seed, min_px=size * 3 // 8, max_px=size, workers=workers
        )
    run_stage(lambda progress: make_cohort(options, progress), json_output=json)

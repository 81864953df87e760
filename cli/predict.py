"""`gigamil predict`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Manifest, Overwrite


def predict(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `gigamil train`.")],
    bags: Annotated[list[Path], typer.Argument(help="Bags (.h5), or folders of bags.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write: patient_id, then one column per class.")],
    manifest: Manifest = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Predict every patient: one row per patient, rows sum to 1, failures at equal probabilities and named."""
    from cli.console import one_line_errors, run_stage
    from mil.predict import PredictOptions
    from mil.predict import predict as run

    with one_line_errors():
        options = PredictOptions(
            run=run_folder, bags=tuple(bags), out=out, manifest=manifest, device=device, overwrite=overwrite
        )
    run_stage(lambda progress: run(options, progress), json_output=json)

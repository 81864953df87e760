"""`gigamil predict`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Manifest, Overwrite, Workers


def predict(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `gigamil train`.")],
    items: Annotated[
        list[Path],
        typer.Argument(metavar="SLIDES", help="Slides or bags (.h5), or folders of either."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write: patient_id, then one column per class.")],
    manifest: Manifest = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    work: Annotated[
        Path | None, typer.Option("--work", help="Keep stores and bags of the slides here, and use what is there.")
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option("--time-budget", metavar="MIN", help="Minutes for the slides; late ones are named.")
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="The encoder's weights, as in extract.")] = None,
    random_weights: Annotated[
        int | None, typer.Option("--random-weights", metavar="SEED", help="The encoder's seed, as in extract.")
    ] = None,
    assume_mpp: Annotated[
        float | None, typer.Option("--assume-mpp", help="um/px of slides that do not say it.")
    ] = None,
    on_damage: Annotated[str, typer.Option("--on-damage", help="fail, or skip: leave damaged tiles out.")] = "fail",
    workers: Workers = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Predict every patient: one row per patient, rows sum to 1, failures at equal probabilities and named."""
    from cli.console import one_line_errors, run_stage
    from mil.predict import PredictOptions
    from mil.predict import predict as run
    from mil.slides import SlideOptions

    with one_line_errors():
        from_bags = any(item.suffix == ".h5" or any(item.glob("*.h5")) for item in items)
        slides = SlideOptions(
            slides=tuple(items),
            weights=weights,
            random_weights=random_weights,
            assume_mpp=assume_mpp,
            on_damage=on_damage,
            workers=workers,
            device=device,
        )
        options = PredictOptions(
            run=run_folder,
            bags=tuple(items) if from_bags else (),
            slides=None if from_bags else slides,
            work=work,
            time_budget_min=time_budget,
            out=out,
            manifest=manifest,
            device=device,
            overwrite=overwrite,
        )
    run_stage(lambda progress: run(options, progress), json_output=json)

"""`gigamil predict`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Manifest, Overwrite, Workers


def predict(
    items: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] SLIDES...", help="Run folder of `gigamil train`; slides or bags (.h5), or folders of either."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write: patient_id, then one column per class.")],
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="A run; several are combined. Or a folder of `gigamil compare`.")
    ] = None,
    combine: Annotated[
        str, typer.Option("--combine", help="Several runs: mean, or stack, as compare has them.")
    ] = "mean",
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
    from mil.inference.combine import is_run
    from mil.inference.inputs import sort_items
    from mil.inference.predict import PredictOptions
    from mil.inference.predict import predict as run
    from mil.inference.slides import SlideOptions
    from wsi.errors import RequestError

    with one_line_errors():
        first = [] if runs and not is_run(items[0]) else items[:1]
        named, items = [*first, *(runs or [])], items[len(first) :]
        if not items:
            raise RequestError("expected slides or bags after the run, found none")
        bags, files = sort_items(items)
        slides = SlideOptions(
            slides=files,
            weights=weights,
            random_weights=random_weights,
            assume_mpp=assume_mpp,
            on_damage=on_damage,
            workers=workers,
            device=device,
        )
        options = PredictOptions(
            run=named[0],
            others=tuple(named[1:]),
            combine=combine,
            bags=bags,
            slides=None if bags else slides,
            work=work,
            time_budget_min=time_budget,
            out=out,
            manifest=manifest,
            device=device,
            overwrite=overwrite,
        )
    run_stage(lambda progress: run(options, progress), json_output=json)

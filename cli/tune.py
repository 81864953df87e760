"""`gigamil tune`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Json, Overwrite


def tune(
    bags: Annotated[list[Path], typer.Argument(help="Bags (.h5), or folders of bags.")],
    manifest: Annotated[Path, typer.Option("--manifest", "-m", help="Cohort table (CSV) with labels.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the search.")],
    trials: Annotated[int, typer.Option("--trials", help="Settings tried in each search.")] = 30,
    heads: Annotated[str, typer.Option("--heads", help="Heads to choose from, A,B,...")] = "gated_abmil",
    folds: Annotated[int, typer.Option("--folds", help="Outer folds, which give the score.")] = 5,
    inner_folds: Annotated[int, typer.Option("--inner-folds", help="Inner folds, which choose the settings.")] = 3,
    seeds: Annotated[int, typer.Option("--seeds", help="Models per outer fold, averaged.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of splits, proposals and models.")] = 0,
    splits: Annotated[Path | None, typer.Option("--splits", help="A splits.csv to use for the outer folds.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Most epochs per model.")] = 60,
    patience: Annotated[int, typer.Option("--patience", help="Epochs without progress before stopping.")] = 15,
    max_tiles: Annotated[int, typer.Option("--max-tiles", help="Tiles drawn per bag and epoch; 0: all.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Search for good settings; report the score of search and training together, by nested cross-validation."""
    from cli.console import one_line_errors, run_stage
    from mil.run.ending import ending_of_search, lines_of
    from mil.training.options import TrainOptions
    from mil.tune import TuneOptions
    from mil.tune import tune as run

    def _told(folder: Path) -> dict[str, Any]:
        ending = ending_of_search(folder)
        return {**ending, "lines": lines_of(ending)}

    with one_line_errors():
        names = tuple(name for name in heads.split(",") if name)
        base = TrainOptions(
            bags=tuple(bags),
            manifest=manifest,
            out=out,
            head=names[0] if names else "gated_abmil",
            folds=folds,
            seeds=seeds,
            seed=seed,
            splits=splits,
            epochs=epochs,
            patience=patience,
            max_tiles=max_tiles,
            device=device,
            overwrite=overwrite,
        )
        options = TuneOptions(train=base, trials=trials, inner_folds=inner_folds, heads=names)
    run_stage(lambda progress: run(options, progress), json_output=json, ending=lambda _: _told(out))

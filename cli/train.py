"""`gigamil train`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Overwrite


def train(
    bags: Annotated[list[Path], typer.Argument(help="Bags (.h5), or folders of bags.")],
    manifest: Annotated[Path, typer.Option("--manifest", "-m", help="Cohort table (CSV) with labels.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder to write.")],
    stores: Annotated[
        list[Path] | None, typer.Option("--stores", help="Tile stores: mean-colour baseline, heat maps in the report.")
    ] = None,
    splits: Annotated[Path | None, typer.Option("--splits", help="A splits.csv to use again.")] = None,
    head: Annotated[str, typer.Option("--head", help="gated_abmil or mean_pool.")] = "gated_abmil",
    classes: Annotated[str, typer.Option("--classes", help="Order of the classes, A,B,...; default: sorted.")] = "",
    folds: Annotated[int, typer.Option("--folds", help="Folds of the cross-validation by patient.")] = 5,
    seeds: Annotated[int, typer.Option("--seeds", help="Models per fold, averaged.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of the splits and the first model.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", help="Most epochs per model.")] = 60,
    patience: Annotated[int, typer.Option("--patience", help="Epochs without progress before stopping.")] = 15,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate of AdamW.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Weight decay of AdamW.")] = 1e-2,
    hidden: Annotated[int, typer.Option("--hidden", help="Width of the instance embedding.")] = 128,
    attention: Annotated[int, typer.Option("--attention", help="Width of the attention branch.")] = 64,
    dropout: Annotated[float, typer.Option("--dropout", help="Dropout before the classifier.")] = 0.25,
    batch_bags: Annotated[int, typer.Option("--batch-bags", help="Bags per step.")] = 16,
    max_tiles: Annotated[int, typer.Option("--max-tiles", help="Tiles drawn per bag and epoch; 0: all.")] = 0,
    precision: Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Models trained side by side.")] = 1,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train an attention model and its baselines by cross-validation; write a run folder with a report."""
    from cli.console import one_line_errors, run_stage
    from mil.options import TrainOptions
    from mil.train import train as run

    with one_line_errors():
        options = TrainOptions(
            bags=tuple(bags),
            manifest=manifest,
            out=out,
            stores=tuple(stores or ()),
            splits=splits,
            head=head,
            classes=tuple(name for name in classes.split(",") if name),
            folds=folds,
            seeds=seeds,
            seed=seed,
            epochs=epochs,
            patience=patience,
            lr=lr,
            weight_decay=weight_decay,
            hidden=hidden,
            attention=attention,
            dropout=dropout,
            batch_bags=batch_bags,
            max_tiles=max_tiles,
            precision=precision,
            device=device,
            jobs=jobs,
            overwrite=overwrite,
        )
    run_stage(lambda progress: run(options, progress), json_output=json)

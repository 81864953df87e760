"""`gigamil train`."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Json, Overwrite


def train(
    context: typer.Context,
    bags: Annotated[list[Path], typer.Argument(help="Bags (.h5), or folders of bags.")],
    manifest: Annotated[Path, typer.Option("--manifest", "-m", help="Cohort table (CSV) with labels.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder to write.")],
    stores: Annotated[
        list[Path] | None, typer.Option("--stores", help="Tile stores: mean-colour baseline, heat maps in the report.")
    ] = None,
    splits: Annotated[Path | None, typer.Option("--splits", help="A splits.csv to use again.")] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="A head of docs/HEADS.md; of a,b,c the first is the run's, the others its baselines."),
    ] = None,
    fusion: Annotated[
        str,
        typer.Option(
            "--fusion", help="Bags of several encoders, a folder each: concat, late, or folds (one for each fold)."
        ),
    ] = "none",
    target: Annotated[
        str, typer.Option(help="classes; or labels (a;b), value, survival: columns value, or time and event.")
    ] = "classes",
    repeats: Annotated[
        int, typer.Option(help="Whole runs on other divisions of the patients, in folders of --out.")
    ] = 1,
    split: Annotated[str, typer.Option(help="Folds of patients, or of whole centers.")] = "patients",
    calibrate: Annotated[
        str, typer.Option(help="temperature, prior, platt, none, or auto: chosen on other folds' patients.")
    ] = "temperature",
    unit: Annotated[
        str, typer.Option(help="What is judged: patient, or slide by its own label; folds hold patients whole.")
    ] = "patient",
    aggregate: Annotated[
        str,
        typer.Option(help="Of a patient's slides: the mean of their logits; max: the highest; bag: all in one bag."),
    ] = "mean",
    output: Annotated[str, typer.Option(help="Last layer: linear, or arcface (for many or rare classes).")] = "linear",
    other: Annotated[Path | None, typer.Option(help="Table of slides that are trained on only (other.csv).")] = None,
    other_label: Annotated[str, typer.Option(help="The class they are taken for.")] = "",
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
    optimizer: Annotated[str, typer.Option("--optimizer", help="adamw, or sam (sharpness-aware).")] = "adamw",
    sam_rho: Annotated[float, typer.Option("--sam-rho", help="How far sam looks for the worst loss.")] = 0.05,
    balance: Annotated[str, typer.Option("--balance", help="Classes equal by weights, or by sampling.")] = "weights",
    label_smoothing: Annotated[float, typer.Option("--label-smoothing", help="Share spread over all classes.")] = 0.0,
    mixup: Annotated[float, typer.Option("--mixup", help="Mix pairs of bags: alpha of the Beta; 0: off.")] = 0.0,
    ema: Annotated[float, typer.Option("--ema", help="Decay of the running mean of the weights; 0: off.")] = 0.0,
    instance_dropout: Annotated[
        float, typer.Option("--instance-dropout", help="Probability that a tile is left out, per epoch.")
    ] = 0.0,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", help="A finished run to learn from, same splits.")
    ] = None,
    distil_weight: Annotated[float, typer.Option("--distil-weight", help="The teacher's share of the loss.")] = 0.5,
    distil_temperature: Annotated[float, typer.Option("--distil-temperature", help="Softens the teacher.")] = 2.0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Models trained side by side.")] = 1,
    nproc: Annotated[int, typer.Option("--nproc", help="Processes that train each model together.")] = 1,
    track: Annotated[list[str] | None, typer.Option("--track", help="Also track with wandb or mlflow.")] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", help="A tune.json: its settings, where no option here says otherwise.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train an attention model and its baselines by cross-validation; write a run folder with a report."""
    from cli.console import one_line_errors, run_stage
    from mil.run.ending import ending_of_repeats, ending_of_run, lines_of
    from mil.search import read_settings
    from mil.train import train as run
    from mil.training.options import TrainOptions
    from wsi.errors import RequestError

    def _told(ending: dict[str, Any]) -> dict[str, Any]:
        return {**ending, "lines": lines_of(ending)}

    with one_line_errors():
        own, *others = [name.strip() for names in head or ["gated_abmil"] for name in names.split(",")]
        options = TrainOptions(
            bags=tuple(bags),
            manifest=manifest,
            out=out,
            stores=tuple(stores or ()),
            splits=splits,
            fusion=fusion,
            target=target,
            split=split,
            calibrate=calibrate,
            unit=unit,
            aggregate=aggregate,
            output=output,
            other=other,
            other_label=other_label,
            head=own,
            baselines=tuple(others) or TrainOptions.baselines,
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
            optimizer=optimizer,
            sam_rho=sam_rho,
            balance=balance,
            label_smoothing=label_smoothing,
            mixup=mixup,
            ema=ema,
            instance_dropout=instance_dropout,
            teacher=teacher,
            distil_weight=distil_weight,
            distil_temperature=distil_temperature,
            jobs=jobs,
            nproc=nproc,
            track=tuple(track or ()),
            overwrite=overwrite,
        )
        if settings is not None:
            found = read_settings(settings).items()
            options = replace(options, **{name: value for name, value in found if not _is_given(context, name)})
        if repeats > 1:
            from mil.repeat import train_repeatedly

            if "RANK" in os.environ:
                raise RequestError("torchrun excludes --repeats: start each repeat by itself, with its --seed")
        elif repeats < 1:
            raise RequestError(f"--repeats {repeats}: expected 1 or more")
        if int(os.environ.get("RANK", "0")) > 0:  # rank 0 tells for all, and its exit code is that of the run
            run(options)
            return
    if repeats > 1:
        run_stage(
            lambda progress: train_repeatedly(options, repeats, progress),
            json_output=json,
            ending=lambda _: _told(ending_of_repeats(out)),
        )
        return
    run_stage(lambda progress: run(options, progress), json_output=json, ending=lambda _: _told(ending_of_run(out)))


def _is_given(context: typer.Context, name: str) -> bool:
    """Tell whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"

"""``gigamil finetune``: an encoder trained on tiles with their slide's label."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Overwrite


def finetune(
    stores: Annotated[list[Path], typer.Argument(help="Tile stores (*.zarr), or folders that hold them.")],
    manifest: Annotated[Path, typer.Option("--manifest", "-m", help="Cohort table (CSV) with labels.")],
    encoder: Annotated[str, typer.Option(help="timm:<model>.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Weights to write, *.safetensors.")],
    weights: Annotated[Path | None, typer.Option(help="Local weights to begin from.")] = None,
    random_weights: Annotated[
        int | None, typer.Option(metavar="SEED", help="Begin from random weights, for trials only.")
    ] = None,
    splits: Annotated[Path | None, typer.Option(help="splits.csv of a training run; default: split here.")] = None,
    fold: Annotated[int, typer.Option(help="Fold whose patients are held out.")] = 0,
    folds: Annotated[int, typer.Option(help="Folds, where the patients are split here.")] = 5,
    classes: Annotated[str, typer.Option(help="Order of the classes, A,B,...; default: sorted.")] = "",
    attention: Annotated[
        Path | None, typer.Option(help="Heat maps' folder, or a table: draw the tiles with most attention only.")
    ] = None,
    attention_share: Annotated[float, typer.Option(help="Share of a slide's tiles, by attention.")] = 0.1,
    tiles_per_slide: Annotated[int, typer.Option(help="Tiles drawn per slide, anew every epoch; 0: all.")] = 64,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Tiles per step, over all processes.")] = 64,
    accumulate: Annotated[int, typer.Option(help="Parts of a process's batch, one after the other.")] = 1,
    sizes: Annotated[str, typer.Option(help="Input sizes over the epochs, such as 128,224; default: its own.")] = "",
    lr: Annotated[float, typer.Option(help="Largest learning rate of the topmost layers.")] = 1e-4,
    layer_decay: Annotated[float, typer.Option(help="Factor of the rate from each layer to the one below.")] = 0.75,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = 0.05,
    warmup_epochs: Annotated[float, typer.Option(help="Epochs of warm-up; then the rate follows a cosine.")] = 0.5,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = 1.0,
    ema: Annotated[float, typer.Option(help="Decay of a moving average of the weights, as 0.999; 0: none.")] = 0.0,
    mixup: Annotated[float, typer.Option(help="Mixup's Beta parameter; 0: none.")] = 0.0,
    label_smoothing: Annotated[float, typer.Option(help="Share of the label spread over all classes.")] = 0.0,
    flips: Annotated[bool, typer.Option(help="Flip and turn tiles.")] = True,
    jitter: Annotated[float, typer.Option(help="Strength of the colour jitter; 0: none.")] = 0.2,
    keep: Annotated[str, typer.Option(help="last epoch, or the best one by patients of the next fold.")] = "last",
    seed: Annotated[int, typer.Option(help="Of splits, order and augmentation.")] = 0,
    activation_checkpointing: Annotated[bool, typer.Option(help="Less memory for about a third more time.")] = False,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    nproc: Annotated[int, typer.Option(help="Processes; with GPUs, one for each. Or start this under torchrun.")] = 1,
    checkpoint_steps: Annotated[int, typer.Option(help="Checkpoint every so many steps, too; 0: epochs only.")] = 0,
    prefetch_mib: Annotated[int, typer.Option(help="Memory for tiles under way, MiB per process.")] = 512,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fine-tune an encoder on tiles with their slide's label; one fold of patients is held out.

    A run that was stopped goes on where it was. `gigamil extract --weights` takes the result.
    """
    from cli.console import fail, one_line_errors, run_stage
    from features.finetune.options import FinetuneOptions
    from features.finetune.run import finetune as run

    with one_line_errors():
        try:
            pixels = tuple(int(size) for size in sizes.split(",") if size)
        except ValueError:
            fail(f"--sizes {sizes}: expected whole numbers with commas between them, such as 128,224", 2)
        options = FinetuneOptions(
            stores=tuple(stores),
            manifest=manifest,
            encoder=encoder,
            out=out,
            weights=weights,
            random_weights=random_weights,
            splits=splits,
            fold=fold,
            folds=folds,
            classes=tuple(name for name in classes.split(",") if name),
            attention=attention,
            attention_share=attention_share,
            tiles_per_slide=tiles_per_slide,
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            sizes=pixels,
            lr=lr,
            layer_decay=layer_decay,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
            clip=clip,
            ema=ema,
            mixup=mixup,
            label_smoothing=label_smoothing,
            flips=flips,
            jitter=jitter,
            keep=keep,
            seed=seed,
            activation_checkpointing=activation_checkpointing,
            precision=precision,
            device=device,
            nproc=nproc,
            checkpoint_steps=checkpoint_steps,
            prefetch_mib=prefetch_mib,
            overwrite=overwrite,
        )
        if int(os.environ.get("RANK", "0")) > 0:  # rank 0 tells for all, and its exit code is that of the run
            run(options)
            return
    following = f"gigamil extract STORES --encoder {encoder} --weights {out} -o BAGS"
    told = {"out": str(out), "next": following, "lines": [f"next: {following}"]}
    run_stage(
        lambda progress: run(options, progress),
        json_output=json,
        ending=lambda ended: told if ended.exit_code == 0 else {},
    )

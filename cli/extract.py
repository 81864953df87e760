"""``gigamil extract``: tile stores to bags of features."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Out, Overwrite


def extract(
    stores: Annotated[list[Path], typer.Argument(help="Tile stores (*.zarr), or folders that hold them.")],
    out: Out = Path("bags"),
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="texture (no download; the default), uni, timm:<model>, ...; may be given several times."),
    ] = None,
    concat: Annotated[
        bool,
        typer.Option("--concat", help="Several encoders' features side by side in one bag, not a folder for each."),
    ] = False,
    weights: Annotated[Path | None, typer.Option(help="Local weights: .safetensors, or .pt with tensors only.")] = None,
    random_weights: Annotated[
        int | None, typer.Option(metavar="SEED", help="Untrained random weights, for trials only.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Tiles that go through the encoder together.")] = 64,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    select: Annotated[str, typer.Option(help="all, or the best by darkness, tissue or texture, or random.")] = "all",
    tiles_per_slide: Annotated[int, typer.Option(help="How many, with --select.")] = 0,
    seed: Annotated[int, typer.Option(help="Of --select random.")] = 0,
    stain: Annotated[str, typer.Option(help="Colours: none, background, reinhard or macenko.")] = "none",
    views: Annotated[str, typer.Option(help="Mean over views: none, flips, d4 or colour.")] = "none",
    keep_views: Annotated[bool, typer.Option("--keep-views", help="A row for each view, not their mean.")] = False,
    compile_: Annotated[bool, typer.Option("--compile", help="Use torch.compile; slow to start.")] = False,
    channels_last: Annotated[
        bool, typer.Option(help="Tensors as (N, H, W, C) in memory, which convolutions are faster in.")
    ] = True,
    crop: Annotated[
        bool,
        typer.Option("--crop", help="Enlarge tiles, cut out the middle, as the model's card does (crop_pct)."),
    ] = False,
    bag_dtype: Annotated[
        str, typer.Option(help="Of features in the bags: float16, or float32 for those beyond 65504.")
    ] = "float16",
    off_recipe: Annotated[
        bool, typer.Option("--off-recipe", help="Encode tiles of a um/px that the encoder was not made for.")
    ] = False,
    nproc: Annotated[int, typer.Option(help="Processes; with GPUs, one for each. Or start this under torchrun.")] = 1,
    prefetch_mib: Annotated[int, typer.Option(help="Memory for tiles under way, MiB per process.")] = 512,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Encode every tile of the stores; write one bag of features per slide.

    Finished bags are skipped. A run that was stopped goes on where it was.
    """
    from cli.console import one_line_errors, run_stage
    from features.encoders.registry import JOINED
    from features.extraction.extract import extract as run
    from features.extraction.options import ExtractOptions

    names = encoder or ["texture"]
    with one_line_errors():
        options = ExtractOptions(
            stores=tuple(stores),
            out=out,
            encoder=JOINED.join(names),
            separate=len(names) > 1 and not concat,
            off_recipe=off_recipe,
            select=select,
            tiles_per_slide=tiles_per_slide,
            select_seed=seed,
            stain=stain,
            views=views,
            keep_views=keep_views,
            compiled=compile_,
            channels_last=channels_last,
            crop=crop,
            bag_dtype=bag_dtype,
            weights=weights,
            random_weights=random_weights,
            batch_size=batch_size,
            precision=precision,
            device=device,
            nproc=nproc,
            prefetch_mib=prefetch_mib,
            overwrite=overwrite,
        )
        if int(os.environ.get("RANK", "0")) > 0:  # rank 0 tells for all, and its exit code is that of the run
            run(options)
            return
    following = f"gigamil train {out} -m MANIFEST -o RUN"
    told = {"out": str(out), "next": following, "lines": [f"next: {following}"]}
    run_stage(
        lambda progress: run(options, progress),
        json_output=json,
        ending=lambda ended: told if ended.exit_code == 0 else {},
    )

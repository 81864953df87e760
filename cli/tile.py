"""`gigamil tile`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Manifest, Out, Overwrite, Scene, Workers

MinTissue = Annotated[float, typer.Option("--min-tissue", help="Least share of tissue of a listed tile.")]
TilePx = Annotated[str, typer.Option("--tile-px", help="Side of a tile: 224, 256, 512, ... or native.")]
Background = Annotated[str, typer.Option("--background", help="drop, or keep: store tiles without tissue.")]
AssumeMpp = Annotated[float | None, typer.Option("--assume-mpp", help="um/px of slides that do not say it.")]
OnDamage = Annotated[str, typer.Option("--on-damage", help="fail, or skip: leave damaged tiles out.")]
Roi = Annotated[
    Path | None, typer.Option("--roi", help="Regions: GeoJSON, PNG, OME-Zarr label, or a folder of them by image id.")
]
RoiMode = Annotated[str, typer.Option("--roi-mode", help="and: tissue inside the regions; replace: all of them.")]
RoiClass = Annotated[
    list[str] | None,
    typer.Option(
        "--roi-class", help="Of a GeoJSON, only regions of this class; else all but QuPath's ignored ones (*)."
    ),
]
Drop = Annotated[list[str] | None, typer.Option("--drop", help="Leave tiles out: 'focus<0.04', 'pen>0.5'.")]
Downscale = Annotated[str, typer.Option("--downscale", help="area, or dct: JPEG decoded smaller, faster.")]
Scores = Annotated[str, typer.Option("--scores", help="auto, or all: decode copied JPEG tiles to score them.")]


def tile(
    slides: Annotated[list[Path] | None, typer.Argument(help="Slides, or folders of slides.")] = None,
    out: Out = Path("stores"),
    manifest: Manifest = None,
    mpp: Annotated[float, typer.Option("--mpp", help="um/px of the tiles.")] = 0.5,
    tile_px: TilePx = "256",
    codec: Annotated[str, typer.Option("--codec", help="auto (copy JPEG, else zstd), jpeg, zstd.")] = "auto",
    downscale: Downscale = "area",
    min_tissue: MinTissue = 0.1,
    background: Background = "drop",
    assume_mpp: AssumeMpp = None,
    on_damage: OnDamage = "fail",
    roi: Roi = None,
    roi_mode: RoiMode = "and",
    roi_class: RoiClass = None,
    fill_holes: Annotated[bool, typer.Option("--fill-holes", help="Fill the holes of tissue and regions.")] = False,
    drop: Drop = None,
    scores: Scores = "auto",
    reader: Annotated[str | None, typer.Option("--reader", help="Force a reader; see gigamil info.")] = None,
    scene: Scene = None,
    icc: Annotated[str | None, typer.Option("--icc", help="srgb: apply the slide's ICC colour profile.")] = None,
    workers: Workers = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="A running Dask scheduler, tcp://...")] = None,
    overwrite: Overwrite = False,
    summary: Annotated[
        Path | None, typer.Option("--summary", help="Write a table of the slides: .csv or .json.")
    ] = None,
    json: Json = False,
) -> None:
    """Cut slides into tile stores (OME-Zarr), one per slide."""
    from cli.console import one_line_errors, run_stage
    from wsi.cohort.summary_table import check_summary_path, write_summary
    from wsi.errors import RequestError
    from wsi.tiling.tiler import TileOptions
    from wsi.tiling.tiler import tile as run

    with one_line_errors():
        if summary:
            check_summary_path(summary)
        if background not in {"drop", "keep"}:
            raise RequestError(f"--background {background}: expected drop or keep")
        options = TileOptions(
            slides=tuple(slides or ()),
            out=out,
            manifest=manifest,
            target_mpp=mpp,
            tile_px=int(tile_px) if tile_px.isdecimal() else tile_px,
            codec=codec,
            downscale=downscale,
            min_tissue=min_tissue,
            keep_background=background == "keep",
            assume_mpp=assume_mpp,
            on_damage=on_damage,
            roi=roi,
            roi_mode=roi_mode,
            roi_class=tuple(roi_class or ()),
            fill_holes=fill_holes,
            drop=tuple(drop or ()),
            scores=scores,
            reader=reader,
            scene=scene,
            icc=icc,
            workers=workers,
            scheduler=scheduler,
            overwrite=overwrite,
        )
    run_stage(lambda progress: run(options, progress), json_output=json, table=write_summary, path=summary)

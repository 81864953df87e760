"""`gigamil heatmap`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Overwrite


def heatmap(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `gigamil train`.")],
    bags: Annotated[Path, typer.Argument(help="A bag (.h5), or a folder of bags.")],
    stores: Annotated[Path, typer.Argument(help="A tile store (.zarr), or a folder of stores.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for <image_id>.png and <image_id>.csv.")],
    image_id: Annotated[list[str] | None, typer.Option("--image-id", help="Slides to draw, by name.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Draw every slide that has a bag and a store.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes that draw side by side.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw where the model looked: attention over the slide, the tiles it looked at most, and a table.

    Without --image-id or --all: the slides of most interest, up to a dozen: of each class the surest right one, the
    surest wrong one and the least sure one, then more of these in turns.
    """
    from cli.console import one_line_errors, run_stage
    from mil.inference.heatmap import HeatmapOptions
    from mil.inference.heatmap import heatmap as run

    with one_line_errors():
        options = HeatmapOptions(
            run=run_folder,
            bags=(bags,),
            stores=(stores,),
            out=out,
            image_ids=tuple(image_id or ()),
            everything=everything,
            jobs=jobs,
            device=device,
            overwrite=overwrite,
        )
    run_stage(lambda progress: run(options, progress), json_output=json)

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
    image_id: Annotated[list[str] | None, typer.Option("--image-id", help="Slides to draw; default: all.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw where the model looked: attention over the slide, the tiles it looked at most, and a table."""
    from cli.console import one_line_errors, run_stage
    from mil.explain import HeatmapOptions
    from mil.explain import heatmap as run

    with one_line_errors():
        options = HeatmapOptions(
            run=run_folder,
            bags=(bags,),
            stores=(stores,),
            out=out,
            image_ids=tuple(image_id or ()),
            device=device,
            overwrite=overwrite,
        )
    run_stage(lambda progress: run(options, progress), json_output=json)

"""`gigamil export`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Overwrite


def export(
    item: Annotated[str, typer.Argument(help="A tile store (*.zarr); s3:// too.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file or folder to make.")],
    ome_zarr: Annotated[
        bool, typer.Option("--ome-zarr-0.4", help="OME-Zarr 0.4 (zarr v2), which QuPath and OMERO read.")
    ] = False,
    ome_tiff: Annotated[
        bool, typer.Option("--ome-tiff", help="A pyramidal OME-TIFF, which every pathology viewer opens.")
    ] = False,
    compression: Annotated[
        str, typer.Option("--compression", help="Of an OME-TIFF: auto (never loses a bit), deflate, zstd or jpeg.")
    ] = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a tile store in a form that other programs read; label and macro images never leave with it."""
    from cli.console import one_line_errors, run_stage
    from wsi.errors import RequestError
    from wsi.export.ome_tiff import OmeTiffOptions, export_ome_tiff
    from wsi.export.ome_zarr import OmeZarrOptions, export_ome_zarr

    with one_line_errors():
        if _kind(item) != "store":
            raise RequestError(f"{item}: expected a tile store (*.zarr), found a {_kind(item)}: it has no such export")
        if ome_zarr == ome_tiff:
            raise RequestError("give one of --ome-zarr-0.4 and --ome-tiff")
        zarr_options = OmeZarrOptions(store=item, out=out, overwrite=overwrite) if ome_zarr else None
        tiff_options = (
            OmeTiffOptions(store=item, out=out, compression=compression, overwrite=overwrite) if ome_tiff else None
        )
    if zarr_options:
        run_stage(lambda progress: export_ome_zarr(zarr_options, progress), json_output=json)
    if tiff_options:
        run_stage(lambda progress: export_ome_tiff(tiff_options, progress), json_output=json)


def _kind(item: str) -> str:
    """Tell what is to be exported: a store, a bag, or a run."""
    path = Path(item)
    if item.rstrip("/").endswith(".zarr"):
        return "store"
    if path.suffix == ".h5":
        return "bag"
    return "run" if (path / "config.toml").is_file() else "file of unknown kind"

"""`gigamil export`."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, Overwrite


def export(
    item: Annotated[str, typer.Argument(help="A tile store (*.zarr; s3:// too), bags, or a run.")],
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
    stamp: Annotated[bool, typer.Option("--stamp", help="Of bags: in the form that STAMP reads.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Of a run: its models as ONNX.")] = False,
    torch_export: Annotated[bool, typer.Option("--torch-export", help="Of a run: as torch.export files.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Of a run: as ONNX with 8-bit weights; wants --bags.")] = False,
    prune: Annotated[
        float | None, typer.Option("--prune", metavar="SHARE", help="Of a run: smallest weights at 0; wants --bags.")
    ] = None,
    bags: Annotated[
        list[Path] | None, typer.Option("--bags", help="The run's bags: AUC, time and size before and after.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a tile store, bags or the models of a run in a form that other programs read.

    Label and macro images never leave with a store.
    """
    from cli.console import one_line_errors, run_stage
    from wsi.errors import RequestError
    from wsi.export.ome_tiff import OmeTiffOptions, export_ome_tiff
    from wsi.export.ome_zarr import OmeZarrOptions, export_ome_zarr

    if _kind(item) == "run":
        from mil.inference.export import RunExportOptions, export_run

        with one_line_errors():
            run_options = RunExportOptions(
                run=Path(item),
                out=out,
                onnx=onnx,
                torch_export=torch_export,
                int8=int8,
                prune=prune,
                bags=tuple(bags or ()),
                overwrite=overwrite,
            )
        run_stage(lambda progress: export_run(run_options, progress), json_output=json)
        return
    if _kind(item) == "bags" and stamp:
        from features.bags.stamp import StampOptions, export_stamp

        stamp_options = StampOptions(bags=(Path(item),), out=out, overwrite=overwrite)
        run_stage(lambda progress: export_stamp(stamp_options, progress), json_output=json)
        return
    with one_line_errors():
        if _kind(item) == "bags":
            raise RequestError(
                f"{item}: bags are exported with --stamp; CLAM, TRIDENT and torchmil read them as they are"
            )
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
    """Tell what is to be exported: a store, bags, or a run."""
    path = Path(item)
    if item.rstrip("/").endswith(".zarr"):
        return "store"
    if path.suffix == ".h5" or (path.is_dir() and any(path.glob("*.h5"))):
        return "bags"
    return "run" if (path / "config.toml").is_file() else "file of unknown kind"

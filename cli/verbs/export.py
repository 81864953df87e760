"""`gigamil export`: a store, bags or a run, each in the forms that it has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mil.heatmaps.options import GeojsonForms
from mil.inference.options import RunForms
from wsi.errors import RequestError
from wsi.export.options import Compression, Recoding
from wsi.option_groups import Claims, Overwriting
from wsi.options import Option, check, shared, stage
from wsi.progress.outcome import Progress, Summary


@dataclass(frozen=True, kw_only=True)
class StoreForms(Compression, Recoding):
    """Of a tile store."""

    ome_zarr: Annotated[bool, Option(name="ome-zarr-0.4")] = False
    """OME-Zarr 0.4 (zarr v2), which QuPath and OMERO read."""
    ome_zarr_05: Annotated[bool, Option(name="ome-zarr-0.5")] = False
    """The store once more with chunks that every reader of zarr v3 decodes, in place of JPEG."""
    ome_tiff: bool = False
    """A pyramidal OME-TIFF, which every pathology viewer opens."""


@dataclass(frozen=True, kw_only=True)
class BagForms:
    """Of bags."""

    stamp: bool = False
    """In the form that STAMP reads."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(StoreForms, BagForms, RunForms, GeojsonForms, Overwriting, Claims):
    """What to export, in which form."""

    item: Annotated[str, Option(argument="ITEM", remote="streamed")]
    """A tile store (*.zarr; s3:// too), bags, or a run."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """The file or folder to make."""

    def __post_init__(self) -> None:
        check(self)


@stage
def export(options: ExportOptions, progress: Progress) -> Summary:
    """Write a tile store, bags, the models of a run or its scores in a form that other programs read."""
    item, kind = Path(options.item), _kind(options.item)
    if kind == "run" and options.geojson:
        return _scores(item, options, progress)
    if kind == "run":
        from mil.inference.options import RunExportOptions
        from mil.inference.portable.export import export_run

        return export_run(RunExportOptions(run=item, **shared(RunExportOptions, options)), progress)
    if kind == "bags":
        from features.bags.options import StampOptions
        from features.bags.stamp import export_stamp

        if not options.stamp:
            raise RequestError(
                f"{item}: bags are exported with --stamp; CLAM, TRIDENT and torchmil read them as they are"
            )
        return export_stamp(StampOptions(**shared(StampOptions, options) | {"bags": (item,)}), progress)
    if kind != "store":
        raise RequestError(f"{item}: expected a tile store (*.zarr), found a {kind}: it has no such export")
    if options.ome_zarr + options.ome_zarr_05 + options.ome_tiff != 1:
        raise RequestError("give one of --ome-zarr-0.4, --ome-zarr-0.5 and --ome-tiff")
    if options.ome_zarr_05:
        from wsi.export.options import RecodedOptions
        from wsi.export.recoded import export_recoded

        return export_recoded(RecodedOptions(store=options.item, **shared(RecodedOptions, options)), progress)
    if options.ome_zarr:
        from wsi.export.ome_zarr import export_ome_zarr
        from wsi.export.options import OmeZarrOptions

        return export_ome_zarr(OmeZarrOptions(store=options.item, **shared(OmeZarrOptions, options)), progress)
    from wsi.export.ome_tiff import export_ome_tiff
    from wsi.export.options import OmeTiffOptions

    return export_ome_tiff(OmeTiffOptions(store=options.item, **shared(OmeTiffOptions, options)), progress)


def _scores(run: Path, options: ExportOptions, progress: Progress) -> Summary:
    from mil.heatmaps.geojson import export_geojson
    from mil.heatmaps.options import GeojsonOptions

    if options.onnx or options.torch_export or options.int8 or options.prune is not None:
        raise RequestError("--geojson is about slides, --onnx, --torch-export, --int8 and --prune about the models")
    return export_geojson(GeojsonOptions(run=run, **shared(GeojsonOptions, options)), progress)


def _kind(item: str) -> str:
    """Tell what is to be exported: a store, bags, or a run."""
    path = Path(item)
    if item.rstrip("/").endswith(".zarr"):
        return "store"
    if path.suffix == ".h5" or (path.is_dir() and any(path.glob("*.h5"))):
        return "bags"
    return "run" if (path / "config.toml").is_file() else "file of unknown kind"

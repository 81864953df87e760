"""What exports of tile stores can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from wsi.errors import RequestError
from wsi.option_groups import Claims, Overwriting
from wsi.options import Option, at_least, check


@dataclass(frozen=True, kw_only=True)
class StoreExport(Overwriting, Claims):
    """What to export, and where to."""

    store: Annotated[str | Path, Option(remote="streamed")]
    """A tile store (*.zarr; s3:// too)."""
    out: Annotated[Path, Option(remote="output")]
    """The file or folder to make."""
    threads: Annotated[int | None, at_least(1)] = None
    """Tiles made at once; otherwise one per usable CPU."""


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Of a tile store."""

    compression: Literal["auto", "deflate", "zstd", "jpeg"] = "auto"
    """Of an OME-TIFF: auto (JPEG tiles copied, else deflate: never loses a bit), deflate, zstd (black in a libvips that
    was built without it) or jpeg."""


@dataclass(frozen=True, kw_only=True)
class OmeTiffOptions(StoreExport, Compression):
    """Options of `wsi.export.ome_tiff.export_ome_tiff`."""

    def __post_init__(self) -> None:
        check(self)
        if not self.out.name.lower().endswith((".ome.tiff", ".ome.tif")):
            raise RequestError(f"--out {self.out}: expected a name that ends in .ome.tiff")


@dataclass(frozen=True, kw_only=True)
class OmeZarrOptions(StoreExport):
    """Options of `wsi.export.ome_zarr.export_ome_zarr`."""

    def __post_init__(self) -> None:
        check(self)
        if self.out.suffix != ".zarr":
            raise RequestError(f"--out {self.out}: expected a name that ends in .zarr")


@dataclass(frozen=True, kw_only=True)
class Recoding:
    """Of a tile store."""

    codec: Literal["zstd"] = "zstd"
    """Of an OME-Zarr 0.5: zstd, without loss, which every reader of zarr v3 decodes; about five times JPEG's size."""


@dataclass(frozen=True, kw_only=True)
class RecodedOptions(StoreExport, Recoding):
    """Options of `wsi.export.recoded.export_recoded`."""

    def __post_init__(self) -> None:
        check(self)
        if self.out.suffix != ".zarr":
            raise RequestError(f"--out {self.out}: expected a name that ends in .zarr")

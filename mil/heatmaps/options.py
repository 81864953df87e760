"""What can be asked of heat maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from features.option_groups import Device
from mil.options import Run, SideBySide
from wsi.errors import RequestError
from wsi.option_groups import Claims, Factor, Overwriting
from wsi.options import Option, check

Scale = Literal["factor", "rank", "absolute"]
Share = Annotated[float, Option(least=0, most=1)]


@dataclass(frozen=True, kw_only=True)
class WithTissue:
    """What stands out."""

    least_tissue: Share = 0.25
    """Tiles with a smaller share of tissue stay uncoloured and are not among the top tiles; 0: none do."""


@dataclass(frozen=True, kw_only=True)
class Shown(WithTissue):
    """What is coloured, and how."""

    scale: Scale = "factor"
    """Of attention: factor (times the slide's mean, by powers of two), rank (percentile within the slide), or absolute
    (share of the slide's attention)."""
    classes: Annotated[tuple[str, ...], Option(name="class")] = ()
    """A class (label, value, risk): a map of which tiles push towards it, and which away, is drawn as well."""
    disagreement: bool = False
    """Also draw how far the models are apart, where more than one may be asked about the slide."""


@dataclass(frozen=True, kw_only=True)
class HeatmapOptions(Run, Shown, SideBySide, Device, Overwriting, Claims):
    """Options of `mil.heatmaps.heatmap.heatmap`."""

    bags: Annotated[tuple[Path, ...], Option(argument="BAGS", one=True)]
    """A bag (.h5), or a folder of bags."""
    stores: Annotated[tuple[Path, ...], Option(argument="STORES", one=True, remote="streamed")]
    """A tile store (.zarr), or a folder of stores."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """Folder for <image_id>.png and <image_id>.csv."""
    image_ids: Annotated[tuple[str, ...], Option(name="image-id")] = ()
    """A slide to draw; otherwise those of most interest."""
    everything: Annotated[bool, Option(name="all")] = False
    """Draw every slide that has a bag and a store."""
    ome_zarr: bool = False
    """Also write the scores as an image, <image_id>.scores.zarr (OME-Zarr 0.5), which viewers lay over the slide."""

    def __post_init__(self) -> None:
        check(self)
        if not self.bags or not self.stores:
            raise RequestError("expected one or more bags and one or more tile stores")
        if self.everything and self.image_ids:
            raise RequestError("--all and --image-id exclude each other: draw every slide, or those named")


@dataclass(frozen=True, kw_only=True)
class GeojsonForms(WithTissue):
    """Of a run, for QuPath: scores of tiles."""

    geojson: bool = False
    """A GeoJSON for each slide of --bags and --stores: every tile with its scores, and regions of most attention."""
    stores: Annotated[tuple[Path, ...], Option(remote="streamed")] = ()
    """Tile stores (.zarr) of the slides, or folders of them."""
    image_ids: Annotated[tuple[str, ...], Option(name="image-id")] = ()
    """A slide to export; otherwise each that has a bag and a store."""
    top_share: Factor = 0.05
    """Share of tiles, those of most attention above the slide's mean, of which regions are made."""


@dataclass(frozen=True, kw_only=True)
class GeojsonOptions(GeojsonForms, Run, Device, Overwriting, Claims):
    """Options of `mil.heatmaps.geojson.export_geojson`."""

    bags: tuple[Path, ...]
    """Bags (.h5) of the slides, or folders of them."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """Folder for <image_id>.geojson."""

    def __post_init__(self) -> None:
        check(self)
        if not self.bags or not self.stores:
            raise RequestError("--geojson wants --bags and --stores of the slides")

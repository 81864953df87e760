"""What can be asked of heat maps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from features.option_groups import Device
from mil.options import Run, SideBySide
from wsi.errors import RequestError
from wsi.option_groups import Claims, Overwriting
from wsi.options import Option, check


@dataclass(frozen=True, kw_only=True)
class HeatmapOptions(Run, SideBySide, Device, Overwriting, Claims):
    """Options of `mil.heatmaps.heatmap.heatmap`."""

    bags: Annotated[tuple[Path, ...], Option(argument="BAGS", one=True)]
    """A bag (.h5), or a folder of bags."""
    stores: Annotated[tuple[Path, ...], Option(argument="STORES", one=True)]
    """A tile store (.zarr), or a folder of stores."""
    out: Annotated[Path, Option(short="-o")]
    """Folder for <image_id>.png and <image_id>.csv."""
    image_ids: Annotated[tuple[str, ...], Option(name="image-id")] = ()
    """A slide to draw; otherwise those of most interest."""
    everything: Annotated[bool, Option(name="all")] = False
    """Draw every slide that has a bag and a store."""

    def __post_init__(self) -> None:
        check(self)
        if not self.bags or not self.stores:
            raise RequestError("expected one or more bags and one or more tile stores")
        if self.everything and self.image_ids:
            raise RequestError("--all and --image-id exclude each other: draw every slide, or those named")

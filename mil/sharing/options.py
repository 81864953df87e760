"""What sharing can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from wsi.errors import RequestError
from wsi.option_groups import Claims, Manifest, Overwriting
from wsi.options import Option, check

Form = Literal["stores", "bags", "ome-tiff", "pages", "heatmaps", "predictions", "annotations"]


@dataclass(frozen=True, kw_only=True)
class ShareOptions(Manifest, Overwriting, Claims):
    """What goes into the bundle."""

    items: Annotated[tuple[Path, ...], Option(argument="STORES|RUN", remote="streamed")]
    """Tile stores (*.zarr) or folders of them; or a run, with its --stores and --bags."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """The folder to make."""
    forms: Annotated[tuple[Form, ...], Option(name="as", commas=True)] = ()
    """In which forms, with commas between them; otherwise stores, and of a run pages and predictions."""
    stores: Annotated[tuple[Path, ...], Option(remote="streamed")] = ()
    """Of a run: its tile stores, or folders of them."""
    bags: tuple[Path, ...] = ()
    """Bags (.h5), or folders of them."""
    annotations: Path | None = None
    """Folder of GeoJSON files, <image_id>.geojson."""
    keep: Annotated[tuple[str, ...], Option(commas=True)] = ()
    """Columns of the cohort table that go with the bundle, such as label; centers are numbered anew."""
    keep_texts: bool = False
    """Keep names, classes and notes of annotations as they stand there. Look at them first."""
    no_icc: bool = False
    """Leave out the ICC profiles, too; otherwise they go without their texts."""
    key: Annotated[Path | None, Option(remote="local")] = None
    """CSV of old and new ids to write, outside --out; one that is there is used again, and grows."""

    def __post_init__(self) -> None:
        check(self)
        if not self.items:
            raise RequestError("expected tile stores or a run, found none")
        if self.keep and self.manifest is None:
            raise RequestError("--keep names columns of a cohort table: give --manifest, too")

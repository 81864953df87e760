"""What pages and the viewer can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from features.option_groups import Device
from wsi.errors import RequestError
from wsi.option_groups import Claims, Overwriting, Workers
from wsi.options import Option, check

Share = Annotated[float, Option(least=0, most=1)]


@dataclass(frozen=True, kw_only=True)
class PageOptions(Workers, Device, Overwriting, Claims):
    """Options of `mil.viewing.page.page`."""

    items: Annotated[tuple[Path, ...], Option(argument="[RUN] [STORES...]")]
    """Run folder of `gigamil train`; tile stores (.zarr; s3:// too), or folders of them."""
    stores: tuple[Path, ...] = ()
    """Tile stores, as behind the run."""
    bags: tuple[Path, ...] = ()
    """Of a run: the slides' bags, to lay over them where the model looked; without, predictions alone are shown."""
    out: Annotated[Path | None, Option(short="-o")] = None
    """Folder to write; otherwise `pages` inside the run, where its report looks for it."""
    image_ids: Annotated[tuple[str, ...], Option(name="image-id")] = ()
    """A slide to show; otherwise every one that has a store."""
    least_tissue: Share = 0.25
    """Tiles with a smaller share of tissue stay uncoloured and are not among the top tiles; 0: none do."""
    dry_run: bool = False
    """Tell how many files and MB it would be, and write nothing."""

    def __post_init__(self) -> None:
        check(self)
        if not self.items and not self.stores:
            raise RequestError("expected a run or tile stores, found none")

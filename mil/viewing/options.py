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

    items: Annotated[tuple[str | Path, ...], Option(argument="ITEMS...", remote="streamed")]
    """Tile stores (.zarr; s3:// too), or folders of them; a run with its stores and bags; a folder that holds such
    folders."""
    stores: Annotated[tuple[str | Path, ...], Option(remote="streamed")] = ()
    """Tile stores, as among the items."""
    bags: tuple[Path, ...] = ()
    """Bags of the slides, as among the items; without, a run's predictions are shown, and not where it looked."""
    out: Annotated[Path | None, Option(short="-o", remote="output")] = None
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

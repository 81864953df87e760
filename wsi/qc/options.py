"""What looking at slides and stores can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from wsi.errors import RequestError
from wsi.option_groups import Claims, Manifest, Reading, WantedMpp
from wsi.options import Option, check


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Reading, Manifest):
    """What `wsi.qc.info.describe_all` looks at."""

    slides: Annotated[tuple[Path, ...], Option(argument="[SLIDES]...")] = ()
    """Slides, or folders of slides."""
    target_mpp: Annotated[WantedMpp, Option(name="mpp")] = 0.5
    """um/px that tiling would ask for."""
    verify: bool = False
    """Decode every tile of every level and count the damaged ones."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class QcOptions(Claims):
    """What `wsi.qc.sheet.qc` is to do."""

    stores: Annotated[tuple[Path | str, ...], Option(argument="STORES...", remote="streamed")]
    """Tile stores, or folders of them."""
    out: Annotated[Path, Option(short="-o", remote="output")] = Path("qc")
    """Folder for qc.html and qc.png."""

    def __post_init__(self) -> None:
        check(self)
        if not self.stores:
            raise RequestError("no store is given: expected tile stores, or folders of them")

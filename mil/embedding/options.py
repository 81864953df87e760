"""What embedding can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from features.option_groups import Device, Weights
from wsi.option_groups import Claims, Overwriting
from wsi.options import Option, check


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(Weights, Device, Overwriting, Claims):
    """Options of `mil.embedding.embed.embed`."""

    bags: Annotated[tuple[Path, ...], Option(argument="BAGS...")]
    """Bags of tiles (.h5), or folders of them."""
    out: Annotated[Path, Option(short="-o")]
    """Folder of the bags of one row; made when missing."""
    encoder: str = "mean"
    """mean, mean-std, max; chief, feather, gigapath, ... (gigamil encoders lists them); or the folder of a run."""
    fold: Annotated[int | None, Option(least=0)] = None
    """Of a run: only the models that have not seen this fold's patients; for train --fusion folds."""
    off_recipe: bool = False
    """Embed tiles of a size or um/px that the slide encoder was not made for."""

    def __post_init__(self) -> None:
        check(self)
        self.start()

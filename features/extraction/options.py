"""What an extraction can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from features.option_groups import JOINED, Precision, Prefetching, Ranks, Weights
from wsi.errors import RequestError
from wsi.option_groups import Claims, Count, Overwriting, Stalls
from wsi.options import Option, check
from wsi.recipe import Recipe

if TYPE_CHECKING:
    from features.selection import Selection


@dataclass(frozen=True, kw_only=True)
class _Encoding:
    """The encoder."""

    encoder: str | tuple[str, ...] = "texture"
    """texture (no download), uni, timm:<model>, ...; of several, each gets a folder of bags; a+b: joined in one bag."""
    concat: bool = False
    """Several encoders' features side by side in one bag, not a folder for each."""
    off_recipe: bool = False
    """Encode tiles of a um/px that the encoder was not made for."""
    crop: bool = False
    """Enlarge tiles and cut out their middle where the encoder's own transform does (crop_pct of timm's models)."""
    compiled: Annotated[bool, Option(name="compile")] = False
    """Let torch.compile make kernels for the encoder: slow to start, numbers may differ in the last digits."""
    channels_last: bool = True
    """Keep tensors as (N, H, W, C) in memory, which convolutions are faster in."""
    batch_size: Count = 64
    """Tiles that go through the encoder together."""


@dataclass(frozen=True, kw_only=True)
class _Tiles:
    """Which tiles, and how they are shown."""

    select: Literal["all", "darkness", "tissue", "texture", "random"] = "all"
    """Which tiles: all, or as many as --tiles-per-slide says by darkness, tissue or texture or at random."""
    tiles_per_slide: int = 0
    """How many, with --select."""
    select_seed: Annotated[int, Option(name="seed")] = 0
    """Of --select random."""
    stain: Literal["none", "background", "reinhard", "macenko"] = "none"
    """How colours are made alike, by each slide's own tiles."""
    views: Literal["none", "flips", "d4", "colour"] = "none"
    """Mean over views of each tile."""
    keep_views: bool = False
    """A row for each view in place of their mean; a tile's rows follow each other, with the same coordinates."""


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(_Encoding, Weights, _Tiles, Precision, Ranks, Stalls, Prefetching, Overwriting, Claims):
    """What to extract, with which encoder, and how."""

    stores: Annotated[tuple[Path, ...], Option(argument="STORES...", remote="streamed")]
    """Tile stores (*.zarr), or folders that hold them."""
    out: Annotated[Path, Option(short="-o", remote="items")] = Path("bags")
    """Folder of the bags; made when missing."""
    bag_dtype: Literal["float16", "float32"] = "float16"
    """Of the features in the bags; float32 for an encoder whose features go beyond 65504."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise RequestError("expected at least one tile store or folder of stores, found none")
        check(self)
        self.start()
        if self.keep_views and self.views == "none":
            raise RequestError("--keep-views: expected --views flips, d4 or colour with it")
        _ = self.selection

    @property
    def joined(self) -> str:
        """Return the encoders' names as one."""
        return self.encoder if isinstance(self.encoder, str) else JOINED.join(self.encoder)

    @property
    def separate(self) -> bool:
        """Return whether each of several encoders gets a folder of bags; tiles are read once for all."""
        return not isinstance(self.encoder, str) and len(self.encoder) > 1 and not self.concat

    @property
    def selection(self) -> "Selection":
        """Return which tiles are encoded."""
        from features.selection import Selection

        return Selection(self.select, self.tiles_per_slide, self.select_seed)


def folder_name(encoder: str) -> str:
    """Return the folder of an encoder's bags where several encoders make bags: its name without ``:`` and ``/``."""
    return encoder.replace(":", "-").replace("/", "-")


def options_of(recipe: Recipe) -> dict[str, Any]:
    """Return the options of `ExtractOptions` that make bags of a recipe, but for the weights."""
    select, views = recipe.get("select", {}), recipe.get("views", {})
    encoders = [recipe["encoder"], *recipe["encoder"].get("members", ())]
    return {
        "encoder": str(recipe["encoder"]["name"]),
        "precision": str(recipe["precision"]),
        "select": select.get("by", "all"),
        "tiles_per_slide": select.get("tiles", 0),
        "select_seed": select.get("seed", 0),
        "stain": recipe.get("stain", "none"),
        "views": views.get("kind", "none"),
        "keep_views": views.get("kept", False),
        "crop": any("crop_pct" in own for own in encoders),
        "bag_dtype": str(recipe.get("bag_dtype", "float16")),
    }

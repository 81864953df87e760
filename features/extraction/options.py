"""What an extraction can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.encoders.device import AUTO, PRECISIONS
from features.encoders.registry import JOINED
from features.encoders.spec import WeightsChoice
from features.selection import Selection
from features.stain import check_stain
from features.views import check_views
from wsi.errors import RequestError
from wsi.recipe import Recipe

BAG_DTYPES = ("float16", "float32")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractOptions:
    """What to extract, with which encoder, and how."""

    stores: tuple[Path, ...]
    """Tile stores, or folders that hold them."""
    out: Path
    """Folder of the bags."""
    encoder: str = "texture"
    """``texture``, ``uni``, ``timm:<model>``, ...; several joined by ``+``; `features.encoders.spec`."""
    separate: bool = False
    """Encoders joined by ``+`` each get a folder of bags in place of joint bags; tiles are read once for all."""
    off_recipe: bool = False
    """Encode tiles of a um/px that the encoder was not made for."""
    compiled: bool = False
    """Let torch.compile make kernels for the encoder: slow to start, numbers may differ in the last digits."""
    weights: Path | None = None
    """Local state dict in place of the published weights."""
    random_weights: int | None = None
    """Seed of random weights: untrained features, for trials."""
    crop: bool = False
    """Enlarge tiles and cut out their middle where the encoder's own transform does (crop_pct of timm's models)."""
    channels_last: bool = True
    """Keep tensors as (N, H, W, C) in memory, which convolutions are faster in."""
    select: str = "all"
    """Which tiles: ``all``, or ``tiles_per_slide`` by ``darkness``, ``tissue``, ``texture`` or at ``random``."""
    tiles_per_slide: int = 0
    select_seed: int = 0
    stain: str = "none"
    """Colours: ``none``, ``background``, ``reinhard``, ``macenko``; `features.stain`."""
    views: str = "none"
    """Test-time views: ``none``, ``flips``, ``d4``, ``colour``; `features.views`."""
    keep_views: bool = False
    """A row for each view in place of their mean; a tile's rows follow each other, with the same coordinates."""
    batch_size: int = 64
    """Tiles that go through the encoder together."""
    precision: str = AUTO
    """``fp32``, ``bf16``, ``fp16``; auto: fp32 on a CPU, the GPU's own half precision there."""
    device: str = AUTO
    """``cpu``, ``cuda``, ``cuda:<n>``; auto: a GPU where there is one."""
    nproc: int = 1
    """Processes on this machine."""
    prefetch_mib: int = 512
    """Memory for pixels under way, per process."""
    bag_dtype: str = "float16"
    """Of the features in the bags: ``float16``, or ``float32`` for an encoder whose features go beyond 65504."""
    overwrite: bool = False
    """Replace bags that were made with other settings."""

    def __post_init__(self) -> None:
        if not self.stores:
            raise RequestError("expected at least one tile store or folder of stores, found none")
        for name in ("batch_size", "nproc", "prefetch_mib"):
            if getattr(self, name) < 1:
                raise RequestError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 1 or more")
        if self.precision not in (AUTO, *PRECISIONS):
            raise RequestError(f"--precision {self.precision}: expected auto, {', '.join(PRECISIONS)}")
        if self.bag_dtype not in BAG_DTYPES:
            raise RequestError(f"--bag-dtype {self.bag_dtype}: expected {' or '.join(BAG_DTYPES)}")
        WeightsChoice(self.weights, self.random_weights)
        check_stain(self.stain)
        check_views(self.views)
        if self.keep_views and self.views == "none":
            raise RequestError("--keep-views: expected --views flips, d4 or colour with it")
        _ = self.selection
        if self.separate and JOINED not in self.encoder:
            raise RequestError(f"--encoder {self.encoder}: expected several encoders, joined by {JOINED}")

    @property
    def selection(self) -> Selection:
        """Return which tiles are encoded."""
        return Selection(self.select, self.tiles_per_slide, self.select_seed)

    def recipe(self) -> dict[str, Any]:
        """Return what the user chose that shapes the bags; a bag's recipe adds the encoder's and the store's facts."""
        return {"encoder": self.encoder, "precision": self.precision, "random_weights": self.random_weights}


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

"""What is known of a published encoder: its architecture, its arguments, its input and its licence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)
NON_COMMERCIAL = "CC-BY-NC-ND-4.0"
APACHE = "Apache-2.0"
SEE_CARD = "see its card"

Feature = Literal["pooled", "class", "class_and_mean", "conch", "conch_v1_5", "keep"]
FEATURES: Mapping[Feature, str] = {
    "pooled": "the model's pooled one",
    "class": "class token",
    "class_and_mean": "class token, mean of patch tokens",
    "conch": "contrastive attention pool before its projection, not normalised",
    "conch_v1_5": "contrastive attention pool, not normalised",
    "keep": "class token through the projection to the text, length 1",
}
"""What a feature vector is made of; `features.encoders.published.poolers` makes it."""
Positions = Literal["", "bilinear", "dino"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One published encoder."""

    hub: str
    """Repository on the Hugging Face hub."""
    hub_file: str = ""
    """Its file, where the repository is none of timm's: loaded by `features.encoders.published.key_maps`."""
    model: str
    """timm's name of the architecture."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What is given to `timm.create_model`."""
    named_layers: Mapping[str, str] = field(default_factory=dict)
    """Arguments that are classes: argument -> ``module:Class``; looked up when the model is built."""
    feature: Feature = "pooled"
    """One of `FEATURES`."""
    unused: tuple[str, ...] = ()
    """Beginnings of keys in the authors' file that make no tile feature: text towers, further heads."""
    positions: Positions = ""
    """How the authors enlarge position embeddings of another grid when they load them; empty: they do not."""
    dim: int
    input_px: int = 224
    resize_px: int | None = None
    """Tiles are first resized to this, then their middle is cut to ``input_px``; None: resized to ``input_px``."""
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    interpolation: str = "bicubic"
    mpps: tuple[float, ...] = (0.5,)
    """um/px of the tiles it was made for; empty for encoders of everyday photographs."""
    licence: str
    gated: bool
    """The hub asks for an account that has accepted the terms."""
    source: str
    """The publication."""

    @property
    def needs(self) -> str:
        """What must be had before the weights can be fetched; a local file by ``--weights`` needs nothing."""
        return "an account that accepted the terms" if self.gated else "a download"

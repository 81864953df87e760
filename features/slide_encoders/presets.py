"""Published slide encoders by name: what their authors say of them. Nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from features.encoders.published.preset import APACHE, NON_COMMERCIAL

Network = Literal["chief", "feather", "madeleine", "longnet-768", "longnet-384"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidePreset:
    """One published slide encoder."""

    network: Network
    tiles_dim: int
    dim: int
    hub: str = ""
    """Repository on the Hugging Face hub; empty where the authors give the weights elsewhere."""
    hub_file: str = ""
    tile_encoders: tuple[str, ...]
    """The tile encoder that it was made for: our name, then those of TRIDENT and its like."""
    mpp: float
    tile_um: float
    placed: bool = False
    """Whether it looks where on the slide each tile lies."""
    licence: str
    gated: bool
    source: str

    @property
    def needs(self) -> str:
        """What must be had before the weights can be fetched."""
        if not self.hub:
            return "its file (--weights)"
        return "an account that accepted the terms" if self.gated else "a download"


_CONCH_1_5 = ("conch-v1.5", "conch_v15")
_UNI2 = ("uni2-h", "uni_v2")
_SHAO = "Shao et al., ICML 2025, arXiv 2506.09022"
_XU = "Xu et al., Nature 2024, doi 10.1038/s41586-024-07441-w"
SLIDE_PRESETS: Mapping[str, SlidePreset] = {
    "chief": SlidePreset(
        network="chief", tiles_dim=768, dim=512, tile_encoders=("ctranspath",), mpp=1.0, tile_um=256.0, gated=False,
        licence="AGPL-3.0, non-commercial", source="Wang et al., Nature 2024, doi 10.1038/s41586-024-07894-z",
    ),
    "madeleine": SlidePreset(
        network="madeleine", tiles_dim=512, dim=512, hub="MahmoodLab/madeleine", hub_file="model.pt",
        tile_encoders=("conch", "conch_v1"), mpp=1.0, tile_um=256.0, licence=NON_COMMERCIAL, gated=True,
        source="Jaume et al., ECCV 2024, arXiv 2408.02859",
    ),
    "feather": SlidePreset(
        network="feather", tiles_dim=768, dim=512, hub="MahmoodLab/abmil.base.conch_v15.pc108-24k",
        hub_file="model.safetensors", tile_encoders=_CONCH_1_5, mpp=0.5, tile_um=256.0, licence=NON_COMMERCIAL,
        gated=True, source=_SHAO,
    ),
    "feather-uni": SlidePreset(
        network="feather", tiles_dim=1024, dim=512, hub="MahmoodLab/abmil.base.uni.pc108-24k",
        hub_file="model.safetensors", tile_encoders=("uni", "uni_v1"), mpp=0.5, tile_um=128.0, licence=NON_COMMERCIAL,
        gated=True, source=_SHAO,
    ),
    "feather-uni2": SlidePreset(
        network="feather", tiles_dim=1536, dim=512, hub="MahmoodLab/abmil.base.uni_v2.pc108-24k",
        hub_file="model.safetensors", tile_encoders=_UNI2, mpp=0.5, tile_um=128.0, licence=NON_COMMERCIAL, gated=True,
        source=_SHAO,
    ),
    "gigapath": SlidePreset(
        network="longnet-768", tiles_dim=1536, dim=768, hub="prov-gigapath/prov-gigapath", hub_file="slide_encoder.pth",
        tile_encoders=("gigapath",), mpp=0.5, tile_um=128.0, placed=True, licence=APACHE, gated=True, source=_XU,
    ),
    "gigapath-flash": SlidePreset(
        network="longnet-384", tiles_dim=384, dim=384, hub="prov-gigapath/prov-gigapath-flash",
        hub_file="slide_encoder.pth", tile_encoders=("gigapath-flash",), mpp=0.5, tile_um=128.0, placed=True,
        licence=APACHE, gated=True, source=_XU,
    ),
}  # fmt: skip
UNSUPPORTED: Mapping[str, str] = {
    "titan": "its network is published as code of its repository alone, which is never run here",
    "prism": "its network is published as code of its repository alone, which is never run here",
    "threads": "its weights are not published",
}
"""Slide encoders that are asked for and cannot be had, and why."""

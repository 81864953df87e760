"""Published pathology encoders, with the exact arguments, pooling and recommended um/px of their public cards.

Every one is an architecture of timm, so that local files of weights load without a network. What needs code of its own
(CONCH, Hibou, MUSK, TITAN) is left to packages that register it by the entry-point group of `features.encoders.spec`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)
NON_COMMERCIAL = "CC-BY-NC-ND-4.0"
OWKIN = "Owkin non-commercial"
SEE_CARD = "see its card"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One published encoder."""

    hub: str
    """Repository on the Hugging Face hub."""
    model: str
    """timm's name of the architecture."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the card passes to `timm.create_model`."""
    named_layers: Mapping[str, str] = field(default_factory=dict)
    """Arguments that are classes: argument -> ``module:Class``; looked up when the model is built."""
    class_and_mean: bool = False
    """The feature is the class token beside the mean of the patch tokens; else the model's own pooled one."""
    transformers_keys: bool = False
    """The hub's file has the keys of the transformers library."""
    dim: int
    input_px: int = 224
    resize_px: int | None = None
    """Tiles are first resized to this, then their middle is cut to ``input_px``; None: resized to ``input_px``."""
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    interpolation: str = "bicubic"
    mpps: tuple[float, ...] = (0.5,)
    """um/px of the tiles it was made for."""
    licence: str
    gated: bool
    """The hub asks for an account that has accepted the terms."""
    source: str
    """The publication."""


_VIRCHOW_LAYERS = {"mlp_layer": "timm.layers:SwiGLUPacked", "act_layer": "torch.nn:SiLU"}
_VIRCHOW = {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", "dynamic_img_size": True}
_KAIKO = "1aurent/{}.kaiko_ai_towards_large_pathology_fms"
_KAIKO_PAPER = "kaiko.ai 2024, arXiv 2404.15217"
_KAIKO_MPPS = (0.25, 0.5, 1.0, 2.0)
_LUNIT_MEAN = (0.70322989, 0.53606487, 0.66096631)
_LUNIT_STD = (0.21716536, 0.26081574, 0.20723464)
_LUNIT_PAPER = "Kang et al., CVPR 2023, arXiv 2212.04690"
_H_OPTIMUS_MEAN = (0.707223, 0.578729, 0.703617)
_H_OPTIMUS_STD = (0.211883, 0.230117, 0.177517)
_DYNAMIC = {"dynamic_img_size": True}


def _kaiko(model: str, dim: int, **changes: Any) -> Preset:
    return Preset(
        hub=_KAIKO.format(model),
        model=model,
        dim=dim,
        mean=HALF,
        std=HALF,
        interpolation="bilinear",
        mpps=_KAIKO_MPPS,
        licence=SEE_CARD,
        gated=False,
        source=_KAIKO_PAPER,
        **{"arguments": _DYNAMIC, **changes},
    )


def _lunit(model: str) -> Preset:
    return Preset(
        hub=f"1aurent/{model}.lunit_dino",
        model=model,
        arguments=_DYNAMIC,
        dim=384,
        mean=_LUNIT_MEAN,
        std=_LUNIT_STD,
        mpps=(0.5, 0.25),
        licence="Lunit non-commercial",
        gated=False,
        source=_LUNIT_PAPER,
    )


def _h_optimus(hub: str, licence: str, source: str) -> Preset:
    return Preset(
        hub=hub,
        model="vit_giant_patch14_reg4_dinov2",
        arguments={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": False},
        dim=1536,
        mean=_H_OPTIMUS_MEAN,
        std=_H_OPTIMUS_STD,
        licence=licence,
        gated=True,
        source=source,
    )


PRESETS: dict[str, Preset] = {
    "uni": Preset(
        hub="MahmoodLab/uni",
        model="vit_large_patch16_224",
        arguments={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        dim=1024,
        interpolation="bilinear",
        licence=NON_COMMERCIAL,
        gated=True,
        source="Chen et al., Nature Medicine 2024, arXiv 2308.15474",
    ),
    "uni2-h": Preset(
        hub="MahmoodLab/UNI2-h",
        model="vit_giant_patch14_224",
        arguments={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
        },
        named_layers=_VIRCHOW_LAYERS,
        dim=1536,
        interpolation="bilinear",
        licence=NON_COMMERCIAL,
        gated=True,
        source="Mahmood Lab 2025; method: Chen et al., arXiv 2308.15474",
    ),
    "virchow": Preset(
        hub="paige-ai/Virchow",
        model="vit_huge_patch14_224",
        arguments=_VIRCHOW,
        named_layers=_VIRCHOW_LAYERS,
        class_and_mean=True,
        dim=2560,
        licence="Apache-2.0",
        gated=True,
        source="Vorontsov et al., Nature Medicine 2024, arXiv 2309.07778",
    ),
    "virchow2": Preset(
        hub="paige-ai/Virchow2",
        model="vit_huge_patch14_224",
        arguments={**_VIRCHOW, "reg_tokens": 4},
        named_layers=_VIRCHOW_LAYERS,
        class_and_mean=True,
        dim=2560,
        mpps=(0.25, 0.5, 1.0, 2.0),
        licence=NON_COMMERCIAL,
        gated=True,
        source="Zimmermann et al. 2024, arXiv 2408.00738",
    ),
    "gigapath": Preset(
        hub="prov-gigapath/prov-gigapath",
        model="vit_giant_patch14_dinov2",
        arguments={
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "init_values": 1e-5,
            "mlp_ratio": 5.33334,
        },
        dim=1536,
        resize_px=256,
        licence="Apache-2.0",
        gated=True,
        source="Xu et al., Nature 2024, doi 10.1038/s41586-024-07441-w",
    ),
    "h-optimus-0": _h_optimus("bioptimus/H-optimus-0", "Apache-2.0", "Bioptimus 2024"),
    "h-optimus-1": _h_optimus("bioptimus/H-optimus-1", NON_COMMERCIAL, "Bioptimus 2025"),
    "phikon": Preset(
        hub="1aurent/vit_base_patch16_224.owkin_pancancer",
        model="vit_base_patch16_224",
        arguments=_DYNAMIC,
        dim=768,
        licence=OWKIN,
        gated=False,
        source="Filiot et al. 2023, medRxiv 2023.07.21.23292757",
    ),
    "phikon-v2": Preset(
        hub="owkin/phikon-v2",
        model="vit_large_patch16_224",
        arguments={"img_size": 224, "init_values": 1.0},
        transformers_keys=True,
        dim=1024,
        licence=OWKIN,
        gated=False,
        source="Filiot et al. 2024, arXiv 2409.09173",
    ),
    "kaiko-vits16": _kaiko("vit_small_patch16_224", 384),
    "kaiko-vits8": _kaiko("vit_small_patch8_224", 384),
    "kaiko-vitb16": _kaiko("vit_base_patch16_224", 768),
    "kaiko-vitb8": _kaiko("vit_base_patch8_224", 768),
    "kaiko-vitl14": _kaiko(
        "vit_large_patch14_reg4_dinov2", 1024, arguments={"img_size": 518, "dynamic_img_size": True}
    ),
    "lunit-vits16": _lunit("vit_small_patch16_224"),
    "lunit-vits8": _lunit("vit_small_patch8_224"),
}

"""Published pathology encoders of images alone, with the arguments, pooling and um/px of their public cards."""

from typing import Any, Literal

from features.encoders.published.preset import APACHE, HALF, NON_COMMERCIAL, SEE_CARD, Preset

OWKIN = "Owkin non-commercial"
TRANSFORMERS_FILE = "model.safetensors"
MIDNIGHT_PAPER = "Karasikov et al. 2025, arXiv 2504.05186"
H0_MINI_PAPER = "Filiot et al. 2025, arXiv 2501.16239"

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
_SWIGLU = 5.33334
"""Both halves of a gated layer, 8/3 times the width each as DINOv2 has it, beside each other."""


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


def _h0_mini(feature: Literal["class", "class_and_mean"], dim: int) -> Preset:
    return Preset(
        hub="bioptimus/H0-mini",
        model="vit_base_patch14_reg4_dinov2",
        arguments={"img_size": 224, "mlp_ratio": _SWIGLU, "global_pool": "", "dynamic_img_size": True},
        named_layers=_VIRCHOW_LAYERS,
        feature=feature,
        dim=dim,
        mean=_H_OPTIMUS_MEAN,
        std=_H_OPTIMUS_STD,
        licence=NON_COMMERCIAL,
        gated=True,
        source=H0_MINI_PAPER,
    )


def _midnight(feature: Literal["class", "class_and_mean"], dim: int) -> Preset:
    return Preset(
        hub="kaiko-ai/midnight",
        hub_file=TRANSFORMERS_FILE,
        model="vit_giant_patch14_dinov2",
        arguments={"img_size": 224, "global_pool": "", "dynamic_img_size": True},
        feature=feature,
        dim=dim,
        mean=HALF,
        std=HALF,
        interpolation="bilinear",
        mpps=_KAIKO_MPPS,
        licence="MIT",
        gated=False,
        source=MIDNIGHT_PAPER,
    )


def _hibou(hub: str, model: str, mlp_ratio: float, dim: int, *, licence: str, gated: bool) -> Preset:
    return Preset(
        hub=hub,
        hub_file=TRANSFORMERS_FILE,
        model=model,
        arguments={"img_size": 224, "mlp_ratio": mlp_ratio, "dynamic_img_size": True},
        named_layers=_VIRCHOW_LAYERS,
        dim=dim,
        mean=(0.7068, 0.5755, 0.722),
        std=(0.195, 0.2316, 0.1816),
        licence=licence,
        gated=gated,
        source="Nechaev et al. 2024, arXiv 2406.05074",
    )


PATHOLOGY: dict[str, Preset] = {
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
        feature="class_and_mean",
        dim=2560,
        licence=APACHE,
        gated=True,
        source="Vorontsov et al., Nature Medicine 2024, arXiv 2309.07778",
    ),
    "virchow2": Preset(
        hub="paige-ai/Virchow2",
        model="vit_huge_patch14_224",
        arguments={**_VIRCHOW, "reg_tokens": 4},
        named_layers=_VIRCHOW_LAYERS,
        feature="class_and_mean",
        dim=2560,
        mpps=(0.25, 0.5, 1.0, 2.0),
        licence=NON_COMMERCIAL,
        gated=True,
        source="Zimmermann et al. 2024, arXiv 2408.00738",
    ),
    "virchow2-cls": Preset(
        hub="paige-ai/Virchow2",
        model="vit_huge_patch14_224",
        arguments={**_VIRCHOW, "reg_tokens": 4},
        named_layers=_VIRCHOW_LAYERS,
        feature="class",
        dim=1280,
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
        licence=APACHE,
        gated=True,
        source="Xu et al., Nature 2024, doi 10.1038/s41586-024-07441-w",
    ),
    "gigapath-flash": Preset(
        hub="prov-gigapath/prov-gigapath-flash",
        hub_file="pytorch_model.bin",
        model="vit_small_patch16_224",
        arguments={"img_size": 224, "mlp_ratio": 2048 / 384, "init_values": 1e-5, "dynamic_img_size": True},
        named_layers=_VIRCHOW_LAYERS,
        dim=384,
        resize_px=256,
        licence=APACHE,
        gated=True,
        source="Prov-GigaPath team 2026, its card",
    ),
    "h-optimus-0": _h_optimus("bioptimus/H-optimus-0", APACHE, "Bioptimus 2024"),
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
        hub_file="model.safetensors",
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
    "h0-mini": _h0_mini("class", 768),
    "h0-mini-mean": _h0_mini("class_and_mean", 1536),
    "midnight-12k": _midnight("class_and_mean", 3072),
    "midnight-12k-cls": _midnight("class", 1536),
    "openmidnight": Preset(
        hub="SophontAI/OpenMidnight",
        hub_file="teacher_checkpoint_load.pt",
        model="vit_giant_patch14_reg4_dinov2",
        arguments={"img_size": 224, "dynamic_img_size": True},
        dim=1536,
        interpolation="bilinear",
        licence=APACHE,
        gated=True,
        source="Sophont 2025, its card; method: arXiv 2504.05186",
    ),
    "hibou-b": _hibou("histai/hibou-b", "vit_base_patch14_reg4_dinov2", _SWIGLU, 768, licence=APACHE, gated=False),
    "hibou-l": _hibou("histai/hibou-L", "vit_large_patch14_reg4_dinov2", 5472 / 1024, 1024, licence=APACHE, gated=True),
    "gpfm": Preset(
        hub="majiabo/GPFM",
        hub_file="GPFM.pth",
        model="vit_large_patch14_dinov2",
        arguments={"img_size": 224, "dynamic_img_size": True},
        dim=1024,
        licence="CC-BY-NC-4.0",
        gated=False,
        source="Ma et al. 2024, arXiv 2407.18449",
    ),
    "ctranspath": Preset(
        hub="1aurent/swin_tiny_patch4_window7_224.CTransPath",
        model="swin_tiny_patch4_window7_224",
        named_layers={"embed_layer": "features.encoders.published.conv_stem:ConvStem"},
        dim=768,
        interpolation="bilinear",
        mpps=(1.0,),
        licence="GPL-3.0",
        gated=False,
        source="Wang et al., Medical Image Analysis 2022, doi 10.1016/j.media.2022.102559",
    ),
}

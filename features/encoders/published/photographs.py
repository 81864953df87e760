"""Encoders of everyday photographs that the field compares with: DINOv2, DINOv3 and SigLIP, as timm has them.

They were made for no um/px, so none is asked of tiles.
"""

from features.encoders.published.preset import APACHE, HALF, Preset

DINOV2_PAPER = "Oquab et al. 2023, arXiv 2304.07193"
REGISTERS_PAPER = "Darcet et al. 2023, arXiv 2309.16588"
DINOV3_PAPER = "Siméoni et al. 2025, arXiv 2508.10104"
SIGLIP_PAPER = "Zhai et al. 2023, arXiv 2303.15343"
SIGLIP2_PAPER = "Tschannen et al. 2025, arXiv 2502.14786"


def _dinov2(size: str, dim: int, *, registers: bool) -> Preset:
    model = f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2"
    return Preset(
        hub=f"timm/{model}.lvd142m",
        model=model,
        arguments={"img_size": 518, "dynamic_img_size": True},
        dim=dim,
        mpps=(),
        licence=APACHE,
        gated=False,
        source=REGISTERS_PAPER if registers else DINOV2_PAPER,
    )


def _dinov3(size: str, dim: int) -> Preset:
    model = f"vit_{size}_patch16_dinov3_qkvb"
    return Preset(
        hub=f"timm/{model}.lvd1689m",
        model=model,
        arguments={"global_pool": "token"},
        dim=dim,
        input_px=256,
        mpps=(),
        licence="DINOv3 license",
        gated=False,
        source=DINOV3_PAPER,
    )


def _siglip(model: str, tag: str, dim: int, source: str) -> Preset:
    return Preset(
        hub=f"timm/{model}.{tag}",
        model=model,
        dim=dim,
        mean=HALF,
        std=HALF,
        mpps=(),
        licence=APACHE,
        gated=False,
        source=source,
    )


_SIZES = {"s": ("small", 384), "b": ("base", 768), "l": ("large", 1024), "g": ("giant", 1536)}

PHOTOGRAPHS: dict[str, Preset] = {
    **{f"dinov2-vit{key}14": _dinov2(*size, registers=False) for key, size in _SIZES.items()},
    **{f"dinov2-vit{key}14-reg4": _dinov2(*size, registers=True) for key, size in _SIZES.items()},
    **{f"dinov3-vit{key}16": _dinov3(*size) for key, size in _SIZES.items() if key != "g"},
    "siglip-vitb16": _siglip("vit_base_patch16_siglip_224", "webli", 768, SIGLIP_PAPER),
    "siglip-so400m14": _siglip("vit_so400m_patch14_siglip_224", "webli", 1152, SIGLIP_PAPER),
    "siglip2-vitb16": _siglip("vit_base_patch16_siglip_224", "v2_webli", 768, SIGLIP2_PAPER),
    "siglip2-so400m14": _siglip("vit_so400m_patch14_siglip_224", "v2_webli", 1152, SIGLIP2_PAPER),
}

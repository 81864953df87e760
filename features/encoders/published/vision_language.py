"""Published pathology encoders that learned images together with text; their image side makes the features."""

from features.encoders.published.preset import HALF, NON_COMMERCIAL, Preset

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

VISION_LANGUAGE: dict[str, Preset] = {
    "conch": Preset(
        hub="MahmoodLab/conch",
        hub_file="pytorch_model.bin",
        model="vit_base_patch16_224",
        arguments={"img_size": 448, "global_pool": "", "dynamic_img_size": True},
        feature="conch",
        unused=("text.", "text_decoder.", "logit_scale", "attn_pool_caption.", "ln_caption.", "proj_contrast"),
        positions="bilinear",
        dim=512,
        input_px=448,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        licence=NON_COMMERCIAL,
        gated=True,
        source="Lu et al., Nature Medicine 2024, doi 10.1038/s41591-024-02856-4",
    ),
    "conch-v1.5": Preset(
        hub="MahmoodLab/conchv1_5",
        hub_file="pytorch_model_vision.bin",
        model="vit_large_patch16_224",
        arguments={"img_size": 448, "init_values": 1e-6, "global_pool": "", "dynamic_img_size": True},
        feature="conch_v1_5",
        positions="dino",
        dim=768,
        input_px=448,
        interpolation="bilinear",
        licence=NON_COMMERCIAL,
        gated=True,
        source="Ding et al. 2024, arXiv 2411.19666",
    ),
    "keep": Preset(
        hub="Astaxanthin/KEEP",
        hub_file="pytorch_model.bin",
        model="vit_large_patch16_224",
        arguments={"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        feature="keep",
        unused=("text.", "logit_scale"),
        dim=768,
        licence="MIT",
        gated=False,
        source="Zhou et al. 2024, arXiv 2412.13126",
    ),
    "musk": Preset(
        hub="xiangjx/musk",
        hub_file="model.safetensors",
        model="beit3_large_patch16_224",
        arguments={"img_size": 384, "global_pool": "token", "dynamic_img_size": True},
        dim=1024,
        input_px=384,
        mean=HALF,
        std=HALF,
        licence=NON_COMMERCIAL,
        gated=True,
        source="Xiang et al., Nature 2025, doi 10.1038/s41586-024-08378-w",
    ),
}

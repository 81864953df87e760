"""Vision transformers as the transformers library saves them (ViT, DINOv2; its versions 4 and 5), under timm's keys."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

MARK = "embeddings.cls_token"
PREFIXES = ("vit.", "dinov2.")
LEFT_OUT = re.compile(r"embeddings\.mask_token|pooler\.|classifier\.")
QKV = re.compile(
    r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.(weight|bias)"
)
RENAMED = (
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1", r".ls\1.gamma"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def timm_keys(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict under timm's keys, queries, keys and values joined; other state dicts as they are."""
    prefix = next((p for p in ("", *PREFIXES) if p + MARK in found), None)
    if prefix is None:
        return dict(found)
    result: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in found.items():
        name = key.removeprefix(prefix)
        if LEFT_OUT.match(name):
            continue
        if match := QKV.fullmatch(name):
            parts.setdefault((match[1], match[3]), {})[match[2][0]] = tensor
            continue
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        result[name] = tensor
    for (block, kind), own in parts.items():
        if len(own) == len("qkv"):
            result[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat([own[part] for part in "qkv"])
    return result

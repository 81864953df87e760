"""Vision transformers as the transformers library saves them, under timm's keys.

ViT, DINOv2 with and without registers and gated layers; versions 4 and 5 of the library.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from features.encoders.published.registers import REGISTERS, as_timm_adds_them

MARK = "embeddings.cls_token"
PREFIXES = ("vit.", "dinov2.")
LEFT_OUT = re.compile(r"embeddings\.mask_token|pooler\.|classifier\.")
QKV = re.compile(
    r"(?:encoder\.layer|layers)\.(\d+)\.attention\.(?:attention\.)?(query|key|value|[qkv]_proj)\.(weight|bias)"
)
GATED = re.compile(r"(.*)\.mlp\.(gate|up)_proj\.(weight|bias)")
"""The gated layer's two halves, which version 4 has beside each other as ``weights_in``."""
RENAMED = (
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.register_tokens", REGISTERS),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.fc2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


def is_transformers(found: Mapping[str, Tensor]) -> bool:
    """Return whether the keys are those of the transformers library."""
    return any(prefix + MARK in found for prefix in ("", *PREFIXES))


def from_transformers(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict under timm's keys, queries, keys and values joined."""
    prefix = next(p for p in ("", *PREFIXES) if p + MARK in found)
    found = dict(_gates_joined(found))
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
    return as_timm_adds_them(result)


def _gates_joined(found: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in found.items():
        match = GATED.fullmatch(key)
        if match is None:
            yield key, tensor
        elif match[2] == "gate" and (other := key.replace("gate_proj", "up_proj")) in found:
            yield f"{match[1]}.mlp.weights_in.{match[3]}", torch.cat([tensor, found[other]])

"""State dicts in the layouts in which authors publish them, under timm's keys.

A layout is known by its own keys, whatever encoder was asked for; `load_weights` then checks every key and shape.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from features.encoders.published.registers import REGISTERS, as_timm_adds_them
from features.encoders.published.transformers_keys import from_transformers, is_transformers

State = Mapping[str, Tensor]
Renamed = tuple[tuple[str, str], ...]

DINOV2: Renamed = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # blocks in chunks, as FSDP wants them
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
DINOV3: Renamed = ((r"\.ls([12])\.gamma$", r".gamma_\1"), (r"^storage_tokens$", "reg_token"))
DINOV3_LEFT_OUT = re.compile(r".*(\.periods|\.bias_mask)$|local_cls_norm")
"""Angles, which timm computes; the mask of the keys' bias, which is none; a layer of pretraining."""
BEIT3_CLASS = "beit3.vision_embed.cls_token"
BEIT3_LEFT_OUT = re.compile(r".*\.B\.|beit3\.text_embed\.|.*mask_token$|(vision|language)_head\.|logit_scale")
"""The language's side of each layer, what pre-training needs, and the projections to the common space."""
BEIT3: Renamed = (
    (r"^beit3\.vision_embed\.cls_token", "cls_token"),
    (r"^beit3\.vision_embed\.", "patch_embed."),
    (r"^beit3\.encoder\.", ""),
    (r"\.A\.", "."),
    (r"^embed_positions\.weight", "pos_embed"),
    (r"^layer_norm\.", "norm."),
    (r"^layers\.", "blocks."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"\.final_layer_norm\.", ".norm2."),
    (r"\.self_attn\.inner_attn_ln\.", ".attn.norm."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
    (r"\.ffn\.ffn_layernorm\.", ".mlp.norm."),
    (r"\.ffn\.", ".mlp."),
)
BEIT3_FIRST_POSITION = 2
"""Positions count from 2, as in fairseq."""
SWIN_MARK = "layers.0.downsample.reduction.weight"
SWIN_LEFT_OUT = re.compile(r".*(relative_position_index|attn_mask)$")


def timm_keys(found: State) -> dict[str, Tensor]:
    """Return the state dict under timm's keys where its layout is a known one; others as they are."""
    for known, translated in _LAYOUTS:
        if known(found):
            return translated(found)
    return dict(found)


def _renamed(name: str, rules: Renamed) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def _is_dinov2(found: State) -> bool:
    return REGISTERS in found or any(re.search(pattern, key) for key in found for pattern, _ in DINOV2)


def _from_dinov2(found: State) -> dict[str, Tensor]:
    """Facebook's DINOv2 and what was made with its code: OpenMidnight, GPFM."""
    return as_timm_adds_them({_renamed(key, DINOV2): tensor for key, tensor in found.items()})


def _from_dinov3(found: State) -> dict[str, Tensor]:
    """Meta's DINOv3: biases of queries and values apart, none of keys."""
    result: dict[str, Tensor] = {}
    for key, tensor in found.items():
        if DINOV3_LEFT_OUT.match(key):
            continue
        if key.endswith(".qkv.bias"):
            queries, _, values = tensor.chunk(3)
            start = key.removesuffix("qkv.bias")
            result |= {f"{start}q_bias": queries, f"{start}v_bias": values}
        else:
            result[_renamed(key, DINOV3)] = tensor
    return result


def _from_beit3(found: State) -> dict[str, Tensor]:
    """BEiT-3 (Wang et al. 2022, arXiv 2208.10442) of torchscale, the vision side of each layer: MUSK."""
    state = {_renamed(key, BEIT3): tensor for key, tensor in found.items() if not BEIT3_LEFT_OUT.match(key)}
    if "pos_embed" in state:
        state["pos_embed"] = state["pos_embed"][None, BEIT3_FIRST_POSITION:]
    for key in [key for key in state if ".attn.q_proj." in key]:
        parts = [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if all(part in state for part in parts):
            state[key.replace("q_proj", "qkv")] = torch.cat([state.pop(part) for part in parts])
    return state


def _from_old_swin(found: State) -> dict[str, Tensor]:
    """Swin transformers of old, halved at the end of a stage, where timm does so at the next's start: CTransPath."""
    result = {}
    for key, tensor in found.items():
        if SWIN_LEFT_OUT.match(key):
            continue
        own = re.sub(r"^layers\.(\d+)\.downsample", lambda stage: f"layers.{int(stage[1]) + 1}.downsample", key)
        result[re.sub(r"^head\.(?!fc\.)", "head.fc.", own)] = tensor
    return result


_LAYOUTS: tuple[tuple[Callable[[State], bool], Callable[[State], dict[str, Tensor]]], ...] = (
    (is_transformers, from_transformers),
    (lambda found: BEIT3_CLASS in found, _from_beit3),
    (lambda found: "storage_tokens" in found, _from_dinov3),
    (lambda found: SWIN_MARK in found, _from_old_swin),
    (_is_dinov2, _from_dinov2),
)

"""Weights in the layouts in which authors publish them: loaded from a file, compared with another way through."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from timm.models import eva, swin_transformer, vision_transformer
from torch import Tensor, nn
from torch.nn import functional as F

from features.encoders.presets import PRESETS
from features.encoders.published.poolers import AttentionPool, BiaslessAttentionPool, as_published
from features.encoders.timm_encoder import Architecture
from wsi.errors import RequestError

State = dict[str, Tensor]
SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 3}
SMALL_SWIN: dict[str, Any] = {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2)}
GATED: dict[str, Any] = {**SMALL, "mlp_ratio": 128 / 48}


def model_of(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """Return a reduced model with random parameters, none of them 0 or 1."""
    model = Architecture(name, PRESETS[name]).create(**changes).eval()
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + 0.05)
    return model


def loaded(name: str, state: Mapping[str, Tensor], file: Path, **changes: Any) -> nn.Module:
    """Write a state dict as the authors would, and load it as ``--weights`` does."""
    safetensors.torch.save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, file)
    model = model_of(name, seed=9, **changes)
    Architecture(name, PRESETS[name]).load(model, file)
    return model


def tiles(size_px: int, seed: int = 3) -> Tensor:
    """Return two tiles of noise."""
    return torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(seed))


def apart(state: State, key: str, names: tuple[str, ...], separator: str = "{}") -> State:
    """Return the rows of a joined map as maps of their own."""
    return dict(zip((separator.format(name) for name in names), state[key].chunk(len(names)), strict=True))


@torch.inference_mode()
def dinov2_tokens(state: State, pixels: Tensor, heads: int, norm: str = "norm") -> Tensor:
    """Run DINOv2 as its paper and its authors' parameters have it, without timm; return all tokens.

    Positions are added to class token and patches; registers are put between them afterwards.
    """
    patches = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], 1) + state["pos_embed"]
    if "register_tokens" in state:
        x = torch.cat([x[:, :1], state["register_tokens"].expand(len(x), -1, -1), x[:, 1:]], 1)
    dim = x.shape[-1]

    def linear(values: Tensor, key: str) -> Tensor:
        return F.linear(values, state[f"{key}.weight"], state[f"{key}.bias"])

    def normed(values: Tensor, key: str) -> Tensor:
        return F.layer_norm(values, (dim,), state[f"{key}.weight"], state[f"{key}.bias"], 1e-6)

    for block in (key.removesuffix("norm1.weight") for key in state if key.endswith("norm1.weight")):
        q, k, v = linear(normed(x, f"{block}norm1"), f"{block}attn.qkv").chunk(3, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / (dim // heads) ** 0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{block}attn.proj") * state[f"{block}ls1.gamma"]
        inner = normed(x, f"{block}norm2")
        if f"{block}mlp.w12.weight" in state:
            gate, values = linear(inner, f"{block}mlp.w12").chunk(2, -1)
            out = linear(F.silu(gate) * values, f"{block}mlp.w3")
        else:
            out = linear(F.gelu(linear(inner, f"{block}mlp.fc1")), f"{block}mlp.fc2")
        x = x + out * state[f"{block}ls2.gamma"]
    return normed(x, norm)


def dinov2_state(*, registers: bool, gated: bool) -> State:
    """Return random parameters of a small DINOv2 under its authors' names: width 48, two blocks."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 48), "pos_embed": (1, 257, 48), "mask_token": (1, 48),
        "patch_embed.proj.weight": (48, 3, 14, 14), "patch_embed.proj.bias": (48,),
        "norm.weight": (48,), "norm.bias": (48,),
    }  # fmt: skip
    if registers:
        shapes["register_tokens"] = (1, 4, 48)
    layers = {"attn.qkv": (144, 48), "attn.proj": (48, 48)}
    layers |= {"mlp.w12": (128, 48), "mlp.w3": (48, 64)} if gated else {"mlp.fc1": (192, 48), "mlp.fc2": (48, 192)}
    for block in range(2):
        shapes |= {f"blocks.{block}.{name}.gamma": (48,) for name in ("ls1", "ls2")}
        for name, shape in (layers | {"norm1": (48,), "norm2": (48,)}).items():
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(5)
    return {key: torch.randn(shape, generator=generator) * 0.2 for key, shape in shapes.items()}


def as_transformers(state: State) -> State:
    """Rename DINOv2's own keys to those of the transformers library, version 4."""
    result: State = {}
    rules = (
        (r"^blocks\.", "encoder.layer."),
        (r"^(cls_token|register_tokens|mask_token)", r"embeddings.\1"),
        (r"^pos_embed", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."),
        (r"attn\.proj", "attention.output.dense"),
        (r"ls([12])\.gamma", r"layer_scale\1.lambda1"),
        (r"mlp\.w12", "mlp.weights_in"),
        (r"mlp\.w3", "mlp.weights_out"),
    )
    for key, tensor in state.items():
        name = key
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        if ".attn.qkv." in name:
            form = name.replace("attn.qkv", "attention.attention.{}")
            result |= apart(state, key, ("query", "key", "value"), form)
        else:
            result[name] = tensor
    return result


@pytest.mark.parametrize(
    ("name", "layout", "registers", "gated", "mean"),
    [
        ("midnight-12k", as_transformers, False, True, True),
        ("hibou-b", as_transformers, True, True, False),
        ("openmidnight", dict, True, True, False),
        ("gpfm", dict, False, False, False),
    ],
)
def test_what_dinov2_made_loads_and_computes_what_its_paper_says(
    name: str, layout: Callable[[State], State], registers: bool, gated: bool, mean: bool, tmp_path: Path
) -> None:
    state = dinov2_state(registers=registers, gated=gated)
    model = loaded(name, layout(state), tmp_path / "w.safetensors", **(GATED if gated else SMALL))
    tokens = dinov2_tokens(state, tiles(224), heads=3)
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1) if mean else tokens[:, 0]
    with torch.inference_mode():
        torch.testing.assert_close(model(tiles(224)), expected, rtol=1e-4, atol=1e-4)


def test_dinov2_in_chunks_within_a_training_programs_file(tmp_path: Path) -> None:
    state = dinov2_state(registers=False, gated=False)
    chunked = {
        "teacher.backbone." + re.sub(r"^blocks\.(\d)", r"blocks.0.\1", key): tensor for key, tensor in state.items()
    }
    others = {"teacher.dino_head.mlp.0.weight": torch.zeros(3, 3), "student.backbone.cls_token": torch.zeros(1, 1, 48)}
    model = loaded("gpfm", chunked | others, tmp_path / "w.safetensors", **SMALL)
    with torch.inference_mode():
        torch.testing.assert_close(
            model(tiles(224)), dinov2_tokens(state, tiles(224), heads=3)[:, 0], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("gated", [True, False])
def test_dinov2_is_translated_as_timm_does(gated: bool, tmp_path: Path) -> None:
    name, changes = ("openmidnight", GATED) if gated else ("dinov2-vits14-reg4", {**SMALL, "img_size": 224})
    state = dinov2_state(registers=True, gated=gated)
    model = loaded(name, state, tmp_path / "w.safetensors", **changes)
    other = model_of(name, **changes)
    other.load_state_dict(vision_transformer.checkpoint_filter_fn(dict(state), other))
    for key, tensor in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], tensor, rtol=0, atol=0)


def test_version_five_of_transformers_has_the_gated_layers_halves_apart(tmp_path: Path) -> None:
    state = as_transformers(dinov2_state(registers=False, gated=True))
    halves: State = {}
    for key, tensor in state.items():
        own = key.replace("weights_out", "down_proj")
        if "weights_in" in key:
            halves |= apart(state, key, ("gate", "up"), key.replace("weights_in", "{}_proj"))
        else:
            halves[own] = tensor
    first = loaded("midnight-12k-cls", state, tmp_path / "4.safetensors", **GATED)
    second = loaded("midnight-12k-cls", halves, tmp_path / "5.safetensors", **GATED)
    for key, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], tensor, rtol=0, atol=0)


def test_dinov3_is_translated_as_timm_does(tmp_path: Path) -> None:
    model = model_of("dinov3-vits16", **SMALL)
    state: State = {"mask_token": torch.zeros(1, 48), "rope_embed.periods": torch.ones(4)}
    for key, tensor in model.state_dict().items():
        name = re.sub(r"gamma_([12])", r"ls\1.gamma", key.replace("reg_token", "storage_tokens"))
        if name.endswith("q_bias"):
            start = name.removesuffix("q_bias")
            parts = (tensor, torch.zeros_like(tensor), model.state_dict()[f"{start}v_bias"])
            state |= {f"{start}qkv.bias": torch.cat(parts), f"{start}qkv.bias_mask": torch.ones(144)}
        elif not name.endswith("v_bias"):
            state[name] = tensor
    assert len(state) > len(model.state_dict())
    again = loaded("dinov3-vits16", state, tmp_path / "w.safetensors", **SMALL)
    other = model_of("dinov3-vits16", seed=4, **SMALL)
    other.load_state_dict(eva.checkpoint_filter_fn(dict(state), other))
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], tensor, rtol=0, atol=0)
        torch.testing.assert_close(other.state_dict()[key], tensor, rtol=0, atol=0)
    with torch.inference_mode():
        tokens = again.forward_features(tiles(256))  # type: ignore[operator]
        torch.testing.assert_close(again(tiles(256)), tokens[:, 0])


def as_beit3(state: State) -> State:
    """Rename timm's keys of BEiT-3 to MUSK's, with the language's side, text tower and projections beside them."""
    rules = (
        (r"^blocks\.", "layers."), (r"^norm\.", "layer_norm.A."), (r"norm1\.", "self_attn_layer_norm.A."),
        (r"norm2\.", "final_layer_norm.A."), (r"attn\.norm\.", "self_attn.inner_attn_ln.A."),
        (r"\.attn\.proj\.", ".self_attn.out_proj.A."), (r"mlp\.norm\.", "ffn.A.ffn_layernorm."), (r"mlp\.", "ffn.A."),
    )  # fmt: skip
    result: State = {
        "beit3.vision_embed.cls_token": state["cls_token"],
        "beit3.vision_embed.mask_token": torch.zeros(1, 1, 48),
        "beit3.encoder.embed_positions.A.weight": torch.cat([torch.full((2, 48), 7.0), state["pos_embed"][0]]),
        "beit3.text_embed.weight": torch.zeros(5, 48),
        **{f"{side}_head.weight": torch.zeros(48, 48) for side in ("vision", "language")},
        "logit_scale": torch.zeros(()),
    }
    for key, tensor in state.items():
        if key.startswith("patch_embed."):
            result[f"beit3.vision_embed.{key.removeprefix('patch_embed.')}"] = tensor
        elif key.startswith(("blocks.", "norm.")):
            name = key
            for pattern, new in rules:
                name = re.sub(pattern, new, name)
            form = f"beit3.encoder.{name}".replace("attn.qkv.", "self_attn.{}_proj.A.")
            result |= apart(state, key, ("q", "k", "v"), form) if ".qkv." in key else {form: tensor}
    return result | {key.replace(".A.", ".B."): tensor + 1 for key, tensor in result.items() if ".A." in key}


def test_musk_takes_the_vision_side_of_each_layer(tmp_path: Path) -> None:
    model = model_of("musk", **SMALL)
    published = as_beit3(model.state_dict())
    again = loaded("musk", published, tmp_path / "w.safetensors", **SMALL)
    assert published["beit3.encoder.embed_positions.A.weight"].shape == (2 + 1 + 24**2, 48)
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], tensor, rtol=0, atol=0)
    with torch.inference_mode():
        tokens = again.forward_features(tiles(384))  # type: ignore[operator]
        torch.testing.assert_close(again(tiles(384)), tokens[:, 0])


def test_the_language_side_makes_no_feature_and_the_count_is_the_papers() -> None:
    with torch.device("meta"):
        one = Architecture("musk", PRESETS["musk"]).create(depth=1)
    positions, patches, classes, norm = 577 * 1024, 3 * 16 * 16 * 1024 + 1024, 1024, 2 * 1024
    layers = 24 * (sum(p.numel() for p in one.parameters()) - positions - patches - classes - norm) + norm
    vision = layers + positions + patches + classes
    language = 64010 * 1024 + 1024 * 1024 + layers  # words, positions, the same layers
    assert (vision + language + 2 * 1024**2) / 1e6 == pytest.approx(675, abs=1)


def test_ctranspath_is_the_old_layout_of_swin(tmp_path: Path) -> None:
    model = model_of("ctranspath", **SMALL_SWIN)
    state = {
        re.sub(r"layers\.(\d)\.downsample", lambda stage: f"layers.{int(stage[1]) - 1}.downsample", key): tensor
        for key, tensor in model.state_dict().items()
    }
    old = {f"model.{key}": tensor for key, tensor in state.items()}
    old |= {"model.layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long)}
    old |= {"model.layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    assert "model.layers.0.downsample.reduction.weight" in old
    again = loaded("ctranspath", old, tmp_path / "w.safetensors", **SMALL_SWIN)
    other = model_of("ctranspath", seed=4, **SMALL_SWIN)
    plain = {key.removeprefix("model."): tensor for key, tensor in old.items()}
    other.load_state_dict(swin_transformer.checkpoint_filter_fn(plain, other), strict=False)
    with torch.inference_mode():
        expected = model(tiles(224))
        torch.testing.assert_close(again(tiles(224)), expected, rtol=0, atol=0)
        torch.testing.assert_close(other(tiles(224)), expected, rtol=0, atol=0)
        stem = again.patch_embed.proj(tiles(224))  # type: ignore[union-attr, operator]
    assert stem.shape == (2, 16, 56, 56)


def by_hand(tokens: Tensor, query: Tensor, maps: dict[str, Tensor], biases: dict[str, Tensor]) -> Tensor:
    """Return attention of one query with 8 heads, head by head."""
    q, k, v = (F.linear(x, maps[p], biases.get(p)) for x, p in ((query, "q"), (tokens, "k"), (tokens, "v")))
    width = q.shape[-1] // 8
    heads = [slice(width * head, width * (head + 1)) for head in range(8)]
    weights = [(q[:, own] @ k[..., own].transpose(-1, -2) / width**0.5).softmax(-1) for own in heads]
    joined = torch.cat([weight @ v[..., own] for weight, own in zip(weights, heads, strict=True)], -1)
    return F.linear(joined[:, 0], maps["out"], biases.get("out"))


@torch.inference_mode()
def test_conch_pools_by_attention_as_worked_out_head_by_head() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 24)
    pool = AttentionPool(16, 24).eval()
    attn = pool.attn
    maps = {p: getattr(attn, f"{p}_proj_weight") for p in "qkv"} | {"out": attn.out_proj.weight}
    nn.init.normal_(attn.in_proj_bias)
    biases = dict(zip("qkv", attn.in_proj_bias.chunk(3), strict=True)) | {"out": attn.out_proj.bias}
    expected = by_hand(pool.ln_k(tokens), pool.ln_q(pool.query), maps, biases)
    torch.testing.assert_close(pool(tokens), expected, rtol=1e-4, atol=1e-5)
    other = BiaslessAttentionPool(16, 24).eval()
    k, v = other.to_kv.weight.chunk(2)
    maps = {"q": other.to_q.weight, "k": k, "v": v, "out": other.to_out.weight}
    expected = by_hand(other.ln_k(tokens), other.ln_q(other.query), maps, {})
    torch.testing.assert_close(other(tokens), expected, rtol=1e-4, atol=1e-5)


def test_conch_loads_from_the_file_of_both_towers(tmp_path: Path) -> None:
    model = model_of("conch", **SMALL)
    others = {
        "logit_scale": torch.zeros(()), "text.cls_emb": torch.zeros(3), "text_decoder.x": torch.zeros(3),
        "visual.proj_contrast": torch.zeros(512, 512), "visual.ln_caption.weight": torch.zeros(768),
        "visual.attn_pool_caption.query": torch.zeros(256, 768),
    }  # fmt: skip
    published = {f"visual.{key}": tensor for key, tensor in model.state_dict().items()} | others
    again = loaded("conch", published, tmp_path / "w.safetensors", **SMALL)
    with torch.inference_mode():
        tokens = model.trunk.forward_features(tiles(448))  # type: ignore[union-attr, operator]
        expected = model.ln_contrast(model.attn_pool_contrast(tokens))  # type: ignore[operator]
        torch.testing.assert_close(again(tiles(448)), expected, rtol=1e-5, atol=1e-5)
    del published["visual.attn_pool_contrast.query"]
    with pytest.raises(RequestError, match=r"1 missing \(attn_pool_contrast\.query\)"):
        loaded("conch", published, tmp_path / "w.safetensors", **SMALL)


def test_conch_v1_5_has_positions_of_224_px_which_are_enlarged_as_its_authors_do(tmp_path: Path) -> None:
    model = model_of("conch-v1.5", **SMALL)
    state = dict(model.state_dict())
    own = torch.randn(1, 1 + 14**2, 48)
    again = loaded("conch-v1.5", state | {"trunk.pos_embed": own}, tmp_path / "w.safetensors", **SMALL)
    grid = own[:, 1:].reshape(1, 14, 14, 48).permute(0, 3, 1, 2)
    factor = (448 // 16 + 0.1) / 14
    larger = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic").permute(0, 2, 3, 1).reshape(1, -1, 48)
    found = again.state_dict()["trunk.pos_embed"]
    torch.testing.assert_close(found, torch.cat([own[:, :1], larger], 1))
    plain = F.interpolate(grid, size=(28, 28), mode="bicubic").permute(0, 2, 3, 1).reshape(1, -1, 48)
    assert (found[:, 1:] - plain).abs().max() > 1e-3, "the factor's tenth matters"
    keep = {**model_of("keep", **SMALL).state_dict(), "visual.pos_embed": own[:, :50]}
    with pytest.raises(RequestError, match=r"1 of another shape \(visual\.pos_embed"):
        loaded("keep", keep, tmp_path / "w.safetensors", **SMALL)


def test_keep_projects_to_the_text_and_has_length_one(tmp_path: Path) -> None:
    model = model_of("keep", **SMALL)
    published = {**model.state_dict(), "text.pooler.dense.weight": torch.zeros(3, 3), "logit_scale": torch.zeros(())}
    again = loaded("keep", published, tmp_path / "w.safetensors", **SMALL)
    with torch.inference_mode():
        first, last = model.visual_head[0], model.visual_head[2]  # type: ignore[index]
        projected = last(F.gelu(first(model.visual(tiles(224)))))  # type: ignore[operator]
        expected = projected / projected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(again(tiles(224)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["gigapath-flash", "h0-mini", "h0-mini-mean", "virchow2-cls"])
def test_files_in_timms_own_layout(name: str, tmp_path: Path) -> None:
    model = model_of(name, **GATED)
    again = loaded(name, as_published(model).state_dict(), tmp_path / "w.safetensors", **GATED)
    with torch.inference_mode():
        tokens = as_published(model).forward_features(tiles(224))  # type: ignore[operator]
        prefix = as_published(model).num_prefix_tokens
        parts = [tokens[:, 0], *([tokens[:, prefix:].mean(1)] if name.endswith("mean") else [])]
        torch.testing.assert_close(again(tiles(224)), torch.cat(parts, 1), rtol=1e-5, atol=1e-5)

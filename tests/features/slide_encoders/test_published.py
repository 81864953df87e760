"""Published slide encoders: files in their authors' layout, compared with computations that know no module of ours."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from witness import facts, grid

from features.bags.bag import BagHeader, read_features, read_header, write_bag
from features.encoders.spec import WeightsChoice
from features.slide_encoders import longnet
from features.slide_encoders.longnet import LongNet
from features.slide_encoders.presets import SLIDE_PRESETS
from features.slide_encoders.published import NETWORKS, PublishedSlideEncoder, places
from wsi.errors import BagError, RequestError

State = dict[str, Tensor]


def linear(state: State, name: str, rows: Tensor) -> Tensor:
    return rows @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def normed(state: State, name: str, rows: Tensor, eps: float = 1e-5) -> Tensor:
    centred = rows - rows.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]


def gated(state: State, name: str, rows: Tensor) -> Tensor:
    """Return the weights (N,) of gated attention, written out."""
    a = torch.tanh(linear(state, f"{name}.attention_a.0", rows))
    b = 1 / (1 + torch.exp(-linear(state, f"{name}.attention_b.0", rows)))
    raised = torch.exp(linear(state, f"{name}.attention_c", a * b)[:, 0])
    return raised / raised.sum()


def chief(state: State, rows: Tensor) -> Tensor:
    hidden = linear(state, "attention_net.0", rows).clamp(min=0)
    return gated(state, "attention_net.3", hidden) @ hidden


def feather(state: State, rows: Tensor) -> Tensor:
    hidden = linear(state, "patch_embed.0", rows).clamp(min=0)
    return gated(state, "global_attn", hidden) @ hidden


def madeleine(state: State, rows: Tensor) -> Tensor:
    for layer in (0, 4, 8):
        rows = linear(state, f"wsi_embedders.pre_attn.{layer}", rows)
        rows = F.gelu(normed(state, f"wsi_embedders.pre_attn.{layer + 1}", rows))
    # the last layer's values go value by value through the four heads: "b t (e c) -> b t e c"
    slide = torch.zeros(2048)
    for head in range(4):
        own = rows[:, head::4]
        slide[head::4] = gated(state, f"wsi_embedders.attn.{head}", own) @ own
    return linear(state, "projector", slide)


WRITTEN_OUT: Mapping[str, Callable[[State, Tensor], Tensor]] = {
    "chief": chief,
    "madeleine": madeleine,
    "feather": feather,
}
MORE: Mapping[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "chief": ("", {"classifiers.weight": (2, 512), "att_head.fc1.weight": (256, 512), "organ_embedding": (19, 768)}),
    "madeleine": ("module.", {"token_projector.weight": (128, 2048)}),
    "feather": ("model.", {"classifier.weight": (108, 512)}),
}
"""What stands before the keys of the authors' files, and tensors in them that make no part of the vector."""


def random_state(name: str) -> State:
    """Return random weights of the authors' layout, without building a module."""
    generator = torch.Generator().manual_seed(4)
    model = NETWORKS[SLIDE_PRESETS[name].network](dim_of(name))
    shapes = {key: own.shape for key, own in model.state_dict().items()}
    return {key: torch.randn(shape, generator=generator) * 0.05 for key, shape in shapes.items()}


def dim_of(name: str) -> int:
    return SLIDE_PRESETS[name].tiles_dim


def a_bag(path: Path, name: str, n_tiles: int = 40, **changes: object) -> BagHeader:
    """Write a bag as the encoder wants it."""
    preset = SLIDE_PRESETS[name]
    rows = np.random.default_rng(2).normal(size=(n_tiles, preset.tiles_dim)).astype(np.float16)
    tile_px = round(preset.tile_um / preset.mpp)
    told = replace(facts("a_0"), encoder=preset.tile_encoders[0], mpp=preset.mpp, tile_px=tile_px)
    write_bag(path, [rows], grid(n_tiles) // 256 * tile_px, replace(told, **changes))  # type: ignore[arg-type]
    return read_header(path)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_file_of_the_authors_layout_gives_what_is_written_out(name: str, tmp_path: Path) -> None:
    state, (prefix, others) = random_state(name), MORE[name]
    theirs = {f"{prefix}{key}": own for key, own in state.items()}
    theirs |= {f"{prefix}{key}": torch.ones(shape) for key, shape in others.items()}
    safetensors.torch.save_file(theirs, tmp_path / "w.safetensors")
    header = a_bag(tmp_path / "a_0.h5", name)
    encoder = PublishedSlideEncoder(name, WeightsChoice(file=tmp_path / "w.safetensors"))
    encoder.check(header, off_recipe=False)
    rows = torch.from_numpy(read_features(header.path)).float()
    found, wanted = encoder.encode(header), WRITTEN_OUT[name](state, rows).double().numpy()
    assert found.shape == (SLIDE_PRESETS[name].dim,) == (encoder.width(dim_of(name)),)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_the_pool_weighs_and_does_not_only_average(tmp_path: Path) -> None:
    state = random_state("feather")
    rows = torch.randn(40, 768, generator=torch.Generator().manual_seed(1))
    hidden = linear(state, "patch_embed.0", rows).clamp(min=0)
    assert not torch.allclose(feather(state, rows), hidden.mean(0), rtol=1e-2)


def millions(model: nn.Module) -> float:
    return sum(own.numel() for own in model.parameters()) / 1e6


def test_networks_have_the_published_number_of_parameters() -> None:
    """Feather of UNI's features: 0.9 M (Shao et al.). GigaPath: 86.3 M (same table; Xu et al.: 86 M)."""
    assert millions(NETWORKS["feather"](1024)) == pytest.approx(0.9, abs=0.05)
    one, two = (millions(LongNet(1536, dim=768, depth=depth)) for depth in (1, 2))
    assert one + 11 * (two - one) == pytest.approx(86.3, abs=0.05)
    assert len(LongNet(8, dim=32).encoder.layers) == 12


def dilated(q: Tensor, k: Tensor, v: Tensor, segments: tuple[int, ...]) -> Tensor:
    """Return dilated attention (L, H, D), token by token from the paper's formulas, the authors' padding included."""
    length, heads, width = q.shape
    parts = []
    for longest, ratio in zip(segments, longnet.DILATIONS, strict=True):
        segment = min(longest, length)
        padded = math.ceil(segment / ratio) * ratio
        out, lse = torch.zeros_like(q), torch.full((length, heads), -1e8)
        for start, head in product(range(0, length, segment), range(heads)):
            offset = head * ratio // heads
            at = [start + i for i in range(offset, padded, ratio)]
            # beyond the segment's end, or the slide's, stand zeros: of the next segment nothing is seen
            real = [i < min(start + segment, length) for i in at]
            keys = torch.stack([k[i, head] if r else torch.zeros(width) for i, r in zip(at, real, strict=True)])
            values = torch.stack([v[i, head] if r else torch.zeros(width) for i, r in zip(at, real, strict=True)])
            for i, r in zip(at, real, strict=True):
                if r:
                    raised = torch.exp(keys @ q[i, head] / math.sqrt(width))
                    out[i, head], lse[i, head] = raised / raised.sum() @ values, raised.sum().log()
        parts.append((out, lse))
    weights = torch.stack([lse for _, lse in parts]).softmax(0)
    return torch.stack([w[..., None] * out for w, (out, _) in zip(weights, parts, strict=True)]).sum(0)


def long_net(state: State, rows: Tensor, xy: list[tuple[int, int]], segments: tuple[int, ...]) -> Tensor:
    """Return the class token of LongNet of two layers, from the parameters alone."""
    dim = len(state["norm.weight"])
    table = torch.zeros(len(xy), dim)
    for n, (x, y) in enumerate(xy):
        for half, place in enumerate((y, x)):
            for i in range(dim // 4):
                angle = place / 10000 ** (i / (dim / 4))
                table[n, half * dim // 2 + i] = math.sin(angle)
                table[n, half * dim // 2 + dim // 4 + i] = math.cos(angle)
    tokens = torch.cat([state["cls_token"][0], linear(state, "patch_embed.proj", rows) + table])
    for layer in (f"encoder.layers.{i}" for i in range(2)):
        inner = normed(state, f"{layer}.self_attn_layer_norm", tokens)
        q, k, v = (linear(state, f"{layer}.self_attn.{n}_proj", inner).unflatten(-1, (16, -1)) for n in "qkv")
        attended = normed(state, f"{layer}.self_attn.inner_attn_ln", dilated(q, k, v, segments).flatten(1))
        tokens = tokens + linear(state, f"{layer}.self_attn.out_proj", attended)
        inner = F.gelu(linear(state, f"{layer}.ffn.fc1", normed(state, f"{layer}.final_layer_norm", tokens)))
        tokens = tokens + linear(state, f"{layer}.ffn.fc2", normed(state, f"{layer}.ffn.ffn_layernorm", inner))
    return normed(state, "norm", normed(state, "encoder.layer_norm", tokens), 1e-6)[0]


@pytest.mark.parametrize(("n_tiles", "most"), [(5, 1 << 26), (36, 1 << 26), (36, 40)])
def test_longnet_is_its_formulas(n_tiles: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fewer tokens than a segment has, of more, and computed in parts."""
    segments = (8, 11, 16, 23, 32)
    monkeypatch.setattr(longnet, "SEGMENTS", segments)
    monkeypatch.setattr(longnet, "LARGEST", most)
    generator = torch.Generator().manual_seed(n_tiles)
    model = LongNet(6, dim=32, depth=2).eval()
    state = {key: torch.randn(own.shape, generator=generator) * 0.5 for key, own in model.state_dict().items()}
    model.load_state_dict(state)
    rows = torch.randn(n_tiles, 6, generator=generator)
    xy = [(n % 7, n // 7) for n in range(n_tiles)]
    with torch.inference_mode():
        found = model(rows, torch.tensor(xy))
    torch.testing.assert_close(found, long_net(state, rows, xy, segments), rtol=1e-3, atol=1e-4)


def test_segments_are_those_of_the_authors() -> None:
    exponents = np.linspace(np.log2(1024), int(np.log2((262144 // 256) ** 2)), 5)
    assert tuple(np.power(2, exponents).astype(int).tolist()) == longnet.SEGMENTS


def test_places_are_whole_tiles_and_not_beyond_the_grid(tmp_path: Path) -> None:
    header = a_bag(tmp_path / "a_0.h5", "gigapath", l0_px_per_px=1.0)
    assert places(header)[[0, 15, 16, 17]].tolist() == [[0, 0], [15, 0], [0, 1], [1, 1]]
    odd = np.rint(np.stack(np.divmod(np.arange(40), 16), axis=1) * 256 * 1.0018).astype(np.int64)
    told = replace(facts("b_0"), l0_px_per_px=1.0018)
    write_bag(tmp_path / "b_0.h5", [np.ones((40, 4), np.float16)], odd, told)
    assert places(read_header(tmp_path / "b_0.h5")).tolist() == places(header).tolist()
    write_bag(tmp_path / "c_0.h5", [np.ones((1, 4), np.float16)], np.array([[0, 256_000]]), facts("c_0"))
    with pytest.raises(BagError, match="within 1000 x 1000 places"):
        places(read_header(tmp_path / "c_0.h5"))
    write_bag(tmp_path / "d_0.h5", [np.ones((2, 4), np.float16)], np.zeros((2, 2), int), facts("d_0"))
    with pytest.raises(BagError, match="expected one row for each tile"):
        places(read_header(tmp_path / "d_0.h5"))


def test_bags_that_it_was_not_made_for_are_refused(tmp_path: Path) -> None:
    encoder = PublishedSlideEncoder("feather", WeightsChoice(random_seed=0))
    assert "random weights" in encoder.spec.caution
    encoder.check(a_bag(tmp_path / "a_0.h5", "feather", encoder="conch_v15"), off_recipe=False)
    with pytest.raises(RequestError, match=r"made for bags of conch-v1\.5, found uni in .*a_0"):
        encoder.check(a_bag(tmp_path / "a_0.h5", "feather", encoder="uni"), off_recipe=False)
    other = a_bag(tmp_path / "a_0.h5", "feather", mpp=1.0)
    with pytest.raises(RequestError, match=r"256 um at 0\.5 um/px, found 512 um at 1 um/px .*--mpp 0\.5 --tile-px 512"):
        encoder.check(other, off_recipe=False)
    encoder.check(other, off_recipe=True)
    with pytest.raises(RequestError, match="holds one vector for the slide already"):
        encoder.check(a_bag(tmp_path / "a_0.h5", "feather", recipe={"slide_encoder": {}}), off_recipe=False)


def test_weights_that_are_not_its_own_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"patch_embed.0.weight": torch.ones(512, 768)}, tmp_path / "w.safetensors")
    with pytest.raises(RequestError, match="expected the 8 tensors of this model, found 7 missing"):
        PublishedSlideEncoder("feather", WeightsChoice(file=tmp_path / "w.safetensors"))
    with pytest.raises(RequestError, match="outside the hub"):
        PublishedSlideEncoder("chief", WeightsChoice())

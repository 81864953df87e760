"""Published encoders: their architectures, their weights from a hub's cache or a file, and their um/px."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from features.bags.bag import read_header
from features.encoders.presets import PRESETS
from features.encoders.published.photographs import PHOTOGRAPHS
from features.encoders.registry import build_encoder, entries
from features.encoders.spec import EncoderSpec, WeightsChoice
from features.encoders.tile_input import TileInput
from features.encoders.timm_encoder import Architecture
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from wsi.errors import RequestError
from wsi.store.tile_store import TileStore

CPU = torch.device("cpu")
MILLIONS = {
    "uni": 303.4,
    "uni2-h": 681.4,
    "virchow": 631.2,
    "virchow2": 631.2,
    "virchow2-cls": 631.2,
    "gigapath": 1135.0,
    "h-optimus-0": 1134.8,
    "h-optimus-1": 1134.8,
    "phikon": 85.8,
    "phikon-v2": 303.4,
    "kaiko-vits16": 21.7,
    "kaiko-vits8": 21.7,
    "kaiko-vitb16": 85.8,
    "kaiko-vitb8": 85.8,
    "kaiko-vitl14": 304.4,
    "lunit-vits16": 21.7,
    "lunit-vits8": 21.7,
    "gigapath-flash": 21.7,
    "h0-mini": 85.7,
    "h0-mini-mean": 85.7,
    "midnight-12k": 1134.8,
    "midnight-12k-cls": 1134.8,
    "openmidnight": 1134.8,
    "hibou-b": 85.7,
    "hibou-l": 303.7,
    "gpfm": 303.2,
    "ctranspath": 27.5,
    "conch": 87.6,
    "conch-v1.5": 306.7,
    "keep": 304.7,
    "musk": 303.9,
    "dinov2-vits14": 22.1,
    "dinov2-vitb14": 86.6,
    "dinov2-vitl14": 304.4,
    "dinov2-vitg14": 1136.5,
    "dinov2-vits14-reg4": 22.1,
    "dinov2-vitb14-reg4": 86.6,
    "dinov2-vitl14-reg4": 304.4,
    "dinov2-vitg14-reg4": 1136.5,
    "dinov3-vits16": 21.6,
    "dinov3-vitb16": 85.7,
    "dinov3-vitl16": 303.1,
    "siglip-vitb16": 92.9,
    "siglip-so400m14": 427.7,
    "siglip2-vitb16": 92.9,
    "siglip2-so400m14": 427.7,
}
"""Parameters, as the cards tell them, or as follow from the layers that cards and papers tell."""
SEEN_OTHERWISE = {
    *("virchow2-cls", "h0-mini", "midnight-12k-cls", "openmidnight", "gpfm", "keep", "siglip-so400m14"),
    *(name for name in PRESETS if re.match(r"dinov[23]-vit[blg]|siglip2", name)),
}
"""Architectures of which another one of the list differs in width, depth or pooling alone."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SEEN_OTHERWISE)) for name in PRESETS]
)
def test_the_architecture_is_the_published_one(name: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        model = Architecture(name, preset).create()
        features = model.eval()(torch.zeros(2, 3, preset.input_px, preset.input_px))
    assert tuple(features.shape) == (2, preset.dim)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.1)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_timm_says_the_same_of_photographs(name: str) -> None:
    preset, told = PRESETS[name], timm.get_pretrained_cfg(PHOTOGRAPHS[name].hub.removeprefix("timm/"))
    assert told is not None, "timm knows no such weights"
    assert (preset.mean, preset.std, preset.interpolation) == (told.mean, told.std, told.interpolation)
    assert preset.input_px == (224 if "dinov2" in name else told.input_size[-1])  # 518 px at training: see the docs
    assert preset.licence.lower().replace(" ", "-") == told.license


def test_every_published_encoder_tells_what_it_needs() -> None:
    for name, entry in entries()[0].items():
        assert entry.licence, name
        if name in PRESETS:
            assert entry.hub, name
            assert entry.source, name
            assert entry.needs == ("an account that accepted the terms" if entry.gated else "a download")
            assert bool(entry.mpps) is (name not in PHOTOGRAPHS)


def test_class_and_mean_leave_the_registers_out() -> None:
    preset = PRESETS["virchow2"]
    small: dict[str, Any] = {"depth": 1, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 4.0}
    torch.manual_seed(0)
    model = Architecture("virchow2", preset).create(**small).eval()
    tiles = torch.rand(2, 3, 224, 224)
    assert isinstance(model.model, torch.nn.Module)
    with torch.inference_mode():
        tokens = model.model(tiles)
        features = model(tiles)
    assert tokens.shape == (2, 1 + 4 + 256, 64)
    torch.testing.assert_close(features, torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1))


def hub_cache(home: Path, hub: str, model: torch.nn.Module, architecture: str) -> None:
    """Make the cache that a download of the repository leaves."""
    folder = home / "hub" / f"models--{hub.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    safetensors.torch.save_file(model.state_dict(), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps({"architecture": architecture, "num_classes": 0}))


ASK = """
import sys
import numpy as np
import torch
from features.encoders.spec import WeightsChoice
from features.encoders.registry import build_encoder
from wsi.errors import RequestError
name, out, *missing = sys.argv[1:]
for other in missing:
    try:
        build_encoder(other)
    except RequestError as error:
        print(error)
try:
    encoder = build_encoder(name)
except RequestError as error:
    print(error)
    sys.exit(1)
with torch.inference_mode():
    features = encoder.encode(torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224))
np.save(out, features.numpy())
"""


def ask(name: str, out: Path, *missing: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build an encoder in a process of its own: the hub's client reads its settings when it is imported."""
    own = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()} | environment
    return subprocess.run(
        [sys.executable, "-c", ASK, name, str(out), *missing], env=own, text=True, capture_output=True, timeout=120
    )


def test_weights_come_from_the_hub_cache_without_a_network_and_the_message_says_what_to_copy(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model("vit_small_patch16_224", num_classes=0, dynamic_img_size=True).eval()
    hub_cache(tmp_path, PRESETS["lunit-vits16"].hub, model, "vit_small_patch16_224")
    done = ask("lunit-vits16", tmp_path / "f.npy", "phikon-v2", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    with torch.inference_mode():
        expected = model(torch.linspace(-1, 1, 3 * 224 * 224).reshape(1, 3, 224, 224)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), expected, atol=1e-5)
    assert "copy the hub's cache of owkin/phikon-v2 here (HF_HOME) or give its file by --weights FILE" in done.stdout


class Gate(BaseHTTPRequestHandler):
    """A hub that gives nobody anything, and says why as the real one does."""

    def do_HEAD(self) -> None:
        """Refuse."""
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to this model is restricted.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_gated_weights_without_a_token_are_one_clear_line(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        done = ask("uni", tmp_path / "f.npy", HF_HOME=str(tmp_path), HF_ENDPOINT=endpoint)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("encoder uni: its weights are gated and this account may not have them: accept the")
    assert "MahmoodLab/uni" in done.stdout
    assert "HF_TOKEN" in done.stdout


def as_transformers(state: dict[str, torch.Tensor], version: int) -> dict[str, torch.Tensor]:
    """Rename timm's keys to those of the transformers library's DINOv2."""
    result = {"embeddings.mask_token": torch.zeros(1, 8)}
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
        "attn.proj": "attention.output.dense" if version == 4 else "attention.o_proj",
    }
    parts = ("query", "key", "value") if version == 4 else ("q_proj", "k_proj", "v_proj")
    inner = "attention.attention" if version == 4 else "attention"
    for key, tensor in state.items():
        if not key.startswith("blocks."):
            top = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
            top |= {f"norm.{kind}": f"layernorm.{kind}" for kind in ("weight", "bias")}
            top |= {
                f"patch_embed.proj.{kind}": f"embeddings.patch_embeddings.projection.{kind}"
                for kind in ("weight", "bias")
            }
            result[top[key]] = tensor
            continue
        _, block, rest = key.split(".", 2)
        module, _, kind = rest.rpartition(".")
        if module == "attn.qkv":
            for part, piece in zip(parts, tensor.chunk(3), strict=True):
                result[f"encoder.layer.{block}.{inner}.{part}.{kind}"] = piece.clone()
        elif kind == "gamma":
            result[f"encoder.layer.{block}.layer_scale{module[-1]}.lambda1"] = tensor
        else:
            result[f"encoder.layer.{block}.{names[module]}.{kind}"] = tensor
    return result


@pytest.mark.parametrize("version", [4, 5])
def test_files_of_the_transformers_library_load(tmp_path: Path, version: int) -> None:
    model = timm.create_model("vit_small_patch16_224", num_classes=0, dynamic_img_size=True, init_values=1.0)
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(as_transformers(model.state_dict(), version), file)
    plain = {key: value for key, value in model.state_dict().items() if ".ls" not in key}
    with pytest.raises(RequestError, match="24 unexpected"):  # the layers' scales, which this architecture lacks
        build_encoder("lunit-vits16", WeightsChoice(file))
    safetensors.torch.save_file(as_transformers(plain, version), file)
    loaded = build_encoder("lunit-vits16", WeightsChoice(file))
    for key, value in loaded.module.state_dict().items():  # type: ignore[attr-defined]
        torch.testing.assert_close(value, plain[key], rtol=0, atol=0)


SPEC = EncoderSpec(
    name="e", dim=1, input_px=224, mpps=(0.5, 1.0), trained=True, weights_sha256="", licence="", description=""
)


@pytest.mark.parametrize(
    ("tile_px", "mpp", "fits"),
    [
        (224, 0.5, True),
        (256, 0.5, True),
        (512, 0.25, True),
        (224, 1.0, True),
        (512, 0.5, True),
        (512, 1.0, False),
        (224, 0.25, False),
    ],
)
def test_what_counts_is_the_scale_at_the_input(tile_px: int, mpp: float, fits: bool) -> None:
    assert (SPEC.check_mpp(tile_px, mpp) == "") is fits


def test_only_the_middle_is_encoded_where_the_encoder_was_made_so() -> None:
    spec = EncoderSpec(
        name="e", dim=1, input_px=224, resize_px=256, trained=True, weights_sha256="", licence="", description=""
    )
    tiles = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    torch.testing.assert_close(TileInput(spec, CPU)(tiles), tiles[:, :, 16:240, 16:240].float() / 255)
    assert TileInput(spec, CPU)(torch.zeros((1, 3, 512, 512), dtype=torch.uint8)).shape == (1, 3, 224, 224)


def test_tiles_of_another_scale_are_refused_unless_asked(
    pyramid_slide: Path, tiled: Callable[..., TileStore], tmp_path: Path
) -> None:
    store = tiled(pyramid_slide, tmp_path, target_mpp=2.0)
    options = {"stores": (Path(store.path),), "encoder": "lunit-vits16", "random_weights": 0, "device": "cpu"}
    with pytest.raises(RequestError, match=r"made for tiles of 0\.5 or 0\.25 um/px at 224 px, found .* --off-recipe"):
        extract(ExtractOptions(out=tmp_path / "no", **options))  # type: ignore[arg-type]
    assert not list(tmp_path.rglob("*.h5"))
    summary = extract(ExtractOptions(out=tmp_path / "yes", off_recipe=True, **options))  # type: ignore[arg-type]
    assert summary.exit_code == 0
    bag = next((tmp_path / "yes").glob("*.h5"))
    assert "made for tiles of" in read_header(bag).provenance["off_recipe"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["timm:convnext_large.fb_in22k", "timm:tf_efficientnetv2_l.in21k", "phikon-v2", "virchow2"]
)
def test_large_encoders_run(name: str) -> None:
    encoder = build_encoder(name, WeightsChoice(random_seed=0))
    tiles = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    with torch.inference_mode():
        features = encoder.encode(TileInput(encoder.spec, CPU)(tiles))
    assert features.shape == (2, encoder.spec.dim)
    assert features.isfinite().all()

"""What every encoder must satisfy, and the registry."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from features.contract import CHECKS, Build, check_encoder
from features.encoders.device import caution_of, resolve_device, resolve_precision
from features.encoders.registry import build_encoder, entries
from features.encoders.spec import WeightsChoice
from features.encoders.texture_encoder import TextureEncoder
from features.encoders.tile_encoder import encoder
from features.encoders.tile_input import TileInput
from wsi.errors import RequestError

CPU = torch.device("cpu")
NAMES = {
    "texture": WeightsChoice(),
    "timm:resnet10t": WeightsChoice(random_seed=3),
    "timm:test_convnext.r160_in1k": WeightsChoice(random_seed=3),
    "timm:test_vit.r160_in1k": WeightsChoice(random_seed=3),
    "texture+timm:test_vit.r160_in1k": WeightsChoice(random_seed=3),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_encoder_keeps_the_contract(name: str, check: Callable[[Build], None]) -> None:
    check(lambda: build_encoder(name, NAMES[name]))


@pytest.mark.parametrize("name", NAMES)
def test_no_encoder_claims_to_have_learnt(name: str) -> None:
    assert not build_encoder(name, NAMES[name]).spec.trained


class Broken(TextureEncoder):
    """Each row takes something of its batch."""

    def encode(self, tiles_NCHW: torch.Tensor) -> torch.Tensor:
        rows = super().encode(tiles_NCHW)
        return rows + rows.mean(0)


def test_the_contract_finds_what_is_broken() -> None:
    with pytest.raises(AssertionError, match="depends on the other tiles"):
        check_encoder(Broken)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(RequestError, match=r"encoder resnet50: expected texture, timm:<model>, or"):
        build_encoder("resnet50")


PLUGIN = """
from features.encoders.registry import EncoderEntry
from features.encoders.texture_encoder import TextureEncoder

ENTRY = EncoderEntry("ours:<size>", "an encoder of another package", "MIT", lambda name, weights: TextureEncoder())
"""


def install(folder: Path, value: str) -> None:
    """Write what an installed package consists of."""
    (folder / "gigamil_plugin_of_test.py").write_text(PLUGIN)
    info = folder / "gigamil_plugin_of_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gigamil-plugin-of-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gigamil.encoders]\n{value}\n")


def test_other_packages_register_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "ours = gigamil_plugin_of_test:ENTRY")
    monkeypatch.syspath_prepend(tmp_path)
    assert entries()[0]["ours"].name_form == "ours:<size>"
    check_encoder(lambda: build_encoder("ours:big"))


@pytest.mark.parametrize(
    ("value", "told"),
    [("ours = gigamil_plugin_of_test:NONE", "cannot be loaded"), ("timm = gigamil_plugin_of_test:ENTRY", "is taken")],
)
def test_a_broken_entry_point_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, told: str) -> None:
    install(tmp_path, value)
    monkeypatch.syspath_prepend(tmp_path)
    known, cautions = entries()
    assert len(cautions) == 1
    assert re.search(f"entry point .* of gigamil.encoders.*{told}", cautions[0])
    assert "ours" not in known
    assert build_encoder("texture").spec.name == "texture"


@pytest.mark.parametrize("code", ["raise ImportError('no such\\nlibrary')", "raise SystemExit(3)", "ENTRY = 5"])
def test_a_package_that_cannot_be_imported_fails_only_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    install(tmp_path, "broken = gigamil_plugin_that_breaks:ENTRY")
    (tmp_path / "gigamil_plugin_that_breaks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("texture", "timm:test_vit.r160_in1k"):
        assert build_encoder(name, NAMES[name]).spec.name == name
    assert [line for line in entries()[1] if "gigamil_plugin_that_breaks" in line]
    with pytest.raises(RequestError, match=r"entry point broken of gigamil\.encoders") as caught:
        build_encoder("broken")
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="encoder unknown: expected texture"):
        build_encoder("unknown")


def test_weights_choice_is_checked(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected a seed"):
        WeightsChoice(random_seed=-1)
    with pytest.raises(RequestError, match="expected a file of weights"):
        WeightsChoice(file=tmp_path / "weights.pt")


def test_input_is_timms_own_transform_without_its_crop() -> None:
    from PIL import Image
    from timm.data import create_transform

    spec = build_encoder("timm:resnet10t", WeightsChoice(random_seed=0)).spec
    rng = np.random.default_rng(11)
    smooth = np.kron(rng.integers(0, 256, (16, 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    transform = create_transform(
        (3, spec.input_px, spec.input_px), mean=spec.mean, std=spec.std, interpolation="bicubic", crop_pct=1.0
    )
    expected = transform(Image.fromarray(smooth)).numpy()
    found = TileInput(spec, CPU)(torch.from_numpy(smooth.transpose(2, 0, 1)[None].copy()))[0].numpy()
    one_level = 1 / 255 / min(spec.std)
    assert np.abs(found - expected).max() <= 2.01 * one_level  # Pillow rounds between its two passes, too
    assert np.abs(found - expected).mean() <= 0.1 * one_level


def test_with_crop_the_input_is_timms_own_transform() -> None:
    from PIL import Image
    from timm.data import create_transform

    name = "timm:resnet10t"
    plain = build_encoder(name, WeightsChoice(random_seed=0)).spec
    spec = build_encoder(name, WeightsChoice(random_seed=0), crop=True).spec
    assert plain.crop_pct < 1
    assert "crop_pct" not in plain.recipe()
    assert spec.recipe()["crop_pct"] == plain.crop_pct
    smooth = np.kron(np.random.default_rng(11).integers(0, 256, (16, 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    transform = create_transform(
        (3, spec.input_px, spec.input_px), mean=spec.mean, std=spec.std, interpolation="bicubic", crop_pct=spec.crop_pct
    )
    expected = transform(Image.fromarray(smooth)).numpy()
    found = TileInput(spec, CPU)(torch.from_numpy(smooth.transpose(2, 0, 1)[None].copy()))[0].numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() <= 0.1 / 255 / min(spec.std)
    with pytest.raises(RequestError, match="--crop: the transform of texture crops nothing"):
        build_encoder("texture", crop=True)
    joint = build_encoder(f"texture+{name}", WeightsChoice(random_seed=0), crop=True).spec
    assert [member.cropped for member in joint.members] == [False, True]


def test_device_and_precision_are_checked() -> None:
    spec = build_encoder("texture").spec
    assert resolve_precision("auto", CPU, spec) == "fp32"
    with pytest.raises(RequestError, match="texture runs in fp32 only"):
        resolve_precision("bf16", CPU, spec)
    for asked in ("tpu", "cuda:x", "cuda:99"):
        with pytest.raises(RequestError, match=f"--device {asked}: expected"):
            resolve_device(asked)


@pytest.mark.parametrize(
    ("flags", "bf16", "fp16"),
    [
        ("flags\t\t: fpu avx2 avx512f amx_tile avx512_bf16\n", True, False),
        ("flags\t\t: fpu avx2 amx_bf16 amx_fp16\n", True, True),
        ("flags\t\t: fpu avx2 avx512f\n", False, False),
        ("Features\t: fp asimd bf16 i8mm\n", True, False),
        ("model name\t: avx512_bf16\nflags\t\t: fpu\n", False, False),
    ],
)
def test_a_cpu_without_units_for_half_precision_is_named(tmp_path: Path, flags: str, bf16: bool, fp16: bool) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\n{flags}\nprocessor\t: 1\n{flags}")
    for precision, able in (("fp32", True), ("bf16", bf16), ("fp16", fp16)):
        told = caution_of(precision, CPU, info)
        assert bool(told) is not able
        assert able or told.startswith(f"caution: --precision {precision}: expected a CPU with units for it (")
        assert not caution_of(precision, torch.device("cuda"), info)
    assert not caution_of("bf16", CPU, tmp_path / "none")  # another system, which does not tell


@pytest.mark.parametrize("model", ["test_convnext.r160_in1k", "test_vit.r160_in1k", "resnet10t"])
def test_in_bf16_a_tile_is_near_fp32_whatever_stands_beside_it(model: str) -> None:
    rng = np.random.default_rng(5)
    tiles = np.kron(rng.integers(0, 256, (6, 3, 32, 32)), np.ones((1, 1, 7, 7))).astype(np.uint8)
    others = np.concatenate([tiles[:1], 255 - tiles[:0:-1]])
    full, half = (encoder(f"timm:{model}", random_weights=1, device="cpu", precision=own) for own in ("fp32", "bf16"))
    expected, found = full.encode_tiles(tiles), half.encode_tiles(tiles)
    assert np.array_equal(found[0], half.encode_tiles(others)[0])
    assert 0 < np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)
    # in batches of another size other kernels may round otherwise
    assert np.linalg.norm(half.encode_tiles(tiles, batch_size=1) - found) < 0.02 * np.linalg.norm(expected)

"""Several encoders in one pass over the pixels."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.bags.bag import read_features, read_header
from features.encoders.registry import build_encoder
from features.encoders.spec import WeightsChoice
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from wsi.errors import RequestError
from wsi.progress.outcome import Status

FIRST, SECOND = "timm:test_convnext.r160_in1k", "timm:test_vit.r160_in1k"


def options(stores: Path, out: Path, encoder: str | tuple[str, ...], **more: Any) -> ExtractOptions:
    return ExtractOptions(
        stores=(stores,), out=out, encoder=encoder, random_weights=0, device="cpu", batch_size=16, **more
    )


@pytest.fixture(scope="module")
def alone(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bags of each encoder by itself."""
    folders = {name: tmp_path_factory.mktemp("alone") for name in (FIRST, SECOND)}
    for name, folder in folders.items():
        assert extract(options(stores, folder, name)).exit_code == 0
    return folders


def test_joint_bags_hold_both_to_the_last_bit(stores: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    assert extract(options(stores, tmp_path, f"{FIRST}+{SECOND}")).exit_code == 0
    for bag in sorted(tmp_path.glob("*.h5")):
        parts = [read_features(alone[name] / bag.name) for name in (FIRST, SECOND)]
        np.testing.assert_array_equal(read_features(bag), np.concatenate(parts, axis=1))
        assert read_header(bag).encoder == f"{FIRST}+{SECOND}"


@pytest.mark.parametrize("nproc", [1, 2])
def test_separate_bags_are_those_of_separate_runs(
    stores: Path, alone: dict[str, Path], tmp_path: Path, nproc: int
) -> None:
    together = options(stores, tmp_path, (FIRST, SECOND), nproc=nproc)
    assert extract(together).exit_code == 0
    for name in (FIRST, SECOND):
        own = sorted((tmp_path / name.replace(":", "-")).glob("*.h5"))
        assert len(own) == 3
        for bag in own:
            assert bag.read_bytes() == (alone[name] / bag.name).read_bytes()
    again = extract(together)
    assert {outcome.status for outcome in again.outcomes} == {Status.SKIPPED}
    own[0].unlink()
    assert sorted(outcome.status for outcome in extract(together).outcomes).count(Status.DONE) == 1
    assert own[0].read_bytes() == (alone[SECOND] / own[0].name).read_bytes()


def test_one_file_of_weights_cannot_serve_two(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").touch()
    with pytest.raises(RequestError, match="expected one encoder with it, found 2"):
        build_encoder("texture+timm:resnet18", WeightsChoice(tmp_path / "w.safetensors"))
    with pytest.raises(RequestError, match="found one twice"):
        build_encoder("texture+texture")


def test_channels_first_gives_the_same_features(stores: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    assert extract(options(stores, tmp_path, (FIRST, SECOND), channels_last=False)).exit_code == 0
    for name in (FIRST, SECOND):
        for bag in sorted((tmp_path / name.replace(":", "-")).glob("*.h5")):
            ours, plain = (read_features(path).astype(np.float32) for path in (bag, alone[name] / bag.name))
            np.testing.assert_allclose(ours, plain, rtol=2e-3, atol=2e-3)
            assert read_header(bag).provenance["channels_last"] is False


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile wants a C++ compiler")
@pytest.mark.filterwarnings("ignore:Guards may run slower")
def test_compiled_kernels_give_the_same_features(stores: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    assert extract(options(stores, tmp_path, FIRST, compiled=True)).exit_code == 0
    for bag in sorted(tmp_path.glob("*.h5")):
        ours, plain = read_features(bag).astype(np.float32), read_features(alone[FIRST] / bag.name).astype(np.float32)
        np.testing.assert_allclose(ours, plain, rtol=2e-3, atol=2e-3)
        assert read_header(bag).provenance["compiled"] is True


@pytest.mark.slow
def test_without_a_compiler_the_option_is_refused_in_one_line(stores: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected an encoder of timm, found texture: leave --compile out"):
        extract(ExtractOptions(stores=(stores,), out=tmp_path / "t", compiled=True))
    env = os.environ | {"PATH": str(tmp_path), "CXX": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "cli", "extract", str(stores), "--out", str(tmp_path / "b"), "--encoder", FIRST]
    done = subprocess.run(
        [*command, "--random-weights", "0", "--compile"], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be compiled here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b").exists() or not list((tmp_path / "b").iterdir())

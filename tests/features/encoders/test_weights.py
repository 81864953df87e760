"""Weights from files: there and back, wrong ones, and nothing executed."""

import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from features.encoders.registry import build_encoder
from features.encoders.spec import WeightsChoice
from features.encoders.weights import weights_sha256
from wsi.errors import RequestError

NAME = "timm:test_convnext.r160_in1k"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(9)
    return timm.create_model(NAME.partition(":")[2], num_classes=0).state_dict()


def built(file: Path) -> str:
    spec = build_encoder(NAME, WeightsChoice(file=file)).spec
    assert spec.trained
    assert spec.caution == ""
    return spec.weights_sha256


def test_every_form_of_file_gives_the_same_weights(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "b.pt")
    torch.save({"model": {f"model.{k}": v for k, v in state.items()}}, tmp_path / "c.pth")
    torch.save(state | {"head.fc.weight": torch.zeros(10, 64), "head.fc.bias": torch.zeros(10)}, tmp_path / "d.bin")
    hashes = {built(path) for path in tmp_path.iterdir()}
    model = timm.create_model(NAME.partition(":")[2], num_classes=0)
    model.load_state_dict(state)
    assert hashes == {weights_sha256(model)}


def moved(state: dict[str, torch.Tensor], prefix: str, by: float = 0.0) -> dict[str, torch.Tensor]:
    return {prefix + key: value + by if value.is_floating_point() else value for key, value in state.items()}


def test_prefixes_of_training_programs_are_stripped_and_told(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    head = {"dino_head.mlp.weight": torch.zeros(3)}
    forms = {
        "dino": {"student": moved(state, "module.backbone.", 1), "teacher": moved(state, "backbone."), "epoch": 3,
                 "args": Namespace(lr=1)},
        "dinov2": {"teacher": moved(state, "backbone.") | head},
        "clip": moved(state, "visual.trunk.") | {"logit_scale": torch.zeros(()), "text.w": torch.zeros(2)},
        "module": moved(state, "module.encoder."),
        "timm": {"state_dict": moved(state, "", 1), "state_dict_ema": moved(state, "")},
    }  # fmt: skip
    told = {
        "dino": "under teacher.backbone (a moving average) were taken",
        "dinov2": "1 others left out (teacher)",
        "clip": "under visual.trunk were taken, 2 others left out (logit_scale, text)",
        "module": "",
        "timm": "under state_dict_ema (a moving average) were taken",
    }
    model = timm.create_model(NAME.partition(":")[2], num_classes=0)
    model.load_state_dict(state)
    for form, content in forms.items():
        torch.save(content, tmp_path / f"{form}.pt")
        spec = build_encoder(NAME, WeightsChoice(file=tmp_path / f"{form}.pt")).spec
        assert spec.weights_sha256 == weights_sha256(model), form
        assert told[form] in spec.weights_note
        assert bool(spec.weights_note) == bool(told[form]) == ("weights_note" in spec.as_dict())


def test_a_model_that_is_not_whole_under_any_prefix_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    partly = moved(state, "teacher.backbone.")
    del partly["teacher.backbone.stem.0.weight"]
    torch.save(partly, tmp_path / "w.pt")
    with pytest.raises(RequestError, match=r"found 1 missing \(stem\.0\.weight\)"):
        built(tmp_path / "w.pt")


def test_hash_sees_every_number(state: dict[str, torch.Tensor]) -> None:
    model = timm.create_model(NAME.partition(":")[2], num_classes=0)
    model.load_state_dict(state)
    before = weights_sha256(model)
    assert before == weights_sha256(model)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    assert weights_sha256(model) != before


def test_random_weights_are_told_as_untrained() -> None:
    one, same, other = (build_encoder(NAME, WeightsChoice(random_seed=seed)).spec for seed in (1, 1, 2))
    assert one == same
    assert one.weights_sha256 != other.weights_sha256
    assert not one.trained
    assert "random weights (seed 1): untrained" in one.caution


def test_wrong_keys_are_named_in_one_line(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    wrong = dict(state)
    del wrong["stem.0.weight"]
    wrong["stem.extra"] = torch.zeros(2)
    wrong["stem.0.bias"] = torch.zeros(99)
    torch.save(wrong, tmp_path / "w.pt")
    with pytest.raises(RequestError) as caught:
        built(tmp_path / "w.pt")
    message = str(caught.value)
    assert "1 missing (stem.0.weight)" in message
    assert "1 unexpected (stem.extra)" in message
    assert "stem.0.bias (99,) in place of" in message
    assert "\n" not in message


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_is_never_executed(tmp_path: Path, legacy: bool) -> None:
    trap = {"state_dict": {"x": torch.zeros(2)}, "trap": Trap(tmp_path / "executed")}
    if legacy:
        (tmp_path / "w.pt").write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, tmp_path / "w.pt")
    with pytest.raises(RequestError, match=r"--weights .*w\.pt: expected") as caught:
        built(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"image_id,label\n", "found another kind of file"), (b"\x02" + bytes(7) + b"{}", "found safetensors: name it")],
)
def test_another_kind_of_file_is_not_called_code(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(RequestError, match=told):
        built(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_garbage_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(RequestError, match=f"{name}: expected") as caught:
        built(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_what_is_no_state_dict_is_told(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(RequestError, match="found list"):
        built(tmp_path / "list.pt")
    torch.save({"epoch": 4, "loss": 0.1}, tmp_path / "dict.pt")
    with pytest.raises(RequestError, match="found keys epoch, loss"):
        built(tmp_path / "dict.pt")


def test_unreachable_weights_and_unknown_models_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RequestError, match=r"use --weights FILE, or take random weights") as caught:
        build_encoder("timm:resnet10t")
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match=r"near: .*resnet10t"):
        build_encoder("timm:resnet10x")

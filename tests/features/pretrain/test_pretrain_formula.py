"""Pretraining on formula images: any division gives the same bits, stopping costs nothing, what it learns is real."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from commanding import Command

from features.encoders.lineage import read_lineage
from features.learning.scalars import EVENTS
from features.pretrain import loop
from features.pretrain.options import PretrainOptions
from features.pretrain.run import pretrain
from wsi.errors import ItemError, RecipeMismatchError, RequestError
from wsi.machine.interrupt import Leaving
from wsi.progress.outcome import Status

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "source": ("formula",), "formula": "fractaldb", "classes": 4, "instances": 6, "network": "test_resnet", "size": 32,
    "epochs": 2, "batch_size": 12, "lr": 2e-2, "device": "cpu",
}  # fmt: skip


def chosen(out: Path, **more: object) -> PretrainOptions:
    return PretrainOptions(**(SETTINGS | {"out": out} | more))  # type: ignore[arg-type]


def trained(out: Path, **more: object) -> Path:
    summary = pretrain(chosen(out, **more))
    assert [outcome.status for outcome in summary.outcomes] == [Status.DONE]
    return out


def table(weights: Path, name: str) -> list[dict[str, float]]:
    with weights.with_name(f"{weights.stem}.{name}.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, two accumulated parts."""
    return trained(tmp_path_factory.mktemp("reference") / "w.safetensors", accumulate=2)


def test_what_it_leaves(reference: Path) -> None:
    assert sorted(content(reference.parent)) == [
        "w.history.csv", "w.json", "w.safetensors", "w.steps.csv", f"w.tensorboard/{EVENTS}"
    ]  # fmt: skip
    history = table(reference, "history")
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert all(row["rank"] > 1 and row["spread"] > 0 for row in history)
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    found = safetensors.torch.load_file(reference)
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in state.items()}
    assert not torch.equal(found["bn1.running_mean"], state["bn1.running_mean"])
    facts = json.loads(reference.with_suffix(".json").read_text())
    assert facts["recipe"]["formula"] == "fractaldb"
    assert "stain_jitter" not in facts["recipe"]


def test_nobody_was_seen(reference: Path) -> None:
    lineage = read_lineage(reference)
    assert lineage is not None
    assert lineage.patients_sha256 == ()
    assert lineage.seen(["p0", ""]) == []


def test_two_ranks_do_what_two_parts_do_to_the_bit(reference: Path, tmp_path: Path) -> None:
    """Batch norm included: its running statistics go into the weights."""
    weights = trained(tmp_path / "w.safetensors", nproc=2)
    found, expected = (safetensors.torch.load_file(path) for path in (weights, reference))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert table(weights, "steps") == table(reference, "steps")
    assert table(weights, "history")[1:] == table(reference, "history")[1:]


def test_asked_to_leave_and_run_again_ends_with_the_same_bits(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked in the middle of the second epoch."""
    asked = iter([False, False, True])
    options = chosen(tmp_path / "w.safetensors", accumulate=2)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "asked_to_leave", lambda: next(asked))
        with pytest.raises(Leaving):
            pretrain(options)
    assert sorted(content(tmp_path)) == ["w.checkpoint", f"w.tensorboard/{EVENTS}"]
    with pytest.raises(RecipeMismatchError, match=r"lr: found 0.02, wanted 0.03"):
        pretrain(chosen(tmp_path / "w.safetensors", accumulate=2, lr=3e-2))
    pretrain(options)
    assert content(tmp_path) == content(reference.parent)
    assert pretrain(options).outcomes[0].status is Status.SKIPPED


def test_a_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match=r"not finite in epoch 1, step 2 of 2.*--lr \(now 1e\+30"):
        trained(tmp_path / "w.safetensors", lr=1e30, warmup_epochs=0.0, epochs=1)
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"formula": "nothing"}, "expected one of .*fractaldb"),
        ({"formula": ""}, "belong together"),
        ({"source": ("stores",)}, "belong together"),
        ({"images_per_epoch": 25}, "expected at most 24, as 4 classes with 6 instances have"),
        ({"batch_size": 12, "accumulate": 7}, "two images or more in each of 7 parts for batch norm, found 1"),
        ({"network": "resnet-18"}, "expected a model that timm .* knows"),
        ({"size": 16}, "--size 16: expected 32 pixels or more"),
        ({"network": "test_vit", "size": 70}, "--size 70: .* cannot take tiles of that size"),
        ({"published": True, "weights": "w.safetensors"}, "exclude each other"),
        ({"out": "w.pt"}, "ends in .safetensors"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, wrong: dict[str, object], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        pretrain(PretrainOptions(**(SETTINGS | {"out": tmp_path / "w.safetensors"} | wrong)))  # type: ignore[arg-type]
    assert content(tmp_path) == {}


SLOWLY = """
import pickle, sys, time
from pathlib import Path
from features.learning import loop
from features.pretrain.run import pretrain

original = loop.write_checkpoint
def slowly(path, standing, recipe):
    original(path, standing, recipe)
    time.sleep(3)
loop.write_checkpoint = slowly

if __name__ == "__main__":
    pretrain(pickle.loads(Path(sys.argv[1]).read_bytes()))
"""


@pytest.mark.slow
def test_killed_and_run_again_ends_with_the_same_bits(reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "w.safetensors"
    options = chosen(out, accumulate=2, checkpoint_steps=1)
    (tmp_path / "options").write_bytes(pickle.dumps(options))
    (tmp_path / "slow.py").write_text(SLOWLY)
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), str(tmp_path / "options")], cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not options.beside(".checkpoint").exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not out.exists()
    pretrain(options)
    assert content(out.parent) == content(reference.parent)


@pytest.mark.slow
@pytest.mark.parametrize("nproc", [1, 2])
def test_saved_on_a_signal_and_run_again_ends_with_the_same_bits(reference: Path, tmp_path: Path, nproc: int) -> None:
    out = tmp_path / "out" / "w.safetensors"
    words = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items() if name != "source"]
    parts = ("--nproc", nproc, "--accumulate", 2 // nproc)
    command = Command("pretrain", "--source", "formula", "--out", out, *parts, *words)
    try:
        command.wait_for(lambda: any(out.parent.glob(".*.lock")))
        code, told = command.stop(signal.SIGUSR2, group=False, soon=100)
        assert code == 75
        assert told.endswith("gigamil: saved: give the same command again\n")
    finally:
        command.kill()
    trained(out, accumulate=2 // nproc, nproc=nproc)
    assert safetensors.torch.load_file(out).keys() == safetensors.torch.load_file(reference).keys()
    assert table(out, "steps") == table(reference, "steps")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_does_what_a_cpu_does(reference: Path, tmp_path: Path, precision: str) -> None:
    found = trained(tmp_path / "w.safetensors", device="cuda", precision=precision, accumulate=2)
    losses = [[row["loss"] for row in table(weights, "steps")] for weights in (found, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2 if precision == "fp32" else 0.1)

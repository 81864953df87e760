"""Fine-tuning end to end on small stores: any division gives the same curve, a kill costs nothing, nothing leaks."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from commanding import Command, workers_of
from making import picture, write_deflate

from features.bags.bag import find_bags, read_header
from features.encoders.lineage import patient_sha256, read_lineage
from features.encoders.registry import build_encoder
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from features.finetune import loop
from features.finetune.cohort import gather
from features.finetune.options import FinetuneOptions
from features.finetune.run import finetune
from features.learning import loop as learning_loop
from features.learning.checkpoint import Standing
from mil.data.encoder_lineage import check_unseen
from wsi.errors import ItemError, RecipeMismatchError, RequestError
from wsi.progress.outcome import Silent, Status
from wsi.store.tile_store import find_stores
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

ROOT = Path(__file__).parents[3]
ENCODER = "timm:test_resnet"
PATIENTS = 9
CENTERS = 2


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine patients, ten slides of 256-px tiles: LAA is green, CE violet; ``stores/`` and ``train.csv``."""
    folder = tmp_path_factory.mktemp("cohort")
    made = {}
    for number, label in enumerate(("CE", "LAA")):
        pixels = picture(1100, 1300, seed=number)
        name = write_deflate(folder / f"{label}.tif", pixels if label == "CE" else pixels[:, :, [0, 2, 1]])
        assert tile(TileOptions(slides=(name,), out=folder, assume_mpp=0.5, workers=0)).exit_code == 0
        made[label] = folder / f"{label}.zarr"
    rows = [
        (f"p{n}_{i}", f"p{n}", "LAA" if n % 2 else "CE", n % CENTERS)
        for n in range(PATIENTS)
        for i in range(1 + (n == 0))
    ]
    for image_id, _, label, _ in rows:
        shutil.copytree(made[label], folder / "stores" / f"{image_id}.zarr")
    with (folder / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", "patient_id", "label", "center_id"), *rows])
    return folder


def chosen(cohort: Path, out: Path, **more: object) -> FinetuneOptions:
    settings = {
        "encoder": ENCODER, "random_weights": 1, "folds": 3, "epochs": 2, "batch_size": 5, "tiles_per_slide": 4,
        "sizes": (32, 48), "device": "cpu", "lr": 1e-3,
    }  # fmt: skip
    return FinetuneOptions(
        stores=(cohort / "stores",),
        manifest=cohort / "train.csv",
        out=out,
        **(settings | more),  # type: ignore[arg-type]
    )


def tuned(cohort: Path, out: Path, **more: object) -> Path:
    summary = finetune(chosen(cohort, out, **more))
    assert [outcome.status for outcome in summary.outcomes] == [Status.DONE]
    return out


def table(weights: Path, name: str) -> list[dict[str, float]]:
    with weights.with_name(f"{weights.stem}.{name}.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def splits_of(weights: Path) -> list[dict[str, str]]:
    with weights.with_name(f"{weights.stem}.splits.csv").open() as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def curve(weights: Path) -> list[float]:
    return [row["loss"] for row in table(weights, "steps")]


@pytest.fixture(scope="module")
def reference(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, two accumulated parts, everything switched on."""
    return tuned(cohort, tmp_path_factory.mktemp("reference") / "w.safetensors", accumulate=2, **EVERYTHING)


EVERYTHING = {"mixup": 0.3, "label_smoothing": 0.1, "ema": 0.9, "keep": "best"}


def test_two_ranks_do_what_one_does_with_accumulation(cohort: Path, reference: Path, tmp_path: Path) -> None:
    weights = tuned(cohort, tmp_path / "w.safetensors", nproc=2, **EVERYTHING)
    assert len(curve(weights)) >= 2 * 2
    np.testing.assert_allclose(curve(weights), curve(reference), rtol=0, atol=1e-5)
    for one, two in zip(table(weights, "history"), table(reference, "history"), strict=True):
        assert one == pytest.approx(two, abs=1e-5, nan_ok=True)
    found, expected = (safetensors.torch.load_file(path) for path in (weights, reference))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4)
    assert read_lineage(weights) == read_lineage(reference)
    assert sorted(content(tmp_path)) == sorted(content(reference.parent)) == [
        "w.head.safetensors", "w.history.csv", "w.json", "w.safetensors", "w.splits.csv", "w.steps.csv"
    ]  # fmt: skip


def test_parts_do_not_change_the_curve(cohort: Path, reference: Path, tmp_path: Path) -> None:
    whole = tuned(cohort, tmp_path / "w.safetensors", **EVERYTHING, activation_checkpointing=True)
    np.testing.assert_allclose(curve(whole), curve(reference), rtol=0, atol=1e-5)


SLOWLY = """
import pickle, sys, time
from pathlib import Path
from features.learning import loop
from features.finetune.run import finetune

original = loop.write_checkpoint
def slowly(path, standing, recipe):
    original(path, standing, recipe)
    time.sleep(3)
loop.write_checkpoint = slowly

if __name__ == "__main__":
    finetune(pickle.loads(Path(sys.argv[1]).read_bytes()))
"""


def test_killed_and_run_again_ends_with_the_same_bits(cohort: Path, reference: Path, tmp_path: Path) -> None:
    """Killed in the middle of an epoch, while a checkpoint of its first step is there."""
    import pickle

    out = tmp_path / "out" / "w.safetensors"
    options = chosen(cohort, out, accumulate=2, checkpoint_steps=1, **EVERYTHING)
    (tmp_path / "options").write_bytes(pickle.dumps(options))
    (tmp_path / "slow.py").write_text(SLOWLY)
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), str(tmp_path / "options")], cwd=ROOT, env=environment(),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not options.beside(".checkpoint").exists():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert not out.exists()
    with pytest.raises(RecipeMismatchError, match=r"lr: found 0.001, wanted 0.002"):
        finetune(chosen(cohort, out, accumulate=2, **EVERYTHING, lr=2e-3))
    seen = Notes()
    finetune(options, seen)
    assert seen.total == seen.seen < sum(row["tiles"] for row in table(out, "steps"))
    assert content(out.parent) == content(reference.parent)


class Notes(Silent):
    """Counts the bar."""

    def __init__(self) -> None:
        self.total = self.seen = 0.0

    def begin(self, title: str, total: float, unit: str) -> None:
        self.total = total

    def advance(self, amount: float) -> None:
        self.seen += amount


@pytest.mark.slow
@pytest.mark.parametrize("nproc", [1, 2])
def test_saved_on_a_signal_and_run_again_ends_with_the_same_bits(cohort: Path, tmp_path: Path, nproc: int) -> None:
    """Asked before the first step, it leaves after it, in the middle of the epoch."""
    out = tmp_path / "out" / "w.safetensors"
    words = ("--encoder", ENCODER, "--random-weights", 1, "--folds", 3, "--epochs", 2, "--batch-size", 5, "--lr", 1e-3)
    more = ("--tiles-per-slide", 4, "--sizes", "32,48", "--device", "cpu", "--nproc", nproc)
    given = ("finetune", cohort / "stores", "--manifest", cohort / "train.csv", "--out", out)
    command = Command(*given, *words, *more)
    try:
        command.wait_for(lambda: any(out.parent.glob(".*.lock")))
        told = command.stop(signal.SIGUSR2, group=False, soon=100)
        assert told == (75, "gigamil: saved: give the same command again\n")
    finally:
        command.kill()
    assert out.with_name("w.checkpoint").is_file()
    tuned(cohort, out, nproc=nproc)
    whole = tuned(cohort, tmp_path / "whole" / "w.safetensors", nproc=nproc)
    assert content(out.parent).keys() == content(whole.parent).keys()
    assert out.read_bytes() == whole.read_bytes()
    assert curve(out) == curve(whole)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def test_it_learns_and_leaves_batch_norm_statistics_alone(cohort: Path, tmp_path: Path) -> None:
    weights = tuned(cohort, tmp_path / "w.safetensors", epochs=6, jitter=0.0, lr=1e-2, sizes=(32,))
    losses = [row["train_loss"] for row in table(weights, "history")]
    assert losses[-1] < 0.5 * losses[0]
    assert table(weights, "history")[-1]["val_patient_auc"] == 1.0
    state = safetensors.torch.load_file(weights)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        fresh = timm.create_model("test_resnet", num_classes=0).state_dict()
    assert torch.equal(state["bn1.running_mean"], fresh["bn1.running_mean"])
    assert not torch.equal(state["bn1.weight"], fresh["bn1.weight"])
    convolutions = [name for name, value in fresh.items() if value.ndim == 4]
    assert not any(torch.equal(state[name], fresh[name]) for name in convolutions)


def test_weights_extract_and_their_lineage_arrives(cohort: Path, reference: Path, tmp_path: Path) -> None:
    stores = (cohort / "stores" / "p0_0.zarr", cohort / "stores" / "p1_0.zarr")
    assert extract(ExtractOptions(stores=stores, out=tmp_path, encoder=ENCODER, weights=reference)).exit_code == 0
    facts = json.loads(reference.with_suffix(".json").read_text())
    splits = splits_of(reference)
    trained = sorted({patient_sha256(row["patient_id"]) for row in splits if row["fold"] != "0"})
    assert facts["lineage"]["patients_sha256"] == trained
    assert 0 < len(trained) < PATIENTS
    for path in find_bags([tmp_path]):
        encoder = read_header(path).provenance["encoder"]
        assert encoder["lineage"] == facts["lineage"]
        assert encoder["trained"] is True
    headers = [read_header(path) for path in find_bags([tmp_path])]
    patients, folds = [row["patient_id"] for row in splits], np.array([int(row["fold"]) for row in splits])
    check_unseen(headers, patients, folds, [0])
    with pytest.raises(
        RequestError, match=r"fold 0 of 3 held out and has seen \d of the \d patients that fold 2 tests"
    ):
        check_unseen(headers, patients, folds, [0, 2])


def test_the_held_out_fold_is_not_touched(cohort: Path, reference: Path, tmp_path: Path) -> None:
    """With other pixels and labels of its patients, not one bit of the training changes."""
    splits = splits_of(reference)
    held_out = {row["image_id"] for row in splits if row["fold"] == "0"}
    changed = tmp_path / "cohort"
    shutil.copytree(cohort / "stores", changed / "stores")
    shutil.copy(cohort / "train.csv", changed)
    for image_id in held_out:
        label = next(row["label"] for row in splits if row["image_id"] == image_id)
        shutil.rmtree(changed / "stores" / f"{image_id}.zarr")
        shutil.copytree(cohort / ("CE.zarr" if label == "LAA" else "LAA.zarr"), changed / "stores" / f"{image_id}.zarr")
    (tmp_path / "splits.csv").write_text(reference.with_name("w.splits.csv").read_text())
    again = tuned(changed, tmp_path / "w.safetensors", accumulate=2, splits=tmp_path / "splits.csv", **EVERYTHING)
    assert curve(again) == curve(reference)
    assert table(again, "history") == table(reference, "history")


def test_weights_that_saw_the_held_out_patients_are_refused(cohort: Path, reference: Path, tmp_path: Path) -> None:
    splits = reference.with_name("w.splits.csv")
    from_it = {"random_weights": None, "weights": reference, "splits": splits, "epochs": 1, "sizes": ()}
    with pytest.raises(RequestError, match=r"fold 1, found \d of its \d among their training patients .*fold 0"):
        finetune(chosen(cohort, tmp_path / "w.safetensors", fold=1, **from_it))
    assert not (tmp_path / "w.safetensors").exists()
    gone = next(row["image_id"] for row in splits_of(reference) if row["fold"] != "0" and row["patient_id"] != "p0")
    shutil.copytree(cohort, tmp_path / "fewer")
    table = tmp_path / "fewer" / "train.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(True) if not line.startswith(gone)))
    before = read_lineage(reference)
    after = read_lineage(tuned(tmp_path / "fewer", tmp_path / "w.safetensors", fold=0, **from_it))
    assert before is not None
    assert after is not None
    assert patient_sha256(gone.partition("_")[0]) in after.patients_sha256
    assert after.patients_sha256 == before.patients_sha256


def test_the_best_epochs_weights_are_kept(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three epochs the second is told to be the best; what stood at its end is what is written."""
    stood: list[dict[str, torch.Tensor]] = []
    losses = iter((0.6, 0.5, 0.7))

    def told(*_: object) -> dict[str, float]:
        return {"val_loss": 0.0, "val_tile_auc": 0.5, "val_patient_loss": next(losses), "val_patient_auc": 0.5}

    def seen(_path: Path, standing: Standing, _recipe: object) -> None:
        stood.append({name: value.clone() for name, value in standing.average.items()})

    monkeypatch.setattr(loop, "measures", told)
    monkeypatch.setattr(learning_loop, "write_checkpoint", seen)
    weights = tuned(cohort, tmp_path / "w.safetensors", epochs=3, keep="best", ema=0.5)
    assert json.loads(weights.with_suffix(".json").read_text())["kept_epoch"] == 2
    for name, value in safetensors.torch.load_file(weights).items():
        assert torch.equal(value, stood[1][f"backbone.{name}"])
    assert not torch.equal(stood[1]["head.weight"], stood[2]["head.weight"])
    head = safetensors.torch.load_file(tmp_path / "w.head.safetensors")
    assert torch.equal(head["weight"], stood[1]["head.weight"])


def test_only_tiles_with_attention_are_drawn(cohort: Path, tmp_path: Path) -> None:
    best = {}
    with (tmp_path / "attention.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "tile_row", "tile_column", "attention"])
        for number, store in enumerate(find_stores([cohort / "stores"])):
            best[store.image_id] = (number * 3) % store.n_tiles
            for position, yx in enumerate(store.tiles_yx.tolist()):
                writer.writerow([store.image_id, *yx, 0.9 if position == best[store.image_id] else 0.01])
    options = chosen(cohort, tmp_path / "w.safetensors", heatmaps=tmp_path / "attention.csv", attention_share=0.01)
    spec = build_encoder(ENCODER, options.start()).spec
    found, plain = gather(options, spec, "fp32"), gather(chosen(cohort, tmp_path / "w.safetensors"), spec, "fp32")
    assert {slide.image_id: slide.tiles.tolist() for slide in (*found.train, *found.val)} == {
        image_id: [tile] for image_id, tile in best.items()
    }
    assert found.recipe["cohort"] != plain.recipe["cohort"]


def test_finished_is_skipped_and_other_settings_are_refused(cohort: Path, reference: Path, tmp_path: Path) -> None:
    shutil.copytree(reference.parent, tmp_path, dirs_exist_ok=True)
    out, same = tmp_path / "w.safetensors", EVERYTHING
    assert finetune(chosen(cohort, out, **same)).outcomes[0].status is Status.SKIPPED
    with pytest.raises(RecipeMismatchError, match=r"lr: found 0.001, wanted 0.01.*--overwrite"):
        finetune(chosen(cohort, out, **(same | {"lr": 0.01})))
    assert content(tmp_path) == content(reference.parent)
    other = finetune(chosen(cohort, out, **(same | {"lr": 0.01}), overwrite=True))
    assert other.outcomes[0].status is Status.DONE
    assert curve(out) != curve(reference)
    out.write_bytes(b"something else")
    with pytest.raises(RequestError, match="was not made by gigamil"):
        finetune(chosen(cohort, out, **same, overwrite=True))


def test_a_loss_that_is_not_finite_is_named(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ItemError, match=r"not finite in epoch 1, step 2.*p\d_\d.*--lr \(now 1e\+30"):
        tuned(cohort, tmp_path / "w.safetensors", lr=1e30, warmup_epochs=0.0)
    assert not (tmp_path / "w.safetensors").exists()


def test_a_damaged_store_is_named_and_the_others_go_on(cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(cohort / "stores", tmp_path / "stores")
    shutil.copy(cohort / "train.csv", tmp_path)
    (tmp_path / "stores" / "p0_1.zarr" / "zarr.json").write_text("{")
    summary = finetune(chosen(tmp_path, tmp_path / "w.safetensors", epochs=1, sizes=(32,)))
    assert {o.item_id: o.status.value for o in summary.outcomes} == {"w": "done", "p0_1": "failed"}


def test_a_transformer_takes_other_sizes_and_keeps_its_own(cohort: Path, tmp_path: Path) -> None:
    vit = {"encoder": "timm:test_vit", "epochs": 1, "tiles_per_slide": 2}
    weights = tuned(cohort, tmp_path / "w.safetensors", sizes=(64,), **vit)
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    found = safetensors.torch.load_file(weights)
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in state.items()}
    with pytest.raises(RequestError, match="takes its own input size only"):
        finetune(chosen(cohort, tmp_path / "x.safetensors", sizes=(64,), **(vit | {"encoder": "timm:test_maxvit"})))
    with pytest.raises(RequestError, match=r"--sizes 70: .* cannot take tiles of that size"):
        finetune(chosen(cohort, tmp_path / "x.safetensors", sizes=(70,), **vit))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_fp32(cohort: Path, reference: Path, tmp_path: Path, precision: str) -> None:
    half = tuned(cohort, tmp_path / "w.safetensors", precision=precision, accumulate=2, **EVERYTHING)
    assert curve(half) != curve(reference)
    np.testing.assert_allclose(curve(half), curve(reference), rtol=0.1)


@pytest.mark.slow
def test_torchrun_does_what_one_rank_does(cohort: Path, reference: Path, tmp_path: Path) -> None:
    script, out = tmp_path / "run.py", tmp_path / "out" / "w.safetensors"
    script.write_text("from cli.app import main\nmain()\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    words = [*("finetune", cohort / "stores", "-m", cohort / "train.csv", "--out", out, "--encoder", ENCODER)]
    settings = {
        "random-weights": 1, "folds": 3, "epochs": 2, "batch-size": 5, "tiles-per-slide": 4, "sizes": "32,48",
        "device": "cpu", "lr": 1e-3, "mixup": 0.3, "label-smoothing": 0.1, "ema": 0.9, "keep": "best",
    }  # fmt: skip
    words += [word for name, value in settings.items() for word in (f"--{name}", value)]
    done = subprocess.run(
        [*command, *map(str, words)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(curve(out), curve(reference), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_damaged_tile_under_torchrun_is_one_line_of_one_rank(cohort: Path, tmp_path: Path) -> None:
    """Whichever rank meets it: the others do not crash of its absence."""
    shutil.copytree(cohort / "stores", tmp_path / "stores")
    bad = next(path for path in (tmp_path / "stores" / "p1_0.zarr" / "0" / "c").rglob("*") if path.is_file())
    data = bytearray(bad.read_bytes())
    data[: len(data) // 2 : 50] = bytes(byte ^ 255 for byte in data[: len(data) // 2 : 50])
    bad.write_bytes(data)
    command = [sys.executable, "-m", "cli.torchrun", "--standalone", "--nproc-per-node", "2", "finetune"]
    words = [tmp_path / "stores", "-m", cohort / "train.csv", "--out", tmp_path / "w.safetensors", "--folds", 3]
    words += ["--encoder", ENCODER, "--random-weights", 1, "--epochs", 2, "--sizes", 32, "--device", "cpu"]
    done = subprocess.run(
        [*command, *map(str, words)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "damaged" in line]
    assert "p1_0.zarr: tile (" in line
    assert line.endswith("is damaged (ZSTD_decompress returned 'Data corruption detected'): tile the slide again")
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.slow
def test_a_killed_rank_is_told_and_the_run_goes_on(cohort: Path, reference: Path, tmp_path: Path) -> None:
    import pickle

    out = tmp_path / "out" / "w.safetensors"
    options = chosen(cohort, out, nproc=2, checkpoint_steps=1, **EVERYTHING)
    (tmp_path / "options").write_bytes(pickle.dumps(options))
    (tmp_path / "slow.py").write_text(SLOWLY)
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), str(tmp_path / "options")], cwd=ROOT, env=environment(),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not options.beside(".checkpoint").exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)
    os.kill(workers_of(run.pid)[-1], signal.SIGKILL)
    errors = run.communicate(timeout=100)[1]
    assert "was stopped by signal 9 (SIGKILL: out of memory, most likely): run the same command again" in errors
    assert options.beside(".checkpoint").exists()
    finetune(options)
    np.testing.assert_allclose(curve(out), curve(reference), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_does_what_a_cpu_does(cohort: Path, reference: Path, tmp_path: Path, precision: str) -> None:
    found = tuned(cohort, tmp_path / "w.safetensors", device="cuda", precision=precision, accumulate=2, **EVERYTHING)
    np.testing.assert_allclose(curve(found), curve(reference), rtol=1e-3 if precision == "fp32" else 0.1)

"""Pretraining on one's own tiles: whom it has seen is known to the last stage, and collapse ends it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from making import picture, write_deflate

from features.encoders.lineage import patient_sha256, read_lineage
from features.extraction.extract import extract
from features.extraction.options import ExtractOptions
from features.pretrain import dino, loop, vicreg
from features.pretrain.options import PretrainOptions
from features.pretrain.run import pretrain
from mil.train import train
from mil.training.options import TrainOptions
from mil.training.training_data import gather
from wsi.errors import ItemError, RequestError
from wsi.machine.interrupt import Leaving
from wsi.progress.outcome import Status
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

PATIENTS = 8
RESNET = {"network": "test_resnet", "size": 32, "outputs": 16, "batch_size": 16, "images_per_epoch": 32, "epochs": 1}
VIT = {"network": "test_vit", "size": 64, "outputs": 64, "local_crops": 1, "local_size": 32, "batch_size": 4}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients, a slide each: LAA is green, CE violet; ``stores/``, ``train.csv``, and two halves of it."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = [(f"p{n}_0", f"p{n}", "LAA" if n % 2 else "CE", n // 4) for n in range(PATIENTS)]
    slides = []
    for number, (image_id, _, label, _) in enumerate(rows):
        pixels = picture(560, 560, seed=number)
        slides.append(write_deflate(folder / f"{image_id}.tif", pixels if label == "CE" else pixels[:, :, [0, 2, 1]]))
    asked = TileOptions(slides=tuple(slides), out=folder / "stores", assume_mpp=0.5, workers=0)
    assert tile(asked).exit_code == 0
    for name, own in (("train", rows), ("first", rows[:4]), ("second", rows[4:])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image_id", "patient_id", "label", "center_id"), *own])
    return folder


def trained(cohort: Path, out: Path, **more: object) -> Path:
    settings = {"source": (cohort / "stores",), "device": "cpu", "lr": 1e-2, "folds": 2, "out": out}
    summary = pretrain(PretrainOptions(**(settings | more)))  # type: ignore[arg-type]
    assert [outcome.status for outcome in summary.outcomes] == [Status.DONE]
    return out


def training(cohort: Path, weights: Path, table: str, folder: Path) -> TrainOptions:
    """Extract with the weights; return what a training is asked for."""
    asked = ExtractOptions(
        stores=(cohort / "stores",), out=folder / "bags", encoder="timm:test_resnet", weights=weights, device="cpu"
    )
    assert extract(asked).exit_code == 0
    return TrainOptions(bags=(folder / "bags",), manifest=cohort / f"{table}.csv", out=folder / "run", folds=2)


def table(weights: Path, name: str) -> list[dict[str, float]]:
    with weights.with_name(f"{weights.stem}.{name}.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_patients_that_pretraining_saw_are_not_tested(cohort: Path, tmp_path: Path) -> None:
    """From pretraining through extraction to training; the probe tells two colours apart."""
    out, asked = tmp_path / "w.safetensors", {"manifest": cohort / "train.csv", "probe": (cohort / "stores",)}
    weights = trained(cohort, out, **asked, **RESNET)
    lineage = read_lineage(weights)
    assert lineage is not None
    assert (lineage.fold, lineage.n_folds, len(lineage.patients_sha256)) == (0, 2, PATIENTS / 2)
    with pytest.raises(
        RequestError, match=r"was trained with its fold 0 of 2 held out and has seen \d of the 4 patients that fold"
    ):
        train(training(cohort, weights, "train", tmp_path))
    assert table(weights, "history")[-1]["probe_auc"] == 1.0


def test_without_a_table_slides_are_remembered(cohort: Path, tmp_path: Path) -> None:
    """Learned from one half; the table of the training names its patients otherwise."""
    half = [cohort / "stores" / f"p{n}_0.zarr" for n in range(4)]
    weights = trained(cohort, tmp_path / "w.safetensors", source=tuple(half), **RESNET)
    lineage = read_lineage(weights)
    assert lineage is not None
    assert set(lineage.patients_sha256) == {patient_sha256(f"p{n}_0") for n in range(4)}
    options = training(cohort, weights, "first", tmp_path)
    with pytest.raises(RequestError, match=r"was trained with no fold held out and has seen 2 of the 2 patients"):
        train(options)
    other = training(cohort, weights, "second", tmp_path)
    gather(other)


def test_formulas_know_nobody_and_what_begins_from_them_knows_its_own(cohort: Path, tmp_path: Path) -> None:
    formula = {"source": ("formula",), "formula": "fractaldb", "classes": 2, "instances": 8, "images_per_epoch": 0}
    weights = trained(cohort, tmp_path / "formula.safetensors", **(RESNET | formula))
    gather(training(cohort, weights, "train", tmp_path / "a"))
    own = {"source": (cohort / "stores",), "weights": weights, "manifest": cohort / "first.csv", "fold": -1}
    after = trained(cohort, tmp_path / "own.safetensors", **(RESNET | own))
    lineage = read_lineage(after)
    assert lineage is not None
    assert set(lineage.patients_sha256) == {patient_sha256(f"p{n}") for n in range(4)}
    again = RESNET | {"source": (cohort / "stores",), "weights": after, "manifest": cohort / "train.csv"}
    with pytest.raises(RequestError, match=r"fold 0, found \d of its 4 among their training patients"):
        trained(cohort, tmp_path / "x.safetensors", **again)


def test_dino_stopped_and_run_again_ends_with_the_same_bits(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of its second epoch, when center, teacher and prototypes have moved."""
    monkeypatch.setattr(dino, "HIDDEN", 32)
    asked = {"manifest": cohort / "train.csv", "images_per_epoch": 8, "epochs": 2, **VIT}
    whole = trained(cohort, tmp_path / "whole.safetensors", **asked)
    answers = iter([False, False, True])
    out = tmp_path / "w.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(loop, "asked_to_leave", lambda: next(answers))
        with pytest.raises(Leaving):
            trained(cohort, out, **asked)
    assert trained(cohort, out, **asked).read_bytes() == whole.read_bytes()
    assert table(out, "steps") == table(whole, "steps")
    facts = safetensors.torch.load_file(out)
    assert facts["pos_embed"].shape == (1, 101, 64)  # of 160 pixels, its own size
    with pytest.raises(RequestError, match="was made with other settings"):
        trained(cohort, out, **(asked | {"ema": 0.9}))


def test_a_collapse_ends_it_in_one_line(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without variance and covariance nothing keeps VICReg's outputs from being all the same."""
    monkeypatch.setattr(vicreg, "VARIANCE", 0.0)
    monkeypatch.setattr(vicreg, "COVARIANCE", 0.0)
    out = tmp_path / "w.safetensors"
    with pytest.raises(ItemError, match=r"collapsed in epoch \d+: .*expected.*before training: rank .*--lr") as told:
        trained(cohort, out, **(RESNET | {"epochs": 40, "lr": 0.5, "ema": 0.0, "weight_decay": 0.0, "clip": 100.0}))
    assert "\n" not in str(told.value)
    assert not out.exists()
    assert len(table(out, "history")) > 1


@pytest.mark.slow
@pytest.mark.parametrize("settings", [VIT, RESNET])
def test_two_ranks_do_what_two_parts_do(cohort: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    asked = {"manifest": cohort / "train.csv", **settings, "images_per_epoch": 16, "epochs": 2}
    one = trained(cohort, tmp_path / "one.safetensors", accumulate=2, **asked)
    two = trained(cohort, tmp_path / "two.safetensors", nproc=2, **asked)
    found, expected = (safetensors.torch.load_file(path) for path in (two, one))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    np.testing.assert_array_equal([r["loss"] for r in table(two, "steps")], [r["loss"] for r in table(one, "steps")])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"fold": 2}, r"--fold 2: expected 0 to 1"),
        ({"probe": ("x",), "fold": -1}, "--probe: expected a --fold whose patients are told"),
        ({"probe": ("x",), "manifest": None}, "--probe: expected --manifest"),
        ({"method": "dino", "ema": 0.0}, "--ema 0: expected a decay above 0"),
    ],
)
def test_what_cannot_be_is_one_line(cohort: Path, tmp_path: Path, wrong: dict[str, object], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        trained(cohort, tmp_path / "w.safetensors", **(RESNET | {"manifest": cohort / "train.csv"} | wrong))
    assert not list(tmp_path.iterdir())

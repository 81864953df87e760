"""`--inner-share 0`: all of the other folds' patients train, the last epoch is kept, and whoever needs more says so."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from witness import Witness, train_killed_after_each_checkpoint

from features.bags.bag import read_features
from mil.train import train
from mil.training.fit import new_model
from mil.training.jobs import FitJob, divide
from mil.training.loop import Loop
from mil.training.options import TrainOptions, resolve
from mil.training.processes import deterministic
from mil.training.ranks import Ranks
from mil.training.training_data import gather
from wsi.errors import RequestError

EPOCHS = 3


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("cohort"), n_patients=18)


def options(cohort: Witness, out: Path) -> TrainOptions:
    return cohort.options(out, folds=2, epochs=EPOCHS, hidden=16, patience=1, baselines=(), inner_share=0)


@pytest.fixture(scope="module")
def run(cohort: Witness, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("all") / "run"
    train(options(cohort, out))
    return out


def test_the_weights_are_those_of_the_loops_last_epoch_on_all_other_folds(cohort: Witness, run: Path) -> None:
    own = resolve(options(cohort, run))
    data = gather(own)
    (opened,) = data.open()
    job = FitJob(head=own.head, fold=0, seed=0, folder=run, options=own, recipe_hash="")
    parts = divide(opened, data.folds, job)
    with_tiles = {i for i, bag in enumerate(opened.bags) if len(bag)}
    assert set(parts.train.tolist()) == {i for i in with_tiles if data.folds[i] != 0}
    with deterministic([job]):
        model = new_model(job, opened, parts, Ranks())
        loop = Loop(job, opened, parts, model, Ranks())
        for epoch in range(EPOCHS):
            loop.epoch(epoch)
    kept = load_file(run / "fold0" / "seed0" / "weights.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_features_are_standardised_by_all_other_folds(cohort: Witness, run: Path) -> None:
    with (run / "splits.csv").open() as file:
        others = [row["image_id"] for row in csv.DictReader(file) if row["fold"] != "0"]
    bags = [read_features(cohort.bags / f"{name}.h5").astype(np.float64) for name in others]
    means_SD = np.array([rows.mean(axis=0) for rows in bags if len(rows)])
    kept = load_file(run / "fold0" / "seed0" / "weights.safetensors")
    (found,) = (value for name, value in kept.items() if name.endswith("mean_D"))
    assert np.allclose(found.numpy(), means_SD.mean(axis=0), atol=1e-4)


def test_tables_hold_no_word_of_validation(run: Path) -> None:
    for fold in range(2):
        folder = run / f"fold{fold}" / "seed0"
        with (folder / "scores.csv").open() as file:
            assert {row["part"] for row in csv.DictReader(file)} == {"test"}
        with (folder / "history.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == EPOCHS
        assert not any(name.startswith("val_") for name in rows[0])
        told = json.loads((folder / "model.json").read_text())
        assert (told["best_epoch"], told["epochs_run"]) == (EPOCHS - 1, EPOCHS)
        assert "best_val_loss" not in told


def test_the_pages_say_so(run: Path) -> None:
    report = (run / "report.html").read_text("utf-8")
    assert "No patient validated" in report
    assert "choose the epoch" not in report
    assert "Patients that train the models of a fold and that are tested." in report
    checklists = (run / "checklists.html").read_text("utf-8")
    assert "the last epoch is kept" in checklists
    assert "inner validation" not in checklists


def test_every_epoch_can_be_the_last_before_a_kill(cohort: Witness, run: Path, tmp_path: Path) -> None:
    train_killed_after_each_checkpoint(options(cohort, tmp_path / "run"), EPOCHS)
    assert (tmp_path / "run" / "oof.csv").read_bytes() == (run / "oof.csv").read_bytes()


@pytest.mark.parametrize("changes", [{"target": "survival"}, {"nested": 2, "baselines": ("mean_pool",)}])
def test_who_needs_them_says_so(changes: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="--inner-share 0 exclude each other"):
        TrainOptions(bags=(Path("b"),), manifest=Path("m"), out=Path("o"), inner_share=0, **changes)  # type: ignore[arg-type]


def test_a_search_needs_them() -> None:
    pytest.importorskip("optuna")
    from mil.training.tune_options import TuneOptions

    with pytest.raises(RequestError, match="--inner-share 0"):
        TuneOptions(bags=(Path("b"),), manifest=Path("m"), out=Path("o"), inner_share=0)

"""What training tells while it runs: TensorBoard files that hold the history, and trackers that are asked for."""

import csv
import importlib.util
import io
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from witness import Witness

from features.learning.scalars import EVENTS, event_file, record
from mil.run.trackers import check_trackers, publish
from mil.train import train
from wsi.errors import RequestError

HISTORY = [{"epoch": epoch, "lr": 0.5, "train_loss": 1.0 / (epoch + 1), "val_auc": 0.5} for epoch in range(3)]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_history_back(tmp_path: Path) -> None:
    with event_file(tmp_path, HISTORY[:1]) as events:
        events.add(HISTORY[1])
        events.add(HISTORY[2])
        found = scalars(tmp_path)
    assert set(found) == {"epoch", "lr", "train/loss", "val/auc"}
    assert found["train/loss"] == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_record_is_the_one_that_tensorboard_writes() -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    for data in (b"", b"brain.Event:2", bytes(range(256)) * 5):
        file = io.BytesIO()
        RecordWriter(file).write(data)
        assert record(data) == file.getvalue()


def test_a_run_that_goes_on_writes_the_same_bytes(tmp_path: Path) -> None:
    with event_file(tmp_path / "a", []) as events:
        for row in HISTORY:
            events.add(row)
    with event_file(tmp_path / "b", HISTORY[:2]) as events:
        events.add(HISTORY[2])
    assert (tmp_path / "a" / EVENTS).read_bytes() == (tmp_path / "b" / EVENTS).read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_model_has_its_file_small_and_without_the_hosts_name(
    tmp_path: Path, write_cohort: Callable[..., Witness]
) -> None:
    witness = write_cohort(tmp_path / "bags", n_patients=18)
    out = tmp_path / "run"
    train(witness.options(out, folds=2, epochs=4, hidden=8))
    for folder in (out / "fold1" / "seed0", out / "baselines" / "mean_pool" / "fold0" / "seed0"):
        assert (folder / EVENTS).stat().st_size < 4 * 500 + 100
        with (folder / "history.csv").open(newline="") as file:
            losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
        assert [value for _, value in scalars(folder)["val/loss"]] == pytest.approx(losses)
    assert len(list(out.rglob("*tfevents*"))) == 4
    train(witness.options(out, folds=2, epochs=1, hidden=8, baselines=(), overwrite=True))
    assert len(list(out.rglob("*tfevents*"))) == 2


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="wandb is not installed"):
        check_trackers(["wandb"])
    check_trackers([])


@pytest.mark.filterwarnings("default")
def test_mlflow_gets_the_history(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    publish(["mlflow"], tmp_path, "fold 0", {"lr": 0.5}, HISTORY)
    with sqlite3.connect(tmp_path / "mlflow.db") as base:
        found = base.execute("select step, value from metrics where key = 'train/loss' order by step").fetchall()
    assert found == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


@pytest.mark.filterwarnings("default")
def test_wandb_stays_offline_in_the_run_folder(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    publish(["wandb"], tmp_path, "fold 0", {"lr": 0.5}, HISTORY)
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 1


def test_trackers_wait_until_a_model_is_trained() -> None:
    program = "import sys, mil.train; sys.exit(bool({'tensorboard', 'wandb', 'mlflow'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).resolve().parents[3])

"""Slides judged by themselves: a truth for each slide, patients whole in every split and in every draw."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from witness import DIM, Witness, facts, grid

from features.bags.bag import write_bag
from features.folds import outer_folds, rarest_labels
from mil.data.splits import inner_split
from mil.evaluation.bootstrap import draw_groups, draw_patients
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.report.compare import compare
from mil.report.options import CompareOptions
from mil.train import train
from mil.training.training_data import gather
from wsi.errors import ManifestError, RequestError

PATIENTS = 24


@pytest.fixture(scope="module")
def biopsies(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    """Three slides of each patient, of which some show the tumour and some do not."""
    folder = tmp_path_factory.mktemp("biopsies")
    rng = np.random.default_rng(7)
    lines = ["image_id,patient_id,label"]
    for patient in range(PATIENTS):
        for slide in range(3):
            image_id, tumour = f"{patient:02d}_{slide}", (patient + slide) % 3 == 0
            rows = rng.normal(size=(40, DIM)).astype(np.float16)
            rows[:, 0] += 2 * tumour
            write_bag(folder / f"{image_id}.h5", [rows], grid(40), facts(image_id))
            lines.append(f"{image_id},{patient:02d},{('none', 'tumour')[tumour]}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return Witness(folder, folder / "train.csv")


def test_a_run_by_slide(biopsies: Witness, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = biopsies.options(run, unit="slide", head="mean_mlp", epochs=15, baselines=(), folds=2)
    assert train(options).exit_code == 0
    found = json.loads((run / "metrics.json").read_text())
    assert found["unit"] == "slide"
    assert found["patients"] == 3 * PATIENTS  # that many are judged
    assert found["models"]["mean_mlp"]["auc"]["value"] > 0.85
    with (run / "splits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    folds = {row["patient_id"]: {own["fold"] for own in rows if own["patient_id"] == row["patient_id"]} for row in rows}
    assert all(len(own) == 1 for own in folds.values())
    for fold in range(2):  # nor is a patient parted within the training fold
        with (run / f"fold{fold}" / "seed0" / "scores.csv").open(newline="") as file:
            val = {row["image_id"] for row in csv.DictReader(file) if row["part"] == "val"}
        assert val
        assert {f"{patient}_{slide}" for patient in {name[:2] for name in val} for slide in range(3)} == val
    predict(PredictOptions(run=(run,), items=(biopsies.bags,), out=tmp_path / "p.csv", manifest=biopsies.manifest))
    with (tmp_path / "p.csv").open(newline="") as file:
        told = {row["image_id"]: float(row["tumour"]) for row in csv.DictReader(file)}
    assert set(told) == {row["image_id"] for row in rows}
    assert len({round(told[f"00_{slide}"], 6) for slide in range(3)}) == 3
    with pytest.raises(RequestError, match="judged by themselves"):
        compare(CompareOptions(runs=(run, shutil.copytree(run, tmp_path / "again")), out=tmp_path / "c"))


def test_by_patient_two_labels_are_refused(biopsies: Witness, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"expected one label per patient, found two for 00 \(none and tumour\)"):
        train(biopsies.options(tmp_path / "run"))
    with pytest.raises(RequestError, match="--unit slide and --aggregate max"):
        biopsies.options(tmp_path / "run", unit="slide", aggregate="max")


def test_labels_of_slides_that_are_trained_on_only_play_no_part(biopsies: Witness, tmp_path: Path) -> None:
    """The class that they are taken for is told; a patient may stand there with two."""
    rng = np.random.default_rng(1)
    for name in ("x_0", "x_1"):
        write_bag(tmp_path / f"{name}.h5", [rng.normal(size=(9, DIM)).astype(np.float16)], grid(9), facts(name))
    (tmp_path / "other.csv").write_text("image_id,patient_id,label\nx_0,x,Unknown\nx_1,x,Other\n")
    options = biopsies.options(
        tmp_path / "run", unit="slide", other=tmp_path / "other.csv", other_label="none", folds=2
    )
    data = gather(type(options)(**{**options.__dict__, "bags": (biopsies.bags, tmp_path)}))
    assert [row.label for row in data.rows[-2:]] == ["none", "none"]


def test_whole_patients_are_drawn() -> None:
    groups = ["b", "a", "b", "c", "a"]
    draws = draw_groups(groups, 3, 50)
    of_group = draw_patients(3, 3, 50)
    np.testing.assert_array_equal(draws, of_group[:, [1, 0, 1, 2, 0]])
    np.testing.assert_array_equal(draw_groups(["p1", "p2", "p3"], 5, 9), draw_patients(3, 5, 9))


def test_a_patient_counts_for_the_rarest_of_its_labels() -> None:
    labels, patients = ["x", "y", "x", "x", "x", "y"], ["1", "1", "2", "3", "4", "5"]
    assert rarest_labels(labels, patients) == {"1": "y", "2": "x", "3": "x", "4": "x", "5": "y"}
    val = inner_split(labels, patients, 0.3, 0)
    assert {label for label, own in zip(labels, val, strict=True) if own} >= {"x", "y"}
    folds = outer_folds(labels * 2, [None] * 12, [*patients, *(f"{p}b" for p in patients)], 2, 0)
    assert set(folds.tolist()) == {0, 1}

"""A teacher that has not seen the patients whom the student is tested on."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from witness import Witness

from mil.models.ensemble import load_ensemble
from mil.models.scoring import Compute, score
from mil.run.folder import RunFolder
from mil.train import train
from mil.training.methods.distil import teach
from mil.training.options import TrainOptions
from mil.training.training_data import gather
from wsi.errors import RecipeMismatchError, RequestError

QUICK = {"folds": 2, "epochs": 12, "hidden": 16, "baselines": (), "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def cohort_files(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("small"), n_patients=18)


@pytest.fixture(scope="module")
def teacher(cohort_files: Witness, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    train(cohort_files.options(out, **QUICK, seeds=2))
    return out


def student(witness: Witness, out: Path, teacher: Path | None, **changes: object) -> TrainOptions:
    return witness.options(out, **(QUICK | {"head": "mean_mlp", "teacher": teacher} | changes))


@pytest.mark.parametrize("fold", [0, 1])
def test_only_models_of_the_same_fold_teach_and_only_its_training_slides(
    cohort_files: Witness, teacher: Path, tmp_path: Path, fold: int
) -> None:
    options = student(cohort_files, tmp_path / "run", teacher)
    data = gather(options)
    cohort = data.open()[0]
    taught = teach(options, fold, cohort, data.folds)
    assert taught is not None
    tested = data.folds == fold
    assert (taught[tested] == 0).all()
    members = [m for m in load_ensemble(RunFolder(teacher), options.device).members if m.fold == fold]
    assert len(members) == 2
    bags = [cohort.bags[i] for i in np.flatnonzero(~tested)]
    expected = np.mean([score(m.model, bags, Compute("cpu", "fp32", options.max_rows)) for m in members], axis=0)
    assert np.allclose(taught[~tested], expected)
    for member in members:  # what a member saw, itself: nobody whom the fold tests
        with (teacher / f"fold{member.fold}" / f"seed{member.seed}" / "scores.csv").open(newline="") as file:
            parts = {row["image_id"]: row["part"] for row in csv.DictReader(file)}
        assert {i for i, part in parts.items() if part == "test"} == {
            cohort.image_ids[i] for i in np.flatnonzero(tested)
        }


def test_a_student_comes_nearer_to_its_teacher(cohort_files: Witness, teacher: Path, tmp_path: Path) -> None:
    wanted = logits(teacher)
    apart = {}
    for name, given in (("alone", None), ("taught", teacher)):
        options = student(cohort_files, tmp_path / name, given, head="gated_abmil", distil_weight=0.9)
        train(options)
        apart[name] = np.abs(logits(options.out) - wanted).mean()
    assert apart["taught"] < apart["alone"]


def logits(run: Path) -> np.ndarray:
    with (run / "oof.csv").open(newline="") as file:
        return np.array([float(row["logit_LAA"]) for row in csv.DictReader(file)])


def test_the_teacher_is_part_of_the_recipe(cohort_files: Witness, teacher: Path, tmp_path: Path) -> None:
    options = student(cohort_files, tmp_path / "run", teacher, epochs=1)
    train(options)
    assert RunFolder(options.out).recipe["teacher"] == RunFolder(teacher).config["recipe_hash"]
    with pytest.raises(RecipeMismatchError, match="teacher"):
        train(replace(options, teacher=None))


def test_a_teacher_of_other_splits_is_refused(cohort_files: Witness, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"splits differ for \d+ slides .*give --splits .*splits\.csv"):
        train(student(cohort_files, tmp_path / "run", teacher, seed=7))
    given = student(cohort_files, tmp_path / "given", teacher, seed=7, epochs=1, splits=teacher / "splits.csv")
    assert train(given).exit_code == 0


def test_a_folder_that_is_no_run_cannot_teach(cohort_files: Witness, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected a run folder"):
        train(student(cohort_files, tmp_path / "run", tmp_path))

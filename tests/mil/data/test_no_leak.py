"""What is learnt for a fold is learnt without its patients: change all that is theirs, and not a bit of it changes.

Features and labels of the patients whom fold 0 tests are replaced. Weights, standardisation, history, the scores of the
patients who decide when training stops, the baselines and searches of fold 0 must not notice. Fold 1, which trains on
these patients, must: else the test could be fooled by a change that reaches nothing.
"""

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from witness import DIM, Witness, facts, grid

from features.bags.bag import write_bag
from mil.train import train
from mil.training.options import TrainOptions
from wsi.options import shared

FOLDS = 3
OTHER = {"CE": "LAA", "LAA": "CE"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("small") / "bags", n_patients=24)


def table(witness: Witness) -> list[dict[str, str]]:
    with witness.manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def fold_of(witness: Witness) -> dict[str, int]:
    """Patients in threes by their number, whatever their label."""
    return {row["patient_id"]: int(row["patient_id"]) // 3 % FOLDS for row in table(witness)}


def write_splits(witness: Witness, path: Path) -> Path:
    folds = fold_of(witness)
    lines = [f"{row['image_id']},{row['patient_id']},{folds[row['patient_id']]}" for row in table(witness)]
    path.write_text("\n".join(["image_id,patient_id,fold", *lines]) + "\n")
    return path


def changed(witness: Witness, folder: Path, tested: set[str]) -> Witness:
    """A copy of the cohort in which the patients who are tested have other features and other labels."""
    bags = folder / "bags"
    shutil.copytree(witness.bags, bags)
    rng = np.random.default_rng(99)
    lines = ["image_id,patient_id,label,center_id"]
    for row in table(witness):
        if row["patient_id"] in tested:
            row = row | {"label": OTHER[row["label"]]}
            n_tiles = int(rng.integers(5, 200))
            rows = rng.normal(3, 7, (n_tiles, DIM)).astype(np.float16)
            write_bag(bags / f"{row['image_id']}.h5", [rows], grid(n_tiles), facts(row["image_id"]))
        lines.append(",".join(row[name] for name in ("image_id", "patient_id", "label", "center_id")))
    (bags / "train.csv").write_text("\n".join(lines) + "\n")
    return Witness(bags, bags / "train.csv")


def learnt(run: Path, fold: int) -> dict[str, object]:
    """Everything that a run learnt for a fold, by file: tensors, histories, and scores of inner validation patients."""
    found: dict[str, object] = {}
    for folder in sorted(run.rglob(f"fold{fold}")):
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(run))
            if path.suffix == ".safetensors":
                found |= {f"{name}/{key}": value.tobytes() for key, value in load_file(path).items()}
            elif path.name == "history.csv":
                found[name] = path.read_text()
            elif path.name == "scores.csv":
                found[name] = [line for line in path.read_text().splitlines() if ",val," in line]
    assert len(found) > 5
    return found


def quick(witness: Witness, out: Path, **changes: object) -> TrainOptions:
    settings = {"folds": FOLDS, "epochs": 2, "hidden": 8, "attention": 4, "baselines": ("mean_pool",)}
    return witness.options(out, **(settings | {"device": "cpu", "precision": "fp32"} | changes))


def others(folder: Path) -> dict[str, object]:
    """Slides of further patients, trained on in every fold."""
    rng = np.random.default_rng(5)
    for number in range(4):
        rows = rng.normal(size=(20, DIM)).astype(np.float16)
        write_bag(folder / f"x{number}_0.h5", [rows], grid(20), facts(f"x{number}_0"))
    (folder / "other.csv").write_text("image_id,patient_id\n" + "".join(f"x{n}_0,x{n}\n" for n in range(4)))
    return {"other": folder / "other.csv", "other_label": "Other"}


@pytest.mark.parametrize(
    "options",
    [
        {"mixup": 0.4, "ema": 0.9, "label_smoothing": 0.1, "instance_dropout": 0.2, "balance": "sampling"},
        {"head": "clam_sb", "output": "arcface", "baselines": ("acmil",)},
        {"head": "dtfd", "optimizer": "sam", "aggregate": "bag", "max_tiles": 20},
        {"head": "transmil", "aggregate": "max", "calibrate": "auto"},
    ],
)
def test_a_fold_learns_nothing_of_its_patients(small: Witness, tmp_path: Path, options: dict[str, object]) -> None:
    splits = write_splits(small, tmp_path / "splits.csv")
    tested = {patient for patient, fold in fold_of(small).items() if fold == 0}
    after = changed(small, tmp_path, tested)
    found = []
    for number, witness in enumerate((small, after)):
        run = tmp_path / f"run{number}"
        assert train(quick(witness, run, splits=splits, **options)).exit_code == 0
        found.append([learnt(run, fold) for fold in range(FOLDS)])
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]
    assert found[0][2] != found[1][2]
    rows = [(tmp_path / f"run{n}" / "baselines" / "oof.csv").read_text().splitlines() for n in (0, 1)]
    for name in ("class_prior", "center_only", "constant"):  # of the manifest alone; the label stands in the row
        told = [
            [line.split(",")[4:] for line in own if line.startswith(name) and line.split(",")[3] == "0"] for own in rows
        ]
        assert len(told[0]) == len(tested)
        assert told[0] == told[1]


def test_whole_centers_and_further_slides(small: Witness, tmp_path: Path) -> None:
    tested = {row["patient_id"] for row in table(small) if row["center_id"] == "0"}
    after = changed(small, tmp_path, tested)
    found = []
    for number, witness in enumerate((small, after)):
        run, extra = tmp_path / f"run{number}", tmp_path / f"other{number}"
        extra.mkdir()
        options = quick(witness, run, split="centers", folds=2, **others(extra))
        assert train(replace(options, bags=(witness.bags, extra))).exit_code == 0
        with (run / "splits.csv").open(newline="") as file:
            folds = {row["patient_id"]: int(row["fold"]) for row in csv.DictReader(file)}
        found.append((folds, [learnt(run, fold) for fold in range(2)]))
    assert found[0][0] == found[1][0]
    own = {found[0][0][patient] for patient in tested}.pop()
    assert found[0][1][own] == found[1][1][own]
    assert found[0][1][1 - own] != found[1][1][1 - own]


def test_a_teacher_and_its_student_and_encoders_side_by_side(small: Witness, tmp_path: Path) -> None:
    splits = write_splits(small, tmp_path / "splits.csv")
    tested = {patient for patient, fold in fold_of(small).items() if fold == 0}
    after = changed(small, tmp_path, tested)
    found = []
    for number, witness in enumerate((small, after)):
        teacher, run, late = (tmp_path / f"{name}{number}" for name in ("teacher", "run", "late"))
        common = {"splits": splits, "baselines": ()}
        train(quick(witness, teacher, **common))
        train(quick(witness, run, head="mean_mlp", teacher=teacher, **common))
        options = quick(witness, late, fusion="late", **common)
        assert train(replace(options, bags=(witness.bags, witness.bags))).exit_code == 0
        found.append([learnt(run, 0) | learnt(late, 0), learnt(run, 1), learnt(late, 1)])
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]
    assert found[0][2] != found[1][2]


def test_the_search_of_an_outer_fold(small: Witness, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from mil.training.tune_options import TuneOptions
    from mil.tune import tune

    splits = write_splits(small, tmp_path / "splits.csv")
    after = changed(small, tmp_path, {patient for patient, fold in fold_of(small).items() if fold == 0})
    found = []
    for number, witness in enumerate((small, after)):
        out = tmp_path / f"tune{number}"
        around = shared(TuneOptions, quick(witness, out, splits=splits, epochs=1))
        tune(TuneOptions(**around, trials=2, inner_folds=2))
        searches = [(out / f"search_{name}.json").read_text() for name in ("fold0", "fold1", "everybody")]
        found.append((searches, learnt(out / "outer", 0)))
    assert found[0][0][0] == found[1][0][0]
    assert found[0][1] == found[1][1]
    assert found[0][0][1:] != found[1][0][1:]

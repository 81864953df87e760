"""The cases of a run: what its tables say, patient by patient."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from witness import Trained, Witness

from mil.run.cases import NOT_JUDGED, Case, cases, least_sure
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.train import train
from wsi.pages import natural


def found_in(run: Path) -> dict[str, Case]:
    return {case.case_id: case for case in cases(read_evidence(RunFolder(run)))}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_patient_is_there_with_all_slides(trained: Trained) -> None:
    found, table = found_in(trained.out), rows_of(trained.out / "oof.csv")
    patients = {row["patient_id"]: row for row in table if row["level"] == "patient"}
    assert list(found) == sorted(patients, key=natural)
    for patient, case in found.items():
        slides = {row["image_id"] for row in table if row["level"] == "slide" and row["patient_id"] == patient}
        assert {slide.image_id for slide in case.slides} == slides
        row = patients[patient]
        assert (case.center, case.fold, case.judged.truth) == (row["center_id"], int(row["fold"]), row["label"])
        if patient != "0900":
            assert case.judged.error == pytest.approx(1 - float(row[f"p_{row['label']}"]))
            assert case.judged.right == (float(row[f"p_{row['label']}"]) > 0.5)
    empty = found["0900"]
    assert (empty.judged.told, empty.judged.right, empty.judged.error, empty.doubt) == (NOT_JUDGED, None, None, None)
    assert empty.slides[0].told == NOT_JUDGED


def test_the_least_sure_are_a_quarter(trained: Trained) -> None:
    found = list(found_in(trained.out).values())
    bound, doubts = least_sure(found), [case.doubt for case in found if case.doubt is not None]
    assert bound is not None
    assert sum(doubt >= bound for doubt in doubts) == pytest.approx(len(doubts) / 4, abs=1)
    assert least_sure([]) is None


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, write_cohort: Callable[..., Witness]) -> Witness:
    return write_cohort(tmp_path_factory.mktemp("small"), n_patients=24)


def test_models_of_one_fold_differ_by_a_spread(small: Witness, tmp_path: Path) -> None:
    rows = rows_of(small.manifest)
    values = ["image_id,patient_id,value", *(f"{r['image_id']},{r['patient_id']},{int(r['patient_id'])}" for r in rows)]
    manifest = tmp_path / "values.csv"
    manifest.write_text("\n".join(values) + "\n")
    own = Witness(small.bags, manifest)
    wanted = own.options(tmp_path / "run", target="value", head="mean_mlp", baselines=(), folds=2, seeds=2, epochs=2)
    assert train(wanted).exit_code == 0
    slides = {row["image_id"]: row["patient_id"] for row in rows}
    for case in found_in(tmp_path / "run").values():
        told = []
        for seed in range(2):
            table = rows_of(tmp_path / "run" / f"fold{case.fold}" / f"seed{seed}" / "scores.csv")
            mine = [row for row in table if slides[row["image_id"]] == case.case_id and row["part"] == "test"]
            told.append(np.mean([float(row["logit_0"]) for row in mine]))
        assert case.judged.doubt is None
        assert case.doubt == pytest.approx(np.std(told))


def test_slides_judged_by_themselves_keep_their_patient(small: Witness, tmp_path: Path) -> None:
    settings = {"baselines": (), "head": "mean_mlp", "folds": 2, "epochs": 1}
    assert train(small.options(tmp_path / "run", unit="slide", **settings)).exit_code == 0
    found = found_in(tmp_path / "run")
    assert found["0005_1"].patient_id == "0005"
    assert [slide.image_id for slide in found["0005_1"].slides] == ["0005_1"]


def test_slides_that_are_one_bag_have_no_answer_of_their_own(small: Witness, tmp_path: Path) -> None:
    settings = {"baselines": (), "head": "mean_mlp", "folds": 2, "epochs": 1}
    assert train(small.options(tmp_path / "run", aggregate="bag", **settings)).exit_code == 0
    found = found_in(tmp_path / "run")
    assert [(slide.image_id, slide.told) for slide in found["0005"].slides] == [("0005_0", ""), ("0005_1", "")]

"""The worklist of a run: its own patients by models that had not seen them, new ones by all; suspects; relabelling."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from witness import DIM, facts, grid, write_noise

from features.bags import rows
from features.bags.bag import write_bag
from mil.data import several_encoders
from mil.inference.loaded_run import load_run
from mil.review.options import WorklistOptions
from mil.review.relabel import _data, _Trial
from mil.review.worklist import worklist
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.targets import ClassTarget
from mil.targets.judged import entropy
from mil.targets.questions import at_prevalence
from mil.train import train
from mil.training.options import TrainOptions
from wsi.errors import RequestError
from wsi.progress.outcome import Silent, Status


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on noise, of two folds and two seeds, in ``run``."""
    folder = tmp_path_factory.mktemp("review")
    write_noise(folder, 24, 8)
    write_bag(folder / "01_1.h5", [np.ones((5, DIM), np.float16)], grid(5), facts("01_1"))  # a second slide
    write_bag(folder / "02_1.h5", [np.empty((0, DIM), np.float16)], grid(0), facts("02_1"))
    with (folder / "train.csv").open("a") as file:
        file.write("01_1,01,LAA\n02_1,02,CE\n")
    settings = {"epochs": 2, "folds": 2, "seeds": 2, "hidden": 8, "attention": 8, "baselines": ()}
    train(TrainOptions(bags=(folder,), manifest=folder / "train.csv", out=folder / "run", device="cpu", **settings))  # type: ignore[arg-type]
    return folder


def listed(run: Path, out: Path, *bags: Path, **asked: object) -> list[dict[str, str]]:
    summary = worklist(WorklistOptions(run=run, bags=bags, out=out, device="cpu", **asked))  # type: ignore[arg-type]
    assert summary.outcomes[0].status is Status.DONE
    with out.open() as file:
        return list(csv.DictReader(file))


def test_own_patients_stand_at_their_out_of_fold_probabilities(noise: Path, tmp_path: Path) -> None:
    """By another way: oof.csv. The slides of a patient stand in one row, the least sure first."""
    rows = listed(noise / "run", tmp_path / "w.csv", noise, most=1000, diverse=False)
    evidence = read_evidence(RunFolder(noise / "run"))
    told = {row["patient_id"]: [float(row["p_CE"]), float(row["p_LAA"])] for row in evidence.patients}
    tiles = {row["patient_id"]: int(row["n_tiles"]) for row in evidence.patients}
    assert {row["patient_id"] for row in rows} == {who for who, count in tiles.items() if count}
    found = np.array([[float(row["p_CE"]), float(row["p_LAA"])] for row in rows])
    np.testing.assert_allclose(found, [told[row["patient_id"]] for row in rows], atol=2e-5)
    scores = [float(row["score"]) for row in rows]
    np.testing.assert_allclose(scores, entropy(found), atol=1e-4)
    assert scores == sorted(scores, reverse=True)
    assert {row["given"] for row in rows} == {"CE", "LAA"}
    assert next(row["image_ids"] for row in rows if row["patient_id"] == "01") == "01_0;01_1"
    assert list(json.loads((tmp_path / "w.json").read_text())["failures"]) == ["02_1"]


def test_bags_that_are_not_held_are_read_once_for_all_models(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: list[int]
) -> None:
    """And once before, to check them."""
    held = listed(noise / "run", tmp_path / "held.csv", noise, diverse=False)
    size = sum(read_bytes)
    read_bytes.clear()
    rows._SEEN.clear()
    monkeypatch.setattr(several_encoders, "HELD_BYTES", 0)
    assert listed(noise / "run", tmp_path / "read.csv", noise, diverse=False) == held
    assert sum(read_bytes) == 2 * size


def test_new_patients_are_asked_of_all_models(noise: Path, tmp_path: Path) -> None:
    new, rng = tmp_path / "new", np.random.default_rng(8)
    new.mkdir()
    for name in ("n0_0", "n1_0", "n2_0", "n3_0", "n4_0"):
        write_bag(new / f"{name}.h5", [rng.normal(size=(9, DIM)).astype(np.float16)], grid(9), facts(name))
    rows = listed(noise / "run", tmp_path / "w.csv", *new.glob("*.h5"), by="disagreement", most=4)
    told = load_run(noise / "run", "cpu").predict(sorted(new.glob("*.h5")))
    assert len(rows) == 4
    assert {row["fold"] + row["given"] for row in rows} == {""}
    for row in rows:
        (image_id,) = row["image_ids"].split(";")
        np.testing.assert_allclose([float(row["p_CE"]), float(row["p_LAA"])], told.loc[image_id], atol=2e-5)
    assert float(rows[0]["score"]) > 0


def test_change_is_asked_of_every_model_and_a_second_time_skipped(noise: Path, tmp_path: Path) -> None:
    rows = listed(noise / "run", tmp_path / "w.csv", noise, by="change", most=3)
    assert all(float(row["change"]) == float(row["score"]) > 0 for row in rows)
    again = worklist(
        WorklistOptions(run=noise / "run", bags=(noise,), out=tmp_path / "w.csv", by="change", most=3, device="cpu")
    )
    assert again.outcomes[0].status is Status.SKIPPED


def test_suspects_are_named_in_table_and_report(noise: Path, tmp_path: Path) -> None:
    rows = listed(noise / "run", tmp_path / "w.csv", by="suspicion")
    evidence = read_evidence(RunFolder(noise / "run"))
    told = at_prevalence(evidence.told[evidence.head], np.array([0.5, 0.5]))
    at = {row["patient_id"]: p for p, row in enumerate(evidence.patients)}
    assert rows
    page = (noise / "run" / "report.html").read_text("utf-8")
    assert "Doubtful classes" in page
    for row in rows:
        given, suggested = (("CE", "LAA").index(row[name]) for name in ("given", "suggested"))
        assert evidence.truth.groups_N[at[row["patient_id"]]] == given != suggested
        own = told[at[row["patient_id"]]]
        np.testing.assert_allclose(
            [float(row["p_given"]), float(row["p_suggested"])], [own[given], own[suggested]], atol=1e-6
        )
    assert f"names {len(rows)} of 24 patients" in page


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"by": "uncertainty"}, "expected bags"),
        ({"retrain": True, "bags": (Path("b"),)}, "--by suspicion"),
        ({"by": "suspicion", "retrain": True}, "--manifest"),
    ],
)
def test_what_does_not_go_together_is_refused(asked: dict[str, object], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        WorklistOptions(run=Path("run"), out=Path("w.csv"), **asked)  # type: ignore[arg-type]


def test_relabelling_never_looks_at_whom_it_is_judged_on(noise: Path, tmp_path: Path) -> None:
    """Other classes of a fold's patients change nothing of what they are told after relabelling."""
    run = RunFolder(noise / "run")
    asked = WorklistOptions(
        run=run.path, bags=(noise,), manifest=noise / "train.csv", out=tmp_path / "w.csv", by="suspicion", retrain=True,
        most=6, device="cpu",
    )  # fmt: skip
    data = _data(run, asked, tmp_path / "run")
    cohort = data.open()[0]
    target = cohort.target
    assert isinstance(target, ClassTarget)
    other = replace(target, labels_N=np.where(data.folds == 0, 1 - target.labels_N, target.labels_N))
    found = [
        _Trial(data, replace(cohort, target=own), tmp_path / str(number), Silent()).fold(0, asked.most)
        for number, own in enumerate((target, other))
    ]
    assert found[0].changed == 3  # half of the six: one of two folds trains
    assert found[0].patients == found[1].patients
    np.testing.assert_array_equal(found[0].logits_PC, found[1].logits_PC)
    summary = worklist(asked)
    told = summary.outcomes[0].facts["relabelled"]
    assert told["auc_after"] - told["auc_before"] == pytest.approx(told["difference"]["value"])
    assert told["auc_before"] == pytest.approx(
        run.read_json("metrics.json")["models"]["gated_abmil"]["auc"]["value"], abs=0.02
    )
    (noise / "other.csv").write_text((noise / "train.csv").read_text().replace("00_0,00,CE", "00_0,00,LAA"))
    with pytest.raises(RequestError, match="trained on"):
        _data(run, replace(asked, manifest=noise / "other.csv"), tmp_path / "else")

"""Predictions: complete, in the submission form, honest about what is missing."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from making import SEED
from witness import DIM, Trained, facts, grid, instances

from features.bags.bag import write_bag
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from wsi.errors import RecipeMismatchError, RequestError
from wsi.outcome import Status


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Bags of slides that the run has not seen: two positive, two negative patients, an empty slide, a damaged one."""
    rng = np.random.default_rng(SEED + 1)
    bags = tmp_path / "bags"
    for patient in ("n1", "n2", "p1", "p2"):
        for slide in (0, 1):
            rows = instances(rng, 60, positive=patient.startswith("p"))
            write_bag(bags / f"{patient}_{slide}.h5", [rows], grid(60), facts(f"{patient}_{slide}"))
    write_bag(bags / "e1_0.h5", [np.empty((0, DIM), np.float16)], grid(0), facts("e1_0"))
    (bags / "d1_0.h5").write_bytes(b"no bag")
    return bags


def manifest(tmp_path: Path, *image_ids: str) -> Path:
    path = tmp_path / "test.csv"
    path.write_text("image_id,patient_id\n" + "".join(f"{i},{i.rpartition('_')[0]}\n" for i in image_ids))
    return path


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["patient_id"]: row for row in csv.DictReader(file)}


def test_every_patient_has_a_row_that_sums_to_one(trained: Trained, fresh: Path, tmp_path: Path) -> None:
    ids = ["n1_0", "n1_1", "n2_0", "n2_1", "p1_0", "p1_1", "p2_0", "p2_1", "e1_0", "d1_0", "049194_9"]
    out = tmp_path / "submission.csv"
    summary = predict(PredictOptions(run=(trained.out,), items=(fresh,), out=out, manifest=manifest(tmp_path, *ids)))
    assert out.read_text().splitlines()[0] == "patient_id,CE,LAA"
    rows = table(out)
    assert list(rows) == sorted({i.rpartition("_")[0] for i in ids})
    assert all(float(row["CE"]) + float(row["LAA"]) == pytest.approx(1, abs=1e-12) for row in rows.values())
    assert [(rows[p]["CE"], rows[p]["LAA"]) for p in ("e1", "d1", "049194")] == [("0.5", "0.5")] * 3
    assert all(float(rows[p]["LAA"]) > 0.5 for p in ("p1", "p2"))
    assert all(float(rows[p]["LAA"]) < 0.5 for p in ("n1", "n2"))
    assert {o.item_id for o in summary.ended(Status.FAILED)} == {"d1_0", "049194_9"}
    assert summary.exit_code == 1
    notes = " ".join(json.loads(out.with_suffix(".json").read_text())["notes"])
    assert "e1_0" in notes
    assert "3 patients at equal probabilities" in notes


def test_without_a_manifest_patients_come_from_the_ids(trained: Trained, fresh: Path, tmp_path: Path) -> None:
    (fresh / "d1_0.h5").unlink()
    out = tmp_path / "out.csv"
    summary = predict(PredictOptions(run=(trained.out,), items=(fresh,), out=out))
    assert list(table(out)) == ["e1", "n1", "n2", "p1", "p2"]
    assert summary.exit_code == 0


def test_again_is_skipped_and_other_bags_are_refused(trained: Trained, fresh: Path, tmp_path: Path) -> None:
    options = PredictOptions(run=(trained.out,), items=(fresh,), out=tmp_path / "out.csv")
    predict(options)
    before = options.out.read_bytes()
    again = predict(options)
    assert [o.status for o in again.outcomes] == [Status.SKIPPED, Status.FAILED]
    assert options.out.read_bytes() == before
    (fresh / "p2_1.h5").unlink()
    with pytest.raises(RecipeMismatchError, match="slides: found 10, wanted 9"):
        predict(options)


def test_slides_of_the_training_are_pointed_out(trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    predict(PredictOptions(run=(trained.out,), items=(trained.witness.bags,), out=out))
    assert any("were in the run's training" in n for n in json.loads(out.with_suffix(".json").read_text())["notes"])


@pytest.mark.parametrize("change", ["recipe", "width"])
def test_bags_made_otherwise_are_refused_by_field(trained: Trained, tmp_path: Path, change: str) -> None:
    width = DIM + 1 if change == "width" else DIM
    recipe = "two" if change == "recipe" else "one"
    write_bag(tmp_path / "x_0.h5", [np.zeros((5, width), np.float16)], grid(5), facts("x_0", recipe=recipe))
    expected = "dim: found 25, wanted 24" if change == "width" else 'settings: found "two", wanted "one"'
    with pytest.raises(RequestError, match=expected):
        predict(PredictOptions(run=(trained.out,), items=(tmp_path / "x_0.h5",), out=tmp_path / "out.csv"))


def test_when_nothing_can_be_read_the_table_is_complete_all_the_same(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "d1_0.h5").write_bytes(b"no bag")
    out = tmp_path / "out.csv"
    summary = predict(PredictOptions(run=(trained.out,), items=(tmp_path / "d1_0.h5",), out=out))
    assert table(out) == {"d1": {"patient_id": "d1", "CE": "0.5", "LAA": "0.5"}}
    assert summary.exit_code == 1


def test_a_folder_that_is_no_run_is_refused(fresh: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected a run folder"):
        predict(PredictOptions(run=(tmp_path,), items=(fresh,), out=tmp_path / "out.csv"))
    with pytest.raises(RequestError, match=r"ends in \.csv"):
        PredictOptions(run=(tmp_path,), items=(fresh,), out=tmp_path / "out")

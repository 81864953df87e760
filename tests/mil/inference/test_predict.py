"""Predictions: complete, in the submission form, honest about what is missing."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import SEED
from witness import DIM, Trained, facts, grid, instances

from features.bags import rows
from features.bags.bag import read_header, write_bag
from mil.data import several_encoders
from mil.evaluation.centers.prior import priors_of_new
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.models.ensemble import load_ensemble
from mil.run.folder import RunFolder
from wsi.errors import RecipeMismatchError, RequestError
from wsi.progress.outcome import Status


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


def test_only_slides_that_were_scored_are_said_to_flatter(trained: Trained, tmp_path: Path) -> None:
    out, bag = tmp_path / "out.csv", trained.witness.bags / "0003_0.h5"
    options = PredictOptions(run=(trained.out,), items=(bag,), out=out, manifest=trained.witness.manifest)
    assert len(predict(options).ended(Status.FAILED)) > 40  # the others have no bag
    (note,) = [n for n in json.loads(out.with_suffix(".json").read_text())["notes"] if "in the run's training" in n]
    assert note == "1 slide was in the run's training, their scores flatter: 0003_0; see oof.csv instead"


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


def test_probabilities_at_a_prevalence_are_those_by_bayes_rule(trained: Trained, fresh: Path, tmp_path: Path) -> None:
    equal, real = tmp_path / "equal.csv", tmp_path / "real.csv"
    ids = ["n1_0", "n2_0", "p1_0", "e1_0", "d1_0"]
    asked = {"run": (trained.out,), "items": (fresh,), "manifest": manifest(tmp_path, *ids)}
    predict(PredictOptions(out=equal, **asked))  # type: ignore[arg-type]
    summary = predict(PredictOptions(out=real, prevalence=("LAA=0.1",), **asked))  # type: ignore[arg-type]
    assert [o.reason.rpartition(" (")[2] for o in summary.ended(Status.FAILED)] == ["the prevalence given)"]
    for patient, row in table(equal).items():
        odds = float(row["LAA"]) / float(row["CE"]) * 0.1 / 0.9
        assert float(table(real)[patient]["LAA"]) == pytest.approx(odds / (1 + odds), abs=1e-9)
    assert float(table(real)["e1"]["LAA"]) == pytest.approx(0.1)
    notes = json.loads(real.with_suffix(".json").read_text())["notes"]
    assert any("at the prevalence given" in note for note in notes)
    with pytest.raises(RecipeMismatchError, match="prevalence"):
        predict(PredictOptions(out=equal, prevalence=("LAA=0.1",), **asked))  # type: ignore[arg-type]


def test_probabilities_by_center_are_those_at_the_shares_of_the_centers_own_patients(
    trained: Trained, fresh: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.out, run)
    with (run / "oof.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):  # centers that differ: three of four with LAA are of center 1
        row["center_id"] = "12"[(row["label"] == "LAA") == (number % 4 == 0)]
    with (run / "oof.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    known = [row for row in rows if row["level"] == "patient"]
    labels, homes = np.array([row["label"] == "LAA" for row in known]), [row["center_id"] for row in known]
    prior, belief = priors_of_new(labels.astype(np.int64), homes, ["1", "none of them"], 2)
    of_center = sum(label for label, home in zip(labels, homes, strict=True) if home == "1")
    assert prior[0, 1] == pytest.approx((of_center + belief * labels.mean()) / (homes.count("1") + belief))
    assert prior[0, 1] > labels.mean() == pytest.approx(prior[1, 1])
    path = tmp_path / "test.csv"
    path.write_text("image_id,patient_id,center_id\nn1_0,n1,1\np1_0,p1,none of them\ne1_0,e1,1\n")
    equal, real = tmp_path / "equal.csv", tmp_path / "real.csv"
    asked = {"run": (run,), "items": (fresh,), "manifest": path}
    predict(PredictOptions(out=equal, **asked))  # type: ignore[arg-type]
    predict(PredictOptions(out=real, prevalence=("by-center",), **asked))  # type: ignore[arg-type]
    for patient, row in table(equal).items():
        share = prior[int(patient == "p1"), 1]
        odds = float(row["LAA"]) / float(row["CE"]) * share / (1 - share)
        assert float(table(real)[patient]["LAA"]) == pytest.approx(odds / (1 + odds), abs=1e-9)
    notes = " ".join(json.loads(real.with_suffix(".json").read_text())["notes"])
    assert "1 patient of no center of the run, told at the shares of all its patients: p1" in notes
    assert "1 patient at the shares of their center, without a usable slide: e1" in notes
    with pytest.raises(RecipeMismatchError, match="prevalence"):
        predict(PredictOptions(out=equal, prevalence=("by-center",), **asked))  # type: ignore[arg-type]
    path.write_text("image_id,patient_id,center_id\nn1_0,n1,77\n")
    with pytest.raises(RequestError, match="whose center_id in the manifest is one of the run's"):
        predict(PredictOptions(out=tmp_path / "none.csv", prevalence=("by-center",), **asked))  # type: ignore[arg-type]
    assert not (tmp_path / "none.csv").exists()


@pytest.mark.parametrize("text", ["0.2", "LAA=x", "LAA=1.2", "XYZ=0.2"])
def test_another_prevalence_is_refused(trained: Trained, fresh: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError, match="--prevalence"):
        predict(PredictOptions(run=(trained.out,), items=(fresh,), out=tmp_path / "o.csv", prevalence=(text,)))
    assert not (tmp_path / "o.csv").exists()


def test_a_slide_unlike_all_known_ones_raises_the_alarm(trained: Trained, fresh: Path, tmp_path: Path) -> None:
    rows = instances(np.random.default_rng(SEED + 2), 60, positive=False) + np.float16(6)
    write_bag(fresh / "odd_0.h5", [rows], grid(60), facts("odd_0"))
    (fresh / "d1_0.h5").unlink()
    out = tmp_path / "out.csv"
    predict(PredictOptions(run=(trained.out,), items=(fresh,), out=out))
    told = json.loads(out.with_suffix(".json").read_text())
    (found,) = told["unlike_known"]
    assert found["unlike"] == ["odd_0"]
    assert set(found["distances"]) == {"odd_0", *(f"{p}_{s}" for p in ("n1", "n2", "p1", "p2") for s in (0, 1))}
    assert any("1 of 9 slides is like none of the" in note and "odd_0" in note for note in told["notes"])


def test_an_older_run_says_that_it_cannot_tell_what_is_unlike(trained: Trained, fresh: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(trained.out, older)
    (older / "known.safetensors").unlink()
    (fresh / "d1_0.h5").unlink()
    out = tmp_path / "out.csv"
    predict(PredictOptions(run=(older,), items=(fresh,), out=out))
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["unlike_known"] == []
    assert any("slides unlike all known ones cannot be told" in note for note in told["notes"])


def test_sets_hold_what_the_runs_own_patients_do_not_rule_out(trained: Trained, fresh: Path, tmp_path: Path) -> None:
    (fresh / "d1_0.h5").unlink()
    out = tmp_path / "out.csv"
    predict(PredictOptions(run=(trained.out,), items=(fresh,), out=out))
    told = json.loads(out.with_suffix(".json").read_text())["decisions"]
    with (trained.out / "oof.csv").open(newline="") as file:
        known = [row for row in csv.DictReader(file) if row["level"] == "patient"]
    for patient, row in table(out).items():
        wanted = []
        for name in ("CE", "LAA"):
            own = [float(other[f"p_{name}"]) for other in known if other["label"] == name]
            p_value = (1 + sum(value <= float(row[name]) for value in own)) / (len(own) + 1)
            if p_value > 0.1 or patient == "e1":
                wanted.append(name)
        assert told["sets"]["patients"][patient] == wanted
    assert {own["rule"] for own in told["operating"]} == {"youden", "sensitivity=0.95", "specificity=0.95"}


def test_bags_that_are_not_held_are_read_once_for_the_check_and_all_models(
    trained: Trained, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: list[int]
) -> None:
    asked = PredictOptions(run=(trained.out,), items=(fresh,), out=tmp_path / "held" / "out.csv", device="cpu")
    predict(asked)
    read_bytes.clear()
    monkeypatch.setattr(several_encoders, "HELD_BYTES", 0)
    monkeypatch.setattr(
        "mil.evaluation.refusal.familiar.tiles_known", lambda *_: {}
    )  # reads those near a known slide again
    rows._SEEN.clear()
    predict(replace(asked, out=tmp_path / "read" / "out.csv"))
    assert len(load_ensemble(RunFolder(trained.out), "cpu").members) > 1
    assert sum(read_bytes) == 8 * 60 * DIM * 2
    for suffix in (".csv", ".json"):
        assert (tmp_path / "read" / f"out{suffix}").read_bytes() == (tmp_path / "held" / f"out{suffix}").read_bytes()


def test_a_bag_that_is_found_damaged_while_it_is_judged_fails_as_one_found_before(
    trained: Trained, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = fresh / "n1_1.h5"
    place = read_header(bag).place
    assert place is not None
    assert place.offset is not None
    flipped = bytearray(bag.read_bytes())
    flipped[place.offset + 7] ^= 1
    bag.write_bytes(flipped)
    asked = PredictOptions(run=(trained.out,), items=(fresh,), out=tmp_path / "held" / "out.csv", device="cpu")
    before = predict(asked)
    monkeypatch.setattr(several_encoders, "HELD_BYTES", 0)
    after = predict(replace(asked, out=tmp_path / "read" / "out.csv"))
    failed = [[(own.item_id, own.reason) for own in told.ended(Status.FAILED)] for told in (before, after)]
    assert failed[1] == failed[0]
    assert [name for name, _ in failed[1]] == ["d1_0", "n1_1"]
    assert "rows are not those that were written" in failed[1][1][1]
    for suffix in (".csv", ".json"):
        assert (tmp_path / "read" / f"out{suffix}").read_bytes() == (tmp_path / "held" / f"out{suffix}").read_bytes()

"""A run on another labelled cohort: numbers against scikit-learn and `predict`, overlap, shift, nothing refitted."""

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from making import SEED
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from witness import DIM, Trained, facts, grid, instances

from features.bags.bag import read_features, write_bag
from mil.data import several_encoders
from mil.external.evaluate import evaluate
from mil.external.options import EvaluateOptions
from mil.external.recalibration import recalibrated
from mil.external.shift import shift_of
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.models.ensemble import load_ensemble
from mil.run.ending import ending_of_evaluation, lines_of
from mil.run.folder import RunFolder
from mil.run.known import KnownSlides
from mil.targets.questions import Question
from wsi.errors import RecipeMismatchError, RequestError
from wsi.files.regular import file_sha256
from wsi.progress.outcome import Status


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bags and table of 14 new patients of centers 7 and 8, one of them with two slides, and one without tiles."""
    rng, folder = np.random.default_rng(SEED + 5), tmp_path_factory.mktemp("second")
    lines = ["image_id,patient_id,label,center_id"]
    for patient in range(14):
        label = "LAA" if patient % 3 == 0 else "CE"
        for slide in range(1 + (patient == 3)):
            image_id = f"x{patient:02d}_{slide}"
            rows = instances(rng, 50, positive=(label == "LAA") != (patient == 6))
            write_bag(folder / "bags" / f"{image_id}.h5", [rows], grid(50), facts(image_id))
            lines.append(f"{image_id},x{patient:02d},{label},{7 + patient % 2}")
    write_bag(folder / "bags" / "e1_0.h5", [np.empty((0, DIM), np.float16)], grid(0), facts("e1_0"))
    (folder / "labelled.csv").write_text("\n".join([*lines, "e1_0,e1,CE,7", "u1_0,u1,,7"]) + "\n")
    return folder


def options(trained: Trained, second: Path, out: Path, **more: object) -> EvaluateOptions:
    asked = {"items": (second / "bags",), "manifest": second / "labelled.csv", **more}
    return EvaluateOptions(run=trained.out, out=out, **asked)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def done(trained: Trained, second: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    before = {path: file_sha256(path) for path in trained.out.rglob("*") if path.is_file()}
    summary = evaluate(options(trained, second, out))
    assert [own.status for own in summary.outcomes] == [Status.DONE]
    assert {path: file_sha256(path) for path in trained.out.rglob("*") if path.is_file()} == before
    return out


def patients(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["level"] == "patient"]


def test_the_answers_are_those_of_predict(trained: Trained, second: Path, done: Path, tmp_path: Path) -> None:
    table = tmp_path / "predicted.csv"
    predict(PredictOptions(run=(trained.out,), items=(second / "bags",), out=table, manifest=second / "labelled.csv"))
    with table.open(newline="") as file:
        told = {row["patient_id"]: row for row in csv.DictReader(file)}
    rows = patients(done)
    assert len(rows) == 15
    assert [(row["p_CE"], row["p_LAA"]) for row in rows] == [
        (told[row["patient_id"]]["CE"], told[row["patient_id"]]["LAA"]) for row in rows
    ]


def test_the_metrics_are_those_of_scikit_learn(done: Path) -> None:
    rows, told = patients(done), json.loads((done / "evaluation.json").read_text())
    truth, probs = np.array([row["label"] == "LAA" for row in rows]), np.array([float(row["p_LAA"]) for row in rows])
    weights = np.where(truth, 1 / truth.sum(), 1 / (~truth).sum())
    found = {name: own["value"] for name, own in told["metrics"]["models"]["gated_abmil"].items()}
    assert found["auc"] == pytest.approx(roc_auc_score(truth, probs), abs=1e-6)
    assert found["weighted_log_loss"] == pytest.approx(log_loss(truth, probs, sample_weight=weights), abs=1e-6)
    assert found["brier"] == pytest.approx(2 * brier_score_loss(truth, probs, sample_weight=weights), abs=1e-6)
    assert not [name for name in found if name.endswith("_pooled")]
    assert told["metrics"]["centers"][0]["center"] == "7"


def test_cuts_are_those_chosen_on_the_runs_own_patients(trained: Trained, done: Path) -> None:
    own = json.loads((done / "evaluation.json").read_text())["decisions"]["questions"][0]
    with (trained.out / "oof.csv").open(newline="") as file:
        known = [row for row in csv.DictReader(file) if row["level"] == "patient"]
    ups = sorted(float(row["p_LAA"]) for row in known if row["label"] == "LAA")
    cut = own["operating"][1]["cuts"]
    assert own["operating"][1]["rule"] == "sensitivity=0.95"
    assert len(cut) == 1
    assert cut[0] <= ups[0]  # 17 with it: none may be missed
    called = [float(row["p_LAA"]) >= cut[0] for row in patients(done)]
    assert own["operating"][1]["tp"] + own["operating"][1]["fp"] == sum(called)


def test_what_it_would_move_with_is_told_apart(trained: Trained, second: Path, done: Path) -> None:
    told = json.loads((done / "evaluation.json").read_text())
    spread, rows = told["spread"], patients(done)
    assert spread["patients"] == told["metrics"]["models"]["gated_abmil"]["auc"]
    truth, probs = np.array([row["label"] == "LAA" for row in rows]), np.array([float(row["p_LAA"]) for row in rows])
    centers = np.array([row["center_id"] for row in rows])
    ups, downs = np.flatnonzero(truth), np.flatnonzero(~truth)
    pairs = [(up, down) for up in ups for down in downs if centers[up] == centers[down]]
    within = np.mean([(probs[up] > probs[down]) + 0.5 * (probs[up] == probs[down]) for up, down in pairs])
    assert spread["centers"]["pooled"]["value"] == pytest.approx(within)
    assert spread["centers"]["left_out"] == 1  # center 8 has two with it
    assert (spread["center_prior"], spread["learnt_centers"]) == (None, [])
    ensemble = load_ensemble(RunFolder(trained.out))
    paths = sorted((second / "bags").glob("x*.h5"))
    owners = np.array([path.stem.split("_")[0] for path in paths])
    for fold, value in enumerate(spread["folds"]["values"]):
        logits = ensemble.of_fold(fold).logits([read_features(path) for path in paths])
        means = np.stack(
            [logits[owners == row["patient_id"]].mean(axis=0) for row in rows if row["patient_id"] != "e1"]
        )
        scores = [0.5, *ensemble.told(means)[:, 1]]  # e1, which has no tiles, stands first
        assert value == pytest.approx(roc_auc_score(truth, scores))
    text = (done / "report.html").read_text()
    assert "other patients of this cohort, the same models" in text
    assert "Within centers, where nothing is won by knowing where a slide was made" in text
    assert "No other run was judged on this cohort in the same folder" in text


def test_other_runs_judged_on_the_cohort_are_looks(trained: Trained, second: Path, done: Path, tmp_path: Path) -> None:
    evaluate(options(trained, second, tmp_path / "own"))
    about = json.loads((done / "evaluation.json").read_text())
    for name, run in (("again", about["recipe"]["run"]), ("other", "another"), ("others", "another")):
        shutil.copytree(done, tmp_path / name)
        about["recipe"]["run"] = run
        (tmp_path / name / "evaluation.json").write_text(json.dumps(about))
    own = json.loads((tmp_path / "own" / "evaluation.json").read_text())
    assert own["spread"]["looks"]["runs"] == 1
    evaluate(options(trained, second, tmp_path / "own", operating=("youden",), overwrite=True))
    looks = json.loads((tmp_path / "own" / "evaluation.json").read_text())["spread"]["looks"]
    assert (looks["runs"], looks["names"]) == (2, ["other"])
    assert looks["corrected_p"] == pytest.approx(min(1, 2 * looks["p"]))
    assert (
        "2 runs were judged on this cohort in the same folder (this one, and in other)"
        in (tmp_path / "own" / "report.html").read_text()
    )
    table = tmp_path / "other" / "scores.csv"  # another cohort: the same patients, of whom other things are true
    table.write_text(table.read_text().replace(",LAA,", ",CF,").replace(",CE,", ",LAA,").replace(",CF,", ",CE,"))
    shutil.rmtree(tmp_path / "others")
    evaluate(options(trained, second, tmp_path / "own", operating=("cost=2",), overwrite=True))
    assert json.loads((tmp_path / "own" / "evaluation.json").read_text())["spread"]["looks"]["runs"] == 1


def test_the_page_stands_alone_and_its_contents_lead_somewhere(done: Path) -> None:
    text = (done / "report.html").read_text()
    sections = re.findall(r'<section id="(\w+)"', text)
    assert sections == [
        *(
            "good",
            "spread",
            "shift",
            "recalibration",
            "flow",
            "cases",
            "simpler",
            "curves",
            "decisions",
            "refusing",
            "breakdown",
        ),
        *("groups", "made"),
    ]
    assert re.findall(r'<li><a href="#(\w+)"', text) == sections
    assert "of another cohort, none of whom it was trained on" in text
    assert "No patient is known to the run by id, picture or features" in text
    assert "folds pooled" not in text
    assert "slides unlike all of the training" in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_again_is_skipped_and_other_labels_are_refused(
    trained: Trained, second: Path, done: Path, tmp_path: Path
) -> None:
    assert evaluate(options(trained, second, done)).outcomes[0].status is Status.SKIPPED
    other = tmp_path / "other.csv"
    other.write_text((second / "labelled.csv").read_text().replace("x05_0,x05,CE", "x05_0,x05,LAA"))
    with pytest.raises(RecipeMismatchError):
        evaluate(options(trained, second, done, manifest=other))


def test_bags_that_are_not_held_are_read_for_all_models_at_once(
    trained: Trained, second: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: list[int]
) -> None:
    """And before for means and sketches, by which patients of the training and twins are known; near bags twice."""
    monkeypatch.setattr(several_encoders, "HELD_BYTES", 0)
    evaluate(options(trained, second, tmp_path / "out"))
    own = 15 * 50 * DIM * 2
    assert 2 * own <= sum(read_bytes) <= 4 * own
    for name in ("scores.csv", "report.html", "checklists.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes()


@pytest.fixture
def mixed(trained: Trained, second: Path, tmp_path: Path) -> Path:
    """The second cohort with a patient of the training by id, and two slides of it filed under new names."""
    lines = (second / "labelled.csv").read_text().splitlines()
    known = sorted(trained.witness.bags.glob("00*_0.h5"))[:4]
    for path in (second / "bags").glob("*.h5"):
        (tmp_path / "bags").mkdir(exist_ok=True)
        (tmp_path / "bags" / path.name).write_bytes(path.read_bytes())
    import h5py

    with h5py.File(known[0]) as file:
        rows = np.asarray(file["features"])
    write_bag(tmp_path / "bags" / "0000_5.h5", [rows[::-1]], grid(len(rows)), facts("0000_5"))
    for number, source in enumerate(known[1:]):
        with h5py.File(source) as file:
            rows = np.asarray(file["features"])
        turned = (rows, rows[::-1], rows[::2].astype(np.float32) * (1 + 2**-13))[
            number
        ]  # another order; a part, rounded
        write_bag(tmp_path / "bags" / f"y{number}_0.h5", [turned], grid(len(turned)), facts(f"y{number}_0"))
    label = {path.stem: "LAA" if int(path.stem[:4]) % 3 == 0 else "CE" for path in known}
    lines += ["0000_5,0000,LAA,7", *(f"y{i}_0,y{i},{label[known[i + 1].stem]},7" for i in range(3))]
    (tmp_path / "labelled.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_patients_of_the_training_are_refused_or_left_out_by_id_and_features(
    trained: Trained, mixed: Path, done: Path
) -> None:
    found = ["1 patient by the patient's id (0000)", "2 patients by the same features (y0, y1)"]
    found.append("1 patient by the same tiles (y2)")
    with pytest.raises(RequestError, match=re.escape("; ".join(found))):
        evaluate(options(trained, mixed, mixed / "out"))
    assert not (mixed / "out" / "report.html").exists()
    evaluate(options(trained, mixed, mixed / "out", overlap="leave-out"))
    told = json.loads((mixed / "out" / "evaluation.json").read_text())
    assert told["left_out"] == found
    assert told["metrics"]["models"] == json.loads((done / "evaluation.json").read_text())["metrics"]["models"]
    assert "Left out, as the run was trained on them" in (mixed / "out" / "report.html").read_text()


def test_a_run_that_kept_nothing_of_its_slides_says_what_cannot_be_had(
    trained: Trained, second: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(trained.out, older)
    (older / "known.safetensors").unlink()
    evaluate(EvaluateOptions(run=older, items=(second / "bags",), manifest=second / "labelled.csv", out=tmp_path / "o"))
    text = (tmp_path / "o" / "report.html").read_text()
    assert "cannot be compared with the training" in text
    assert "the run keeps nothing of its slides" in text
    assert "No patient is known to the run by id or picture" in text


def test_nobody_with_a_label_is_refused(trained: Trained, second: Path, tmp_path: Path) -> None:
    empty = tmp_path / "none.csv"
    empty.write_text("image_id,label\nq_0,CE\n")
    with pytest.raises(RequestError, match=r"holds no bag|belongs to a slide of the manifest"):
        evaluate(options(trained, second, tmp_path / "out", manifest=empty))
    empty.write_text("image_id\nx00_0\n")
    with pytest.raises(RequestError, match="expected slides with a label"):
        evaluate(options(trained, second, tmp_path / "out", manifest=empty))
    with pytest.raises(RequestError, match="found a table or a run"):
        options(trained, second, trained.out)


def test_a_cohort_of_one_class_is_said_not_to_be_judged(trained: Trained, second: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "one.csv", tmp_path / "out"
    table.write_text("\n".join(row for row in (second / "labelled.csv").read_text().split("\n") if ",CE," not in row))
    evaluate(options(trained, second, out, manifest=table))
    page = re.sub(r"<[^>]+>|\s+", " ", (out / "report.html").read_text())
    assert "none of whom it was trained on, the model has no AUC: none is defined of 0 CE, 5 LAA." in page
    assert "The area of this run's model is not defined" in page.replace("&#39;", "'")
    assert "5 of 5 patients have it" in page
    lines = lines_of(ending_of_evaluation(out))
    assert lines[0] == "auc not defined, on 5 patients of another cohort"
    assert lines[1] == "The model is not shown to be better than chance."
    assert lines[2].startswith("warning: so few patients (CE: 0, LAA: 5) carry the result")
    assert lines[3:] == [f"report: {out / 'report.html'}"]


def test_recalibration_mends_a_shift_of_the_prevalence_and_nothing_else() -> None:
    """Told by the truth's own odds at half the prevalence: one number, ln 2 or so, and smaller errors out of part."""
    rng = np.random.default_rng(0)
    odds = rng.normal(-1, 1.5, 3000)
    positive = rng.random(3000) < 1 / (1 + np.exp(-(odds + 0.7)))
    told = 1 / (1 + np.exp(-odds))
    asked = Question("LAA", np.ones(3000, bool), positive, told, told)
    (own,) = recalibrated([asked], [str(i) for i in range(3000)], 0)
    assert own["number"] == pytest.approx(0.7, abs=0.1)
    assert own["there"] == pytest.approx(positive.mean())
    assert own["after"]["log_loss"] < own["before"]["log_loss"]
    assert own["before"]["log_loss"] == pytest.approx(log_loss(positive, told), abs=1e-9)
    assert own["before"]["brier"] == pytest.approx(brier_score_loss(positive, told), abs=1e-9)
    (none,) = recalibrated(
        [Question("LAA", np.ones(9, bool), np.zeros(9, bool), told[:9], told[:9])], list("abcdefghi"), 0
    )
    assert (none["number"], none["after"]) == (None, None)


def test_shift_is_told_in_spreads_and_scales(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    nobody: Any = SimpleNamespace(image_ids=())

    def slides(n: int, moved: float, mpp: float, colour: float) -> KnownSlides:
        return KnownSlides(
            image_ids=tuple(map(str, range(n))), patient_ids=tuple(map(str, range(n))),
            centers=("1", "2") * (n // 2), contents=("",) * n, means_SD=rng.normal(size=(n, 6)) + moved,
            mpp_S=np.full(n, mpp), colour_SC=np.full((n, 3), colour) + rng.normal(size=(n, 3)) / 255,
            tiles_SKA=np.zeros((n, 0, 9)),
        )  # fmt: skip

    known, here = slides(100, 0, 0.25, 0.5), slides(40, 2, 0.5, 0.6)
    monkeypatch.setattr("mil.external.shift.slides_known", lambda *_: here)
    told = shift_of(nobody, {}, (), known, 0).told
    spread = np.sqrt((known.means_SD.var(axis=0) + here.means_SD.var(axis=0)) / 2)
    wanted = np.abs(here.means_SD.mean(axis=0) - known.means_SD.mean(axis=0)) / spread
    assert told["features"]["moved_median"] == pytest.approx(np.median(wanted))
    assert told["features"]["moved_most"] == pytest.approx(wanted.max())
    assert told["features"]["told_apart"]["value"] > 0.95
    assert told["mpp"]["new_scale"] == 40
    assert told["stain"]["moved"][0] == pytest.approx(25.5, rel=0.2)
    assert told["centers"]["in_both"] == ["1", "2"]
    alike = slides(40, 0, 0.26, 0.5)
    monkeypatch.setattr("mil.external.shift.slides_known", lambda *_: alike)
    told = shift_of(nobody, {}, (), known, 0).told
    assert told["features"]["told_apart"]["low"] < 0.5 < told["features"]["told_apart"]["high"]
    assert told["mpp"]["new_scale"] == 0

"""What keeps a result honest: held-out centers, the center probe, the choice of a calibration, random labels."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import SEED
from witness import DIM, Trained, Witness, facts, grid, instances

from features.bags.bag import write_bag
from mil.data.splits import center_folds
from mil.evaluation.calibrate import METHODS, choose_method, fit_calibration
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.run.scores import patient_logits
from mil.targets.calibration import calibration_of
from mil.targets.metrics import ones, softmax, weighted_log_loss
from mil.train import train
from mil.training.training_data import gather
from wsi.errors import ManifestError, RequestError


def test_whole_centers_are_held_out_in_folds_of_like_size() -> None:
    centers = [c for c, n in (("a", 9), ("b", 5), ("c", 4), ("d", 4), ("e", 2)) for _ in range(n)]
    patients = [f"p{i}" for i in range(len(centers))]
    folds = center_folds(centers, patients, 3)
    for center in set(centers):
        assert len({fold for fold, own in zip(folds.tolist(), centers, strict=True) if own == center}) == 1
    assert sorted(np.bincount(folds).tolist()) == [7, 8, 9]
    with pytest.raises(RequestError, match="expected 6 or more centers, found 5"):
        center_folds(centers, patients, 6)
    with pytest.raises(RequestError, match="patient p1 has no center_id"):
        center_folds(["a", None], ["p0", "p1"], 2)
    with pytest.raises(RequestError, match="patient p0 stands in centers a and b"):
        center_folds(["a", "b"], ["p0", "p0"], 2)


@pytest.mark.parametrize("method", METHODS)
def test_every_calibration_gives_probabilities_and_comes_back_from_json(method: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    logits = 4 * rng.normal(size=(90, 3)) + np.eye(3)[labels]
    own = fit_calibration(method, logits, labels)
    probs = own.probabilities(logits)
    np.testing.assert_allclose(probs.sum(1), 1)
    assert (probs >= own.floor - 1e-12).all()
    again = calibration_of(json.loads(json.dumps(own.as_dict())))
    np.testing.assert_array_equal(again.probabilities(logits), probs)
    before = weighted_log_loss(labels, softmax(logits), ones(90))[0]
    after = weighted_log_loss(labels, probs, ones(90))[0]
    assert after <= before + 1e-9


def test_platt_finds_scale_and_shift() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 2000)
    truth = np.stack([-np.ones(4000), np.ones(4000)], 1) * np.where(labels == 1, 1, -1)[:, None] + rng.normal(
        size=(4000, 2)
    )
    own = fit_calibration("platt", truth * 3 + [0.0, 2.0], labels)
    plain = fit_calibration("platt", truth, labels)
    assert own.temperature == pytest.approx(3 * plain.temperature, rel=0.1)
    assert own.shift[1] - own.shift[0] == pytest.approx(plain.shift[1] - plain.shift[0] - 2 / own.temperature, abs=0.15)


def test_the_choice_is_made_on_patients_left_out() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 300)
    logits = np.stack([-np.ones(600), np.ones(600)], 1) * np.where(labels == 1, 1, -1)[:, None] + rng.normal(
        size=(600, 2)
    )
    assert choose_method(METHODS, 6 * logits, labels, 0) in {"temperature", "platt"}
    assert choose_method(METHODS, 0.6 * logits + [0.0, 4.0], labels, 0) in {"prior", "platt"}
    few = fit_calibration("auto", logits[[0, 1, 300]], labels[[0, 1, 300]])
    assert few == fit_calibration("temperature", logits[[0, 1, 300]], labels[[0, 1, 300]])  # too few to choose by


def test_the_highest_slide_decides_where_asked() -> None:
    logits = np.array([[1.0, -1.0], [-3.0, 3.0], [9.0, -9.0], [0.5, -0.5], [-8.0, 8.0]])
    usable = np.array([True, True, True, True, False])
    names, highest = patient_logits(logits, ("a", "a", "a", "b", "b"), usable, "max")
    assert names == ["a", "b"]
    np.testing.assert_array_equal(highest, [[-3, 3], [0.5, -0.5]])  # one slide of the second class is enough
    assert not patient_logits(logits, ("a",) * 5, np.zeros(5, bool), "max")[1].any()


def test_of_several_classes_each_has_its_highest_slide() -> None:
    logits = np.array([[6.0, 0, 0], [0, 0, 6], [10.0, 13, 10]])
    told = patient_logits(logits, ("a", "a", "a"), np.ones(3, bool), "max")[1]
    np.testing.assert_array_equal(told, [[4, 2, 4]])


@pytest.mark.parametrize(
    "options",
    [{"calibrate": "auto"}, {"calibrate": "platt", "aggregate": "max"}, {"output": "arcface"}, {"aggregate": "bag"}],
)
def test_options_reach_training_and_prediction(trained: Trained, tmp_path: Path, options: dict[str, str]) -> None:
    witness = trained.witness
    run = tmp_path / "run"
    assert train(witness.options(run, folds=2, epochs=4, baselines=(), **options)).exit_code in (0, 1)
    found = json.loads((run / "calibration.json").read_text())
    assert found["method"] in METHODS
    assert len(found["folds"]) == 2
    assert predict(PredictOptions(run=(run,), items=(witness.bags,), out=tmp_path / "p.csv")).outcomes[0].reason == ""
    rows = np.loadtxt(tmp_path / "p.csv", delimiter=",", skiprows=1)[:, 1:]
    np.testing.assert_allclose(rows.sum(1), 1)
    if "output" in options:
        model = json.loads((run / "fold0" / "seed0" / "model.json").read_text())["spec"]
        assert model["output"] == "arcface"
        assert model["margins"][1] > model["margins"][0]  # LAA is the rarer class


def test_slides_of_a_patient_as_one_bag(write_cohort: Callable[..., Witness], tmp_path: Path) -> None:
    witness = write_cohort(tmp_path, n_patients=18)
    options = witness.options(tmp_path / "run", folds=2, epochs=3, baselines=(), aggregate="bag")
    data = gather(options)
    whole, joined = gather(replace(options, aggregate="mean")).open()[0], data.open()[0]
    assert joined.image_ids == joined.patient_ids == tuple(dict.fromkeys(whole.patient_ids))
    both = np.concatenate([whole.bags[i] for i, patient in enumerate(whole.patient_ids) if patient == "0005"])
    np.testing.assert_array_equal(joined.bags[joined.patient_ids.index("0005")], both)
    assert train(options).exit_code == 0
    run = tmp_path / "run"
    assert "0005_1,0005" in (run / "splits.csv").read_text()
    slides = [line for line in (run / "oof.csv").read_text().splitlines() if line.startswith("slide,")]
    assert len(slides) == 18
    predict(PredictOptions(run=(run,), items=(tmp_path,), out=tmp_path / "p.csv", manifest=witness.manifest))
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 19


def cohort_of_centers(folder: Path, seed: int = SEED) -> Witness:
    """A cohort whose features tell the center, and whose center tells the label; the tissue tells nothing."""
    rng = np.random.default_rng(seed)
    lines = ["image_id,patient_id,label,center_id"]
    for patient in range(60):
        center = patient % 4
        label = "LAA" if rng.random() < (0.9, 0.9, 0.1, 0.1)[center] else "CE"
        rows = rng.normal(size=(40, DIM)).astype(np.float16)
        rows[:, center] += 1
        write_bag(folder / f"{patient:04d}_0.h5", [rows], grid(40), facts(f"{patient:04d}_0"))
        lines.append(f"{patient:04d}_0,{patient:04d},{label},{center}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return Witness(folder, folder / "train.csv")


def test_a_center_that_predicts_the_label_is_exposed(tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    witness = cohort_of_centers(tmp_path / "bags")
    mixed, held_out = tmp_path / "mixed", tmp_path / "held_out"
    common = {"epochs": 25, "hidden": 16, "head": "mean_pool", "baselines": (), "folds": 4}
    assert train(witness.options(mixed, **common)).exit_code == 0
    assert train(witness.options(held_out, split="centers", **common)).exit_code == 0
    found = {run: json.loads((run / "metrics.json").read_text()) for run in (mixed, held_out)}
    auc = {run: found[run]["models"]["mean_pool"]["auc"] for run in found}
    assert auc[mixed]["low"] > 0.6  # flattering: it is the center
    assert auc[held_out]["value"] < auc[mixed]["value"] - 0.2
    probe = found[mixed]["center_probe"]
    assert (probe["centers"], probe["chance"]) == (4, 0.25)
    assert probe["balanced_accuracy"]["low"] > 0.8
    page = (mixed / "report.html").read_text()
    assert "the features tell the center" in page
    assert "The center alone predicts the class" in page


def test_features_that_do_not_know_the_center_pass_the_probe(trained: Trained) -> None:
    probe = json.loads((trained.out / "metrics.json").read_text())["center_probe"]
    assert probe["balanced_accuracy"]["low"] < 0.5 < probe["balanced_accuracy"]["high"]


def test_one_picture_under_two_patients_is_refused_and_told_at_prediction(
    tmp_path: Path, write_cohort: Callable[..., Witness]
) -> None:
    witness = write_cohort(tmp_path, n_patients=18)

    def as_picture(image_id: str, picture: str) -> None:
        rows = instances(np.random.default_rng(1), 30, positive=False)
        told = facts(image_id)
        write_bag(
            tmp_path / f"{image_id}.h5",
            [rows],
            grid(30),
            replace(told, provenance={**told.provenance, "overview_sha256": picture}),
        )

    as_picture("0001_0", "aa")
    as_picture("0002_0", "aa")
    with pytest.raises(RequestError, match=r"0001_0 \(patient 0001\) and 0002_0 \(patient 0002\) are the same picture"):
        train(witness.options(tmp_path / "no"))
    as_picture("0002_0", "bb")
    as_picture("0000_0", "cc")
    as_picture("0000_1", "cc")
    run = tmp_path / "run"
    assert train(witness.options(run, folds=2, epochs=2, baselines=())).exit_code == 0
    warned = json.loads((run / "metrics.json").read_text())["warnings"]
    assert "slides 0000_0 and 0000_1 of patient 0000 are the same picture" in warned
    new = tmp_path / "new"
    new.mkdir()
    as_picture("0777_0", "bb")
    (tmp_path / "0777_0.h5").rename(new / "0777_0.h5")
    done = predict(PredictOptions(run=(run,), items=(new,), out=tmp_path / "p.csv"))
    assert "1 slide was in the run's training under other names: 0777_0 = 0002_0" in done.outcomes[0].facts["notes"]


def test_other_slides_are_trained_on_and_never_tested(write_cohort: Callable[..., Witness], tmp_path: Path) -> None:
    witness = write_cohort(tmp_path, n_patients=18)
    others = ["image_id,patient_id,label,other_specified"]
    for number in range(6):
        rows = instances(np.random.default_rng(number), 40, positive=False)
        write_bag(tmp_path / f"x{number}_0.h5", [rows], grid(40), facts(f"x{number}_0"))
        others.append(f"x{number}_0,x{number},Other,Dissection")
    (tmp_path / "other.csv").write_text("\n".join(others) + "\n")
    common = {"folds": 2, "epochs": 3, "baselines": ()}
    plain, more = tmp_path / "plain", tmp_path / "more"
    assert train(witness.options(plain, **common)).exit_code == 0
    given = {"other": tmp_path / "other.csv", "other_label": "CE"}
    assert train(witness.options(more, **common, **given)).exit_code == 0
    for name in ("splits.csv", "oof.csv"):
        assert "x0" not in (more / name).read_text()
    assert (plain / "splits.csv").read_text() == (more / "splits.csv").read_text()
    weights = "fold0/seed0/weights.safetensors"
    assert (plain / weights).read_bytes() != (more / weights).read_bytes()
    told = json.loads((more / "metrics.json").read_text())
    assert told["slides"] == json.loads((plain / "metrics.json").read_text())["slides"]
    assert "6 slides of other.csv are trained on only, as CE" in told["warnings"]
    third = tmp_path / "third"
    assert train(witness.options(third, **common, other=tmp_path / "other.csv", other_label="Other")).exit_code == 0
    told = json.loads((third / "metrics.json").read_text())
    assert told["classes"] == ["CE", "LAA"]
    assert "as Other, a class of their own that is never told" in " ".join(told["warnings"])
    spec = json.loads((third / "fold0" / "seed0" / "model.json").read_text())["spec"]
    assert (spec["n_classes"], spec["extra_classes"]) == (3, 1)
    predict(PredictOptions(run=(third,), items=(tmp_path,), out=tmp_path / "p.csv", manifest=tmp_path / "train.csv"))
    told_rows = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()]
    assert told_rows[0] == ["patient_id", "CE", "LAA"]
    assert all(abs(float(row[1]) + float(row[2]) - 1) < 1e-9 for row in told_rows[1:])
    with pytest.raises(RequestError, match="expected both, a table and the class"):
        witness.options(tmp_path / "no", other=tmp_path / "other.csv")
    (tmp_path / "other.csv").write_text((tmp_path / "other.csv").read_text() + "0001_0,0001,Other,\n")
    with pytest.raises(ManifestError, match="image_id in both train and test: 0001_0"):
        train(witness.options(tmp_path / "no", **common, **given))


@pytest.mark.slow
def test_labels_without_meaning_score_as_such(tmp_path: Path, write_cohort: Callable[..., Witness]) -> None:
    honest = 0
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        rng = np.random.default_rng(seed)
        lines = ["image_id,patient_id,label,center_id"]
        labels = rng.permutation(["LAA"] * 20 + ["CE"] * 40)
        for patient, label in enumerate(labels):
            rows = instances(rng, 40, positive=False)
            write_bag(folder / f"{patient:04d}_0.h5", [rows], grid(40), facts(f"{patient:04d}_0"))
            lines.append(f"{patient:04d}_0,{patient:04d},{label},{patient % 2}")
        (folder / "train.csv").write_text("\n".join(lines) + "\n")
        run = folder / "run"
        train(Witness(folder, folder / "train.csv").options(run, epochs=20, hidden=16, baselines=(), seed=seed))
        auc = json.loads((run / "metrics.json").read_text())["models"]["gated_abmil"]["auc"]
        honest += auc["low"] <= 0.5 <= auc["high"]
    # The models of two folds test each other: on noise the AUC's variance is twice that of patients drawn anew with the
    # models fixed, so that an interval of 95 % holds 0.5 in 83 % (1.96 over the root of 2); 13 or more of 20 in 98 %.
    assert honest >= 13

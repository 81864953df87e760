"""Calibration: fitted without the patients who are scored, never surer than the patients can vouch for."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from witness import Witness

from mil.evaluation.calibrate import METHODS, fit_calibration
from mil.evaluation.oof import collect
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.run.folder import RunFolder
from mil.run.scores import Scores, read_scores, write_scores
from mil.targets import ClassTarget
from mil.targets.calibration import calibration_of
from mil.targets.metrics import ones, softmax, weighted_log_loss
from mil.train import train
from mil.training.training_data import gather
from wsi.errors import RequestError


def cohort(
    rng: np.random.Generator, n: int, auc: float, rare: float, sure: float, outliers: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and logits of two normal classes, by ``sure`` times their true log odds, some of them wild."""
    labels = (np.arange(n) < max(4, round(n * rare))).astype(np.int64)
    apart = np.sqrt(2) * norm.ppf(auc)
    noise = rng.normal(size=n) * np.where(rng.random(n) < outliers, 30, 1)
    odds = sure * max(apart, 0.5) * (apart * (labels - 0.5) + noise)
    return labels, np.stack([-odds / 2, odds / 2], axis=1)


def loss(labels: np.ndarray, probs: np.ndarray) -> float:
    return float(weighted_log_loss(labels, probs, ones(len(labels)))[0])


@pytest.mark.parametrize("n", [40, 200, 700])
@pytest.mark.parametrize("sure", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("auc", [0.5, 0.7, 0.9])
def test_new_patients_are_told_no_worse_than_by_the_logits_themselves(n: int, sure: float, auc: float) -> None:
    gains = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        found = fit_calibration("temperature", *reversed(cohort(rng, n, auc, 0.3, sure)))
        labels, logits = cohort(rng, 4000, auc, 0.5, sure)
        gains.append(loss(labels, softmax(logits)) - loss(labels, found.probabilities(logits)))
    assert np.mean(gains) > -0.01
    if sure == 4 and auc < 0.9:
        assert np.mean(gains) > 0.05


def test_a_few_wild_logits_do_not_blunt_all_others() -> None:
    rng = np.random.default_rng(0)
    labels, logits = cohort(rng, 300, 0.9, 0.4, 1.0, outliers=0.05)
    found = fit_calibration("temperature", logits, labels)
    assert found.temperature < 2
    assert 0.01 < found.floor < 0.1
    clean = fit_calibration("temperature", *reversed(cohort(rng, 300, 0.9, 0.4, 1.0)))
    assert clean.floor < 0.01


def test_few_patients_never_make_it_surer() -> None:
    for n in (6, 12, 24):
        labels = np.arange(n) % 2
        logits = 0.5 * np.stack([1 - labels, labels], axis=1).astype(float)  # all right, and hardly sure
        found = fit_calibration("temperature", logits, labels)
        assert found.temperature > 0.75
        assert found.floor == pytest.approx(0.25 / (n // 2 + 1))
    assert fit_calibration("temperature", np.tile(logits, (50, 1)), np.tile(labels, 50)).temperature == 0.5


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_nothing_of_what_may_come_in_breaks_it(method: str) -> None:
    rng = np.random.default_rng(1)
    for n, n_classes, scale in ((3, 2, 1.0), (9, 4, 1e4), (40, 3, 0.0), (60, 2, 1e6)):
        labels = np.arange(n, dtype=np.int64) % n_classes
        logits = scale * rng.normal(size=(n, n_classes))
        probs = fit_calibration(method, logits, labels).probabilities(logits)
        np.testing.assert_allclose(probs.sum(axis=1), 1)
        if method != "none":
            assert probs.min() >= 0.5 / (labels.tolist().count(n_classes - 1) + 1) / n_classes * 0.999
    alone = fit_calibration(method, np.ones((9, 2)), np.zeros(9, np.int64))
    assert (alone.temperature, alone.shift) == (1.0, ())


def test_rare_patients_count_by_what_they_are_worth() -> None:
    rng = np.random.default_rng(2)
    few = fit_calibration("temperature", *reversed(cohort(rng, 400, 0.8, 0.01, 0.5)))
    many = fit_calibration("temperature", *reversed(cohort(rng, 400, 0.8, 0.5, 0.5)))
    assert few.temperature > 0.85 > many.temperature  # four patients of a class do not show that all may be surer


def test_it_comes_back_from_json_also_as_it_was_written_earlier() -> None:
    old = {"method": "clip", "temperature": 1.5, "shift": [], "floor": 0.02, "folds": []}
    assert calibration_of(old).probabilities(np.zeros((1, 2))).tolist() == [[0.5, 0.5]]


@pytest.fixture(scope="module")
def run(write_cohort: Callable[..., Witness], tmp_path_factory: pytest.TempPathFactory) -> tuple[Witness, Path]:
    folder = tmp_path_factory.mktemp("calibrated")
    witness = write_cohort(folder / "bags", n_patients=30)
    train(witness.options(folder / "run", folds=3, epochs=3, baselines=()))
    return witness, folder / "run"


@pytest.mark.parametrize("method", ["temperature", "prior", "platt", "auto"])
def test_a_fold_is_calibrated_without_its_patients(run: tuple[Witness, Path], tmp_path: Path, method: str) -> None:
    """Labels and logits of all patients of fold 0 are changed: not a bit of what calibrates them may change."""
    witness, folder = run
    shutil.copytree(folder, tmp_path / "run")
    options = witness.options(tmp_path / "run", folds=3, calibrate=method)
    data = gather(options)
    cohort, folds, after = data.open()[0], data.folds, RunFolder(tmp_path / "run")
    rng, tested = np.random.default_rng(0), data.folds == 0
    for fold in range(3):
        told = read_scores(RunFolder(folder).model(options.head, fold, 0) / "scores.csv")
        changed = told.test_S & (fold == 0)
        logits = np.where(changed[:, None], 9 * rng.normal(size=told.logits_SC.shape), told.logits_SC)
        write_scores(after.model(options.head, fold, 0) / "scores.csv", Scores(told.image_ids, told.test_S, logits))
    labels_N = cohort.target.groups_N
    other = replace(cohort, target=ClassTarget(np.where(tested, 1 - labels_N, labels_N), cohort.target.names))
    first = collect(RunFolder(folder), options.head, cohort, folds, options)
    second = collect(after, options.head, other, folds, options)
    assert first.calibrations[0] == second.calibrations[0]
    assert first.calibrations[1] != second.calibrations[1]
    assert first.calibrations[2] != second.calibrations[2]
    assert first.calibration != second.calibration
    assert not np.array_equal(first.patient_told_PC, second.patient_told_PC)


def test_a_run_tells_new_patients_by_what_it_fitted_on_all(run: tuple[Witness, Path], tmp_path: Path) -> None:
    witness, folder = run
    told = json.loads((folder / "calibration.json").read_text())
    assert "out-of-fold" in told["folds_fitted_on"]
    options = witness.options(folder, folds=3)
    data = gather(options)
    found = collect(RunFolder(folder), options.head, data.open()[0], data.folds, options)
    assert calibration_of(told) == found.calibration
    assert [calibration_of(own) for own in told["folds"]] == list(found.calibrations.values())
    predict(PredictOptions(run=(folder,), items=(witness.bags,), out=tmp_path / "p.csv", manifest=witness.manifest))
    rows = np.loadtxt(tmp_path / "p.csv", delimiter=",", skiprows=1)[:, 1:]
    assert rows.min() >= found.calibration.floor > 0


@pytest.mark.parametrize("rows", [slice(1, None), [0, 0, *range(1, 1000)]])
def test_scores_without_a_slide_of_their_fold_are_refused(
    run: tuple[Witness, Path], tmp_path: Path, rows: slice | list[int]
) -> None:
    """A slide that is missing would be told as one of equal probabilities; one that stands twice as one far surer."""
    witness, folder = run
    shutil.copytree(folder, tmp_path / "run")
    options = witness.options(tmp_path / "run", folds=3)
    data = gather(options)
    path = RunFolder(tmp_path / "run").model(options.head, 1, 0) / "scores.csv"
    told = read_scores(path)
    order = np.concatenate([np.flatnonzero(told.test_S), np.flatnonzero(~told.test_S)])
    chosen = order[rows] if isinstance(rows, slice) else order[rows[: len(order) + 1]]
    write_scores(path, Scores(tuple(told.image_ids[i] for i in chosen), told.test_S[chosen], told.logits_SC[chosen]))
    with pytest.raises(RequestError, match=r"fold1.*scores.csv is damaged .*each of the \d+ slides of fold 1 once"):
        collect(RunFolder(tmp_path / "run"), options.head, data.open()[0], data.folds, options)

"""Metrics against golden values, against scikit-learn, and under resampling."""

from functools import partial

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from making import SEED
from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix, r2_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from mil.evaluation.bootstrap import draw_patients, estimate, estimates
from mil.evaluation.calibrate import fit_calibration
from mil.targets.metrics import (
    METRICS,
    auc,
    average_precision,
    balanced_accuracy,
    brier,
    confusion,
    ece,
    finite,
    macro_brier,
    midranks,
    ones,
    percentile_interval,
    r2,
    r2_over,
    roc_curve,
    softmax,
    spearman,
    weighted_log_loss,
)

STRIP_AI = np.repeat([0, 1], [547, 207])
"""CE and LAA among STRIP AI's training slides."""
STRIP_AI_PATIENTS = np.repeat([0, 1], [457, 175])


def binary(p_one: np.ndarray) -> np.ndarray:
    return np.stack([1 - p_one, p_one], axis=1)


def value(metric: object, labels: np.ndarray, probs: np.ndarray) -> float:
    return float(metric(labels, probs, ones(len(labels)))[0])  # type: ignore[operator]


def test_a_constant_half_scores_ln_2() -> None:
    assert value(weighted_log_loss, STRIP_AI, np.full((754, 2), 0.5)) == pytest.approx(0.693147, abs=1e-6)


@pytest.mark.parametrize(("labels", "expected"), [(STRIP_AI_PATIENTS, 0.8042), (STRIP_AI, 0.8068)])
def test_the_class_prior_scores_worse_than_a_constant(labels: np.ndarray, expected: float) -> None:
    prior = binary(np.full(len(labels), labels.mean()))
    assert value(weighted_log_loss, labels, prior) == pytest.approx(expected, abs=5e-5)


def test_log_loss_follows_the_formula_of_the_competition() -> None:
    rng = np.random.default_rng(SEED)
    labels, raw = rng.integers(0, 3, 40), rng.random((40, 3)) * 5
    raw[0] = [1, 0, 0]
    labels[0] = 1  # a certain and wrong row: clipped, not infinite
    probs = np.clip(raw / raw.sum(axis=1, keepdims=True), 1e-15, 1 - 1e-15)
    expected = -np.mean([np.mean([np.log(probs[i, c]) for i in np.flatnonzero(labels == c)]) for c in range(3)])
    assert value(weighted_log_loss, labels, raw) == pytest.approx(expected, rel=1e-12)


@given(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1e9]) | st.floats(-1, 1), max_size=20))
def test_ranks_are_those_of_scipy(values: list[float]) -> None:
    np.testing.assert_array_equal(midranks(np.array(values)), scipy.stats.rankdata(values))


@given(st.integers(0, 10_000), st.integers(6, 40), st.sampled_from([3, 1000]))
def test_metrics_agree_with_scikit_learn(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, n), [0, 0, 0, 1])
    labels[:n][rng.random(n) < 0.5] = 0  # class 1 is the rarer one
    scores = rng.integers(0, levels, n + 4) / levels
    probs = binary(scores)
    assert value(auc, labels, probs) == pytest.approx(roc_auc_score(labels, scores))
    rarer = int((labels == 1).sum() <= (labels == 0).sum())
    theirs = average_precision_score(labels == rarer, probs[:, rarer])
    assert value(average_precision, labels, probs) == pytest.approx(theirs)
    if not np.any(scores == 0.5):
        assert value(balanced_accuracy, labels, probs) == pytest.approx(
            balanced_accuracy_score(labels, probs.argmax(axis=1))
        )


@given(st.integers(0, 10_000), st.integers(8, 30), st.integers(2, 4))
def test_drawing_a_patient_twice_equals_listing_it_twice(seed: int, n: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, n_classes, n), np.arange(n_classes))
    probs = softmax(rng.normal(size=(len(labels), n_classes)))
    times = rng.integers(1, 4, len(labels))
    for name, metric in METRICS.items():
        if name == "average_precision" and n_classes == 2:
            continue  # the rarer class may change with the listing
        listed = value(metric, np.repeat(labels, times), np.repeat(probs, times, axis=0))
        assert metric(labels, probs, times[None].astype(float))[0] == pytest.approx(listed), name


def test_perfect_and_useless_predictions() -> None:
    labels = np.array([0, 0, 0, 1])
    perfect, useless = binary(labels.astype(float)), np.full((4, 2), 0.5)
    assert [value(m, labels, perfect) for m in (auc, balanced_accuracy, brier, ece)] == [1, 1, 0, 0]
    assert [value(m, labels, useless) for m in (auc, balanced_accuracy, brier)] == [0.5, 0.5, 0.5]
    assert confusion(labels, perfect).tolist() == [[3, 0], [0, 1]]


def test_a_missing_class_gives_nan_and_no_interval() -> None:
    labels, probs = np.zeros(5, int), np.full((5, 2), 0.5)
    assert np.isnan(value(weighted_log_loss, labels, probs))
    assert estimate(partial(auc, labels, probs), draw_patients(5, 0, 20))["low"] is None


def test_the_roc_curve_encloses_the_auc() -> None:
    rng = np.random.default_rng(SEED)
    labels, scores = rng.integers(0, 2, 50), rng.integers(0, 9, 50) / 9
    false, true = roc_curve(labels == 1, scores)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(value(auc, labels, binary(scores)))


def test_bootstrap_spread_is_that_of_the_field() -> None:
    """For 20 patients the standard deviation of the log loss is about 0.05, for 200 about 0.015."""
    rng = np.random.default_rng(SEED)
    spreads = []
    for n in (20, 200):
        labels = (np.arange(n) % 10 < 3).astype(int)
        probs = binary(np.clip(0.5 + 0.08 * rng.normal(size=n) + 0.05 * (2 * labels - 1), 0.05, 0.95))
        replicates = weighted_log_loss(labels, probs, draw_patients(n, 1))
        spreads.append(np.nanstd(replicates))
    assert 2 < spreads[0] / spreads[1] < 5


def test_on_noise_the_interval_of_the_auc_contains_one_half() -> None:
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        labels = (np.arange(60) % 10 < 3).astype(int)
        found = estimate(partial(auc, labels, binary(rng.random(60))), draw_patients(60, seed, 500))
        assert found["low"] <= found["value"] <= found["high"]
        covered += found["low"] <= 0.5 <= found["high"]
    assert covered >= 35


def test_temperature_finds_what_sharpened_the_logits() -> None:
    rng = np.random.default_rng(SEED)
    logits = rng.normal(size=(4000, 2)) * 1.5
    labels = (rng.random(4000) < softmax(logits)[:, 1]).astype(int)
    assert fit_calibration("temperature", logits * 3, labels).temperature == pytest.approx(3, rel=0.1)


def test_temperature_shrinks_useless_logits_and_leaves_tiny_samples_alone() -> None:
    rng = np.random.default_rng(SEED)
    labels = np.arange(200) % 2
    useless = rng.normal(size=(200, 2)) * 4
    told = fit_calibration("temperature", useless, labels).probabilities(useless)
    assert np.abs(told - 0.5).max() < 0.35
    assert fit_calibration("temperature", np.ones((9, 2)), np.zeros(9, int)).temperature == 1


def classes_of(seed: int, n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, n_classes, n), np.arange(n_classes))
    return labels, np.round(softmax(1.5 * rng.normal(size=(len(labels), n_classes))), 3) + 1e-3


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_of_several_classes_follow_their_definitions(seed: int, n_classes: int) -> None:
    labels, probs = classes_of(seed, 37, n_classes)
    probs /= probs.sum(axis=1, keepdims=True)
    members = [labels == c for c in range(n_classes)]
    if n_classes > 2:
        assert value(auc, labels, probs) == pytest.approx(roc_auc_score(labels, probs, multi_class="ovr"))
        one_hot = np.stack(members, axis=1)
        assert value(average_precision, labels, probs) == pytest.approx(average_precision_score(one_hot, probs))
    assert value(balanced_accuracy, labels, probs) == pytest.approx(balanced_accuracy_score(labels, probs.argmax(1)))
    errors = [np.mean([sum((p - (j == c)) ** 2 for j, p in enumerate(row)) for row in probs[labels == c]]) for c in
              range(n_classes)]  # fmt: skip
    assert value(brier, labels, probs) == pytest.approx(np.mean(errors))
    np.testing.assert_array_equal(confusion(labels, probs), confusion_matrix(labels, probs.argmax(1)))
    gap = 0.0
    for low in np.arange(10):
        inside = np.floor(probs.max(axis=1) * 10) == low
        gap += abs(sum(
            (float(probs[i].argmax() == labels[i]) - probs[i].max()) / members[labels[i]].sum() / n_classes
            for i in np.flatnonzero(inside)
        ))  # fmt: skip
    assert value(ece, labels, probs) == pytest.approx(gap)


def test_patients_who_were_not_drawn_do_not_count() -> None:
    labels, probs = classes_of(5, 30, 3)
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, 3, (4, len(labels))).astype(float)
    drawn[:, -3:] = 1
    drawn[3, labels == 2] = 0
    for name, metric in METRICS.items():
        found = metric(labels, probs, drawn)
        for own, times in zip(found[:3], drawn.astype(int), strict=False):
            assert own == pytest.approx(value(metric, np.repeat(labels, times), np.repeat(probs, times, axis=0))), name
        assert np.isnan(found[3]), name


def test_certain_rows_and_ties_and_equal_classes() -> None:
    labels = np.array([0, 1])
    assert value(ece, labels, binary(np.array([0.0, 1.0]))) == 0  # a confidence of 1 lies in the last bin
    assert value(weighted_log_loss, labels, binary(np.array([0.0, 1.0]))) == pytest.approx(1e-15, rel=0.2, abs=0)
    assert value(weighted_log_loss, labels, binary(np.array([1.0, 0.0]))) == pytest.approx(-np.log(1e-15))
    tied = np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.2, 0.2, 0.6]])
    assert value(balanced_accuracy, np.arange(3), tied) == pytest.approx((0.5 + 0.5 + 1) / 3)
    even, scores = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    assert value(average_precision, even, binary(scores)) == pytest.approx((1 + 2 / 3) / 2)  # of class 1 where alike
    assert confusion(np.array([2]), np.array([[0.2, 0.5, 0.3]])).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_the_softmax_and_the_roc_curve_are_those_of_scipy_and_scikit_learn() -> None:
    rng = np.random.default_rng(SEED)
    for logits in (rng.normal(size=(2, 5, 3)), np.array([[800.0, 0, -800], [-900, -900, -901]])):
        np.testing.assert_allclose(softmax(logits), scipy.special.softmax(logits, axis=-1))
    positive, scores = rng.random(40) < 0.3, rng.integers(0, 12, 40) / 12
    false, true, _ = sklearn_roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(np.array(roc_curve(positive, scores)), np.array([false, true]))
    undefined = np.array(roc_curve(np.ones(2, bool), np.array([0.1, 0.2])))
    np.testing.assert_allclose(undefined, np.array([[0, 0, 0], [0, 0.5, 1]]))
    assert finite({"a": 0.5, "b": float("nan"), "c": float("-inf")}) == {"a": 0.5, "b": None, "c": None}


def test_the_interval_leaves_out_two_and_a_half_percent_on_each_side() -> None:
    values = np.random.default_rng(SEED).permutation(np.arange(1001.0))
    assert percentile_interval(values) == (25, 975)
    assert percentile_interval(np.append(values, [np.nan, np.inf])) == (25, 975)
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()
    labels, probs = classes_of(1, 30, 2)
    draws = draw_patients(len(labels), 3, 400)
    assert (draws.sum(axis=1) == len(labels)).all()
    assert np.array_equal(draws, draw_patients(len(labels), 3, 400))
    found = estimates({"brier": partial(brier, labels, probs)}, draws)["brier"]
    assert found["value"] == value(brier, labels, probs)
    own = sorted(value(brier, np.repeat(labels, t), np.repeat(probs, t, axis=0)) for t in draws.astype(int))
    assert own[0] - 1e-9 <= found["low"] <= own[20]  # about the tenth: tests/mil/evaluation/test_intervals.py has it
    assert own[379] <= found["high"] <= own[399] + 1e-9


@pytest.mark.parametrize(("seed", "n"), [(0, 4), (1, 7), (2, 25), (3, 5)])
def test_metrics_of_values_are_those_of_scipy_and_scikit_learn_in_every_draw(seed: int, n: int) -> None:
    """With ties, of patients who were drawn twice or not at all, and within folds."""
    rng = np.random.default_rng(seed)
    values, said = (rng.integers(0, 4, n).astype(np.float64) for _ in range(2))
    constant = rng.normal(size=n)
    folds = rng.integers(0, 2, n)
    draws = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), 3)])
    ours = (r2(values, said, draws), r2_over(values, said, constant, draws), spearman(values, said, draws))
    within = spearman(values, said, draws, folds)
    for b, times in enumerate(draws.astype(int)):
        true, told, blind, fold = (np.repeat(of, times) for of in (values, said, constant, folds))
        error = ((true - told) ** 2).sum()
        wanted = r2_score(true, told) if np.ptp(true) else np.nan
        assert ours[0][b] == pytest.approx(wanted, nan_ok=True)
        assert ours[1][b] == pytest.approx(1 - error / ((true - blind) ** 2).sum())
        assert ours[2][b] == pytest.approx(ordered(true, told), nan_ok=True)
        parts = [(ordered(true[fold == k], told[fold == k]), (fold == k).sum()) for k in (0, 1) if (fold == k).any()]
        known = [(rho, size) for rho, size in parts if not np.isnan(rho)]
        total = sum(size for _, size in known)
        mean = sum(rho * size for rho, size in known) / total if known else np.nan
        assert within[b] == pytest.approx(mean, nan_ok=True)


def test_the_brier_score_of_labels_by_hand() -> None:
    present = np.array([[1, np.nan], [0, np.nan], [np.nan, np.nan]])
    probs = np.array([[0.5, 0.1], [0.25, 0.2], [0.9, 0.3]])
    draws = np.array([[1.0, 1, 1], [3, 1, 0], [0, 0, 2]])  # the second label is known of nobody: it does not count
    np.testing.assert_allclose(macro_brier(present, probs, draws), [0.3125 / 2, 0.8125 / 4, np.nan])
    present[0, 1] = 1
    np.testing.assert_allclose(
        macro_brier(present, probs, draws), [(0.3125 / 2 + 0.81) / 2, (0.8125 / 4 + 0.81) / 2, np.nan]
    )


def test_nobody_is_compared_with_a_guess_that_is_never_wrong() -> None:
    values = np.array([1.0, 2, 2])
    assert np.isnan(r2_over(values, values - 1, values, ones(3)))


def ordered(true: np.ndarray, told: np.ndarray) -> float:
    """Return scipy's Spearman; 0 where nothing is ordered, NaN where there is nothing to order."""
    if not np.ptp(true):
        return float("nan")
    return float(scipy.stats.spearmanr(true, told).statistic) if np.ptp(told) else 0.0

"""Conformal sets against their definition, risk and coverage against a loop over patients, values by hand."""

import numpy as np
import pytest

from mil.evaluation.bootstrap import draw_patients
from mil.evaluation.refusal.abstention import area, risks, told_of_abstention
from mil.evaluation.refusal.conformal import coverage, least_probabilities, sets_by_others, sets_of


def told(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(np.int64)
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + 1.5 * labels - 0.7)))
    return labels, np.stack([1 - scores, scores], axis=1)


def test_a_class_is_ruled_out_exactly_where_its_p_value_says_so() -> None:
    """The p-value of class c: (patients of c with a probability as low or lower, and the new one) / (n + 1) > alpha."""
    labels, probs = told(70)
    _, new = told(40, seed=1)
    for alpha in (0.05, 0.1, 0.2, 0.34):
        found = sets_of(new, least_probabilities(probs, labels, alpha))
        for c in range(2):
            known = probs[labels == c, c]
            p = ((known[None] < new[:, c][:, None]).sum(axis=1), len(known))
            at_or_below = 1 + (known[None] <= new[:, c][:, None]).sum(axis=1)
            np.testing.assert_array_equal(found[:, c], at_or_below > alpha * (len(known) + 1) + 1e-9, str(p))


def test_a_class_of_too_few_is_never_ruled_out() -> None:
    labels, probs = np.array([0] * 30 + [1] * 8), np.tile([0.5, 0.5], (38, 1))
    least = least_probabilities(probs, labels, 0.1)
    assert least.tolist() == [0.5, 0.0]
    assert least_probabilities(probs[:39], np.array([0] * 29 + [1] * 9), 0.1).tolist() == [0.5, 0.5]


def test_a_fold_is_judged_by_the_others_only() -> None:
    labels, probs = told(60)
    folds = np.arange(60) % 3
    found = sets_by_others(probs, labels, folds, 0.2)
    for fold in range(3):
        other = folds != fold
        wanted = sets_of(probs[~other], least_probabilities(probs[other], labels[other], 0.2))
        np.testing.assert_array_equal(found[~other], wanted)


def test_coverage_counts_by_class() -> None:
    sets = np.array([[True, False], [True, True], [False, True], [False, False], [True, False]])
    labels = np.array([0, 0, 1, 1, 1])
    found = coverage(sets, labels, ("a", "b"), list("vwxyz"), 0.1)
    assert found["held"]["value"] == pytest.approx(3 / 5)
    assert found["classes"]["a"]["value"] == 1
    assert found["classes"]["a"]["low"] == pytest.approx(0.025**0.5)
    assert found["classes"]["b"]["value"] == pytest.approx(1 / 3)
    assert (found["one_class"], found["several"], found["none"]) == (0.6, 0.2, 0.2)
    assert found["right_of_one"] == pytest.approx(2 / 3)


def test_risk_is_the_error_among_the_surest_of_each_draw() -> None:
    rng = np.random.default_rng(2)
    wrong, doubt = rng.random(30) < 0.3, rng.random(30)
    draws = draw_patients(30, 0, 20)
    found = risks(wrong, doubt, draws, np.array([1.0, 0.5]))
    for weights, (every, half) in zip(draws, found, strict=True):
        rows = np.array([i for i, times in enumerate(weights.astype(int)) for _ in range(times)])
        surest = rows[np.argsort(doubt[rows], kind="stable")][:15]
        assert every == pytest.approx(wrong[rows].mean())
        assert half == pytest.approx(wrong[surest].mean())


def test_patients_of_equal_doubt_are_kept_by_shares() -> None:
    """Three of equal doubt, one wrong; of four patients half are kept: the sure one, a third of one wrong answer."""
    wrong, doubt = np.array([False, True, False, False]), np.array([0.1, 0.5, 0.5, 0.5])
    assert risks(wrong, doubt, np.ones((1, 4)), np.array([0.5]))[0, 0] == pytest.approx((1 / 3) / 2)
    assert area(wrong, doubt) == pytest.approx((0 + (1 / 3) / 2 + (2 / 3) / 3 + 1 / 4) / 4)


def test_doubt_that_knows_the_errors_pays() -> None:
    wrong = np.arange(40) >= 32
    found = told_of_abstention(wrong, wrong + np.linspace(0, 0.5, 40), draw_patients(40, 0, 100))
    assert found["rows"][0]["value"] == pytest.approx(0.2)
    assert found["rows"][2] == {"answered": 0.8, "value": 0.0, "low": 0.0, "high": pytest.approx(1 - 0.025 ** (1 / 32))}
    assert found["area"] < area(wrong, np.zeros(40)) == pytest.approx(0.2)

"""The corrected resampled t, corrections for several looks, and the p against chance."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mil.evaluation.spread import multiplicity
from mil.evaluation.spread.multiplicity import against_chance, bonferroni, deals_of, holm
from mil.evaluation.spread.resampled import resampled
from mil.targets import ClassTarget
from mil.targets.metrics import auc, ones, softmax


def test_it_is_the_t_test_where_folds_share_nothing() -> None:
    values = np.array([0.1, -0.02, 0.07, 0.03, 0.11])
    found, known = resampled(values, 0.0), stats.ttest_1samp(values, 0)
    assert found is not None
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_common_patients_widen_it_by_hand() -> None:
    """Mean 2, deviation 1, J = 3: the variance of the mean is 1 / 3 + 1 / 4."""
    found = resampled(np.array([1.0, 2.0, 3.0, np.nan]), 0.25)
    assert found is not None
    error = np.sqrt(1 / 3 + 1 / 4)
    assert (found.value, found.deviation, found.folds) == (2, 1, 3)
    assert found.high == pytest.approx(2 + 4.302653 * error, rel=1e-6)
    assert found.p == pytest.approx(2 * stats.t.sf(2 / error, 2))
    same = resampled(np.array([0.5, 0.5]), 0.25)
    assert same is not None
    assert same.told()["p"] is None
    assert same.told()["low"] is None
    assert resampled(np.array([0.5, np.nan]), 0.25) is None


def test_holm_is_that_of_statsmodels() -> None:
    p = [0.01, 0.04, 0.03, 0.8, 0.005]
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    np.testing.assert_allclose(holm([0.01, float("nan"), 0.02]), [0.02, np.nan, 0.02])
    # of five looks two are shown: the least is multiplied by five
    np.testing.assert_allclose(holm([0.02, 0.011], looks=5), [0.08, 0.055])
    assert bonferroni(0.01, 3) == pytest.approx(0.03)
    assert bonferroni(0.4, 3) == 1


def test_the_p_against_chance_is_of_the_area_within_folds() -> None:
    """The sums of ranks are the area of the measure; two folds of 2 and 2: 6 * 6 deals, of which one is perfect."""
    rng = np.random.default_rng(0)
    labels, folds = np.arange(40) % 2, np.arange(40) // 2 % 4
    told = softmax(rng.normal(size=(40, 2)).round(1))
    found = multiplicity._areas(labels == 1, told[:, 1], folds, np.random.default_rng(1))
    assert found[0] == pytest.approx(float(auc(labels, told, ones(40), folds)[0]))
    orders = np.concatenate([np.arange(40)[None], multiplicity._orders(folds, np.random.default_rng(1), 999)])
    assert (folds[orders] == folds).all()
    known = [float(auc(labels[order], told, ones(40), folds)[0]) for order in np.argsort(orders, axis=1)[:20]]
    np.testing.assert_allclose(found[:20], known)
    labels, folds = np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.array([0] * 4 + [1] * 4)
    told = np.stack([1 - np.arange(8) / 8, np.arange(8) / 8], axis=1)
    p = against_chance(ClassTarget(labels, ("a", "b")), told, folds, "auc", 0)
    assert p == pytest.approx(3 / 36, abs=0.02)  # spread by the root of 2, 7 of 8 pairs (2 deals) reach it, too
    alone = against_chance(ClassTarget(labels[:4], ("a", "b")), told[:4], folds[:4], "auc", 0)
    assert alone == pytest.approx(1 / 6, abs=0.04)  # nobody trained anybody: one deal of six


def test_dealing_one_by_one_is_the_same_test() -> None:
    """Of targets without a short way: the same metric, called for each deal."""
    rng = np.random.default_rng(2)
    labels, folds = np.arange(30) % 2, np.arange(30) // 2 % 3
    told = softmax(np.stack([0 * labels, 0.8 * labels + rng.normal(size=30)], axis=1))
    target = ClassTarget(labels, ("a", "b"))
    quick = against_chance(target, told, folds, "auc", 0)
    slow = against_chance(target, told, folds, "auc_pooled", 0)
    assert quick is not None
    assert slow is not None
    assert 0 < quick < 0.5
    assert abs(quick - slow) < 0.1


def test_repeats_bring_no_degrees_of_freedom() -> None:
    """Three repeats of three folds: the quantile of 2 degrees, not of 8; the error is that of all nine."""
    values = np.array([1.0, 2.0, 3.0] * 3)
    found = resampled(values, 0.5)
    assert found is not None
    error = np.sqrt((1 / 9 + 1 / 2) * values.var(ddof=1))
    assert found.high == pytest.approx(2 + 4.302653 * error, rel=1e-6)
    assert found.p == pytest.approx(2 * stats.t.sf(2 / error, 2))


def test_what_looks_at_pairs_of_many_patients_is_dealt_less_often() -> None:
    two = ClassTarget(np.arange(600) % 2, ("a", "b"))
    cases = (("auc", 600), ("auc_pooled", 500), ("auc_pooled", 501))
    assert [deals_of(two, name, patients) for name, patients in cases] == [999, 999, 199]

"""Metrics of risks against another library, by hand, and for what knows nothing."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from mil.evaluation.bootstrap import draw_patients
from mil.targets.metrics import macro_auc, ones, r2, r2_over, spearman
from mil.targets.survival.metrics import (
    Followed,
    breslow,
    harrell_c,
    integrated_brier,
    kaplan_meier_at,
    survival_by_others,
    time_auc,
    uno_c,
)


def followed(seed: int, n: int = 90, folds: int = 1) -> tuple[Followed, np.ndarray]:
    """Return patients with tied times and tied risks, a third of them censored."""
    rng = np.random.default_rng(seed)
    risks = np.round(rng.normal(size=n), 1)
    ends, censored = rng.exponential(np.exp(-risks)), rng.exponential(2.0, n)
    times = np.ceil(20 * np.minimum(ends, censored)) / 20
    events = ends <= censored
    events[times == times.max()] = True  # else nobody is seen beyond the last time
    return Followed(times, events, np.arange(n) % folds), risks


@pytest.mark.parametrize("seed", range(3))
def test_they_agree_with_scikit_survival(seed: int) -> None:
    metrics = pytest.importorskip("sksurv.metrics")
    breslow_estimator = pytest.importorskip("sksurv.linear_model.coxph").BreslowEstimator
    survival = pytest.importorskip("sksurv.util").Surv

    known, risks = followed(seed)
    known = Followed(known.times_N, known.events_N, known.folds_N)
    truth, weights = survival.from_arrays(known.events_N, known.times_N), ones(len(risks))
    at = np.unique(np.quantile(known.times_N, [0.2, 0.4, 0.6, 0.8]))
    harrell = metrics.concordance_index_censored(known.events_N, known.times_N, risks)[0]
    assert harrell_c(known, risks, weights)[0] == pytest.approx(harrell, abs=1e-9)
    assert uno_c(known, risks, weights)[0] == pytest.approx(
        metrics.concordance_index_ipcw(truth, truth, risks)[0], abs=1e-9
    )
    assert time_auc(known, risks, weights, at)[0] == pytest.approx(
        metrics.cumulative_dynamic_auc(truth, truth, risks, at)[1], abs=1e-9
    )
    baseline = breslow_estimator().fit(risks, known.events_N, known.times_N)
    curves = np.array([curve(at) for curve in baseline.get_survival_function(risks)])
    np.testing.assert_allclose(breslow(risks, at, risks, known.times_N, known.events_N), curves, atol=1e-9)
    assert integrated_brier(known, risks, weights, curves, at)[0] == pytest.approx(
        metrics.integrated_brier_score(truth, truth, curves, at), abs=1e-9
    )


def test_they_come_out_as_worked_out_by_hand() -> None:
    known = Followed(np.array([1.0, 2, 3, 4]), np.array([True, False, True, True]), np.zeros(4, int))
    risks = np.array([1.0, 0, 3, 2])
    # nobody is censored at 1; at 2 one of three is, so that from then on 2/3 are still followed
    np.testing.assert_allclose(
        kaplan_meier_at(np.arange(5.0), known.times_N, known.events_N, of_censoring=True), [1, 1, 2 / 3, 2 / 3, 2 / 3]
    )
    np.testing.assert_allclose(kaplan_meier_at(np.array([0.5, 1, 3]), known.times_N, known.events_N), [1, 3 / 4, 3 / 8])
    assert harrell_c(known, risks, ones(4))[0] == pytest.approx(2 / 4)  # 1 before 2, 3 and 4; 3 before 4
    assert uno_c(known, risks, ones(4))[0] == pytest.approx((1 + 9 / 4) / (3 + 9 / 4))
    # by 3: patients 1 (worth 1) and 3 (3/2) against 4
    assert time_auc(known, risks, ones(4), np.array([3.0]))[0] == pytest.approx((3 / 2) / (5 / 2))


@pytest.mark.parametrize("seed", range(3))
def test_what_knows_nothing_scores_exactly_chance_in_every_draw(seed: int) -> None:
    known, _ = followed(seed, 60, folds=3)
    draws, blind = draw_patients(60, 0, 50), np.array([0.3, -1.0, 2.0])[known.folds_N]
    for metric in (harrell_c, uno_c, time_auc):
        np.testing.assert_allclose(metric(known, blind, draws), 0.5, atol=1e-12)
    values = known.times_N
    constant = np.array([values[known.folds_N != fold].mean() for fold in range(3)])[known.folds_N]
    assert (spearman(values, constant, draws, known.folds_N) == 0).all()
    assert spearman(values, constant, ones(len(values)))[0] < 0  # pooled it looks worse than chance
    assert (r2_over(values, constant, constant, draws) == 0).all()
    assert r2(values, constant, ones(len(values)))[0] < 0
    present = known.events_N[:, None].astype(float)
    share = np.array([present[known.folds_N != fold].mean() for fold in range(3)])[known.folds_N]
    np.testing.assert_allclose(macro_auc(present, share[:, None], draws, known.folds_N), 0.5)


def test_a_fold_has_a_scale_of_its_own() -> None:
    known, risks = followed(0, 80, folds=2)
    moved, weights = risks + 50.0 * known.folds_N, ones(80)
    for metric in (harrell_c, uno_c, time_auc):
        assert metric(known, moved, weights)[0] == pytest.approx(metric(known, risks, weights)[0])
    halves = [spearmanr(known.times_N[known.folds_N == f], risks[known.folds_N == f])[0] for f in (0, 1)]
    assert spearman(known.times_N, moved, weights, known.folds_N)[0] == pytest.approx(np.mean(halves))


def test_a_patients_share_comes_from_the_other_folds() -> None:
    known, risks = followed(1, 60, folds=3)
    at, own = np.array([0.2, 0.5]), known.folds_N == 1
    told = survival_by_others(known, risks, at)
    other = Followed(np.where(own, 9.0, known.times_N), known.events_N & ~own, known.folds_N)
    np.testing.assert_array_equal(survival_by_others(other, risks, at)[own], told[own])
    assert not np.array_equal(survival_by_others(other, risks, at)[~own], told[~own])


def test_drawing_a_patient_twice_equals_listing_it_twice() -> None:
    known, risks = followed(2, 40, folds=2)
    counts = draw_patients(40, 1, 1)
    rows = np.repeat(np.arange(40), counts[0].astype(int))
    listed = Followed(known.times_N[rows], known.events_N[rows], known.folds_N[rows])
    assert harrell_c(known, risks, counts)[0] == pytest.approx(harrell_c(listed, risks[rows], ones(40))[0])
    assert spearman(known.times_N, risks, counts)[0] == pytest.approx(spearmanr(listed.times_N, risks[rows])[0])
    assert r2(known.times_N, risks, counts)[0] == pytest.approx(r2_score(listed.times_N, risks[rows]))


def test_no_event_gives_no_number() -> None:
    known = Followed(np.arange(1.0, 9), np.zeros(8, bool), np.zeros(8, int))
    for metric in (harrell_c, uno_c, time_auc, integrated_brier):
        assert np.isnan(metric(known, np.arange(8.0), ones(8))).all()

"""The Cox coefficient and the log-rank test against statsmodels; intervals of the share without the event."""

import numpy as np
import pytest

from mil.evaluation.bootstrap import draw_patients
from mil.targets.survival.cox import cox_slope, log_rank
from mil.targets.survival.followed_up import kaplan_meier_interval, kaplan_meier_of_draws
from mil.targets.survival.metrics import kaplan_meier_at


def followed(seed: int, n: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a covariate, tied times, events and folds."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    ends, lost = rng.exponential(np.exp(-0.7 * x)), rng.exponential(2.0, n)
    return x, np.ceil(10 * np.minimum(ends, lost)) / 10, ends <= lost, np.arange(n) % 3


@pytest.mark.parametrize("seed", range(2))
def test_they_agree_with_statsmodels(seed: int) -> None:
    regression = pytest.importorskip("statsmodels.duration.hazard_regression").PHReg
    survdiff = pytest.importorskip("statsmodels.duration.survfunc").survdiff
    x, times, events, folds = followed(seed)
    model = regression(times, x[:, None], status=events.astype(int), strata=folds, ties="efron")
    assert cox_slope(x, times, events, folds, np.ones((1, 100)))[0] == pytest.approx(model.fit().params[0], abs=1e-6)
    high, one = x > 0.2, np.zeros(len(x), int)
    assert log_rank(high, times, events, one) == pytest.approx(survdiff(times, events.astype(int), high), abs=1e-9)
    stratified = survdiff(times, events.astype(int), high, strata=folds)
    assert log_rank(high, times, events, folds) == pytest.approx(stratified, abs=1e-9)


def test_a_patient_listed_twice_says_nothing_more_where_rows_hang_together() -> None:
    x, times, events, folds = followed(3, 60)
    once = log_rank(x > 0, times, events, folds, [str(i) for i in range(60)])
    rows = np.repeat(np.arange(60), 2)
    twice = log_rank((x > 0)[rows], times[rows], events[rows], folds[rows], [str(i) for i in rows])
    assert twice == pytest.approx(once, abs=1e-9)
    assert log_rank((x > 0)[rows], times[rows], events[rows], folds[rows])[0] > 1.5 * once[0]
    assert once[0] == pytest.approx(log_rank(x > 0, times, events, folds)[0], rel=0.4)


def test_what_has_no_bound_is_told_so() -> None:
    times, events, one = np.arange(1.0, 11), np.ones(10, bool), np.zeros(10, int)
    assert cox_slope(-times, times, events, one, np.ones((1, 10)))[0] == np.inf
    far = np.append(-times, -1e3 * times)  # a fold far from another takes nothing from its sums
    both = cox_slope(far, np.tile(times, 2), np.ones(20, bool), np.repeat([0, 1], 10), draw_patients(20, 0, 200))
    assert (both == np.inf).all()
    assert cox_slope(times, times, events, one, np.ones((1, 10)))[0] == -np.inf
    assert np.isnan(cox_slope(np.ones(10), times, events, one, np.ones((1, 10)))).all()
    assert np.isnan(log_rank(np.ones(10, bool), times, events, one)).all()
    assert np.isnan(log_rank(np.arange(10) % 2 == 0, times, events, np.arange(10) % 2)).all(), "no fold has both"


@pytest.mark.parametrize("seed", range(2))
def test_intervals_of_the_share_without_the_event(seed: int) -> None:
    estimator = pytest.importorskip("sksurv.nonparametric").kaplan_meier_estimator
    _, times, events, _ = followed(seed, 50)
    at, left, (low, high) = estimator(events, times, conf_type="log-log")
    inner = (left > 0) & (left < 1)
    own = kaplan_meier_interval(at, times, events)
    np.testing.assert_allclose(own[0][inner], low[inner], atol=1e-9)
    np.testing.assert_allclose(own[1][inner], high[inner], atol=1e-9)
    assert np.isnan(kaplan_meier_interval(np.array([99.0]), times, events)).all()
    assert kaplan_meier_interval(np.array([0.01]), times, events)[0][0] == pytest.approx(0.025 ** (1 / 50))
    draws = draw_patients(50, 0, 3)
    of_draws = kaplan_meier_of_draws(at[:-5], times, events, draws)
    for weights, shares in zip(draws, of_draws, strict=True):
        rows = np.repeat(np.arange(50), weights.astype(int))
        known = np.isfinite(shares)
        np.testing.assert_allclose(
            shares[known], kaplan_meier_at(at[:-5], times[rows], events[rows])[known], atol=1e-12
        )

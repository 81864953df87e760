"""Survival against lifelines, to 1e-6: shares and intervals, stratified Cox, log-rank, concordance, baseline hazard."""

import numpy as np
import pandas as pd
import pytest

from mil.evaluation.bootstrap import draw_patients
from mil.targets.survival.cox import cox_slope, log_rank
from mil.targets.survival.followed_up import kaplan_meier_interval
from mil.targets.survival.metrics import Followed, breslow, harrell_c, kaplan_meier_at

lifelines = pytest.importorskip("lifelines")
statistics = pytest.importorskip("lifelines.statistics")
utils = pytest.importorskip("lifelines.utils")

pytestmark = pytest.mark.filterwarnings("ignore")  # its own, of pandas to come and of weights that are no counts


@pytest.fixture(params=range(3))
def patients(request: pytest.FixtureRequest) -> pd.DataFrame:
    """Return a covariate, tied times, events and folds of 120 patients."""
    rng = np.random.default_rng(request.param)
    x = rng.normal(size=120)
    ends, lost = rng.exponential(np.exp(-0.7 * x)), rng.exponential(2.0, 120)
    times = np.ceil(10 * np.minimum(ends, lost)) / 10
    return pd.DataFrame({"x": x, "time": times, "event": ends <= lost, "fold": np.arange(120) % 3})


def arrays(patients: pd.DataFrame) -> tuple[np.ndarray, ...]:
    return tuple(patients[name].to_numpy() for name in ("x", "time", "event", "fold"))


def test_shares_without_the_event_and_their_intervals(patients: pd.DataFrame) -> None:
    _, times, events, _ = arrays(patients)
    fitter = lifelines.KaplanMeierFitter().fit(times, events)
    at = np.unique(times)
    left = fitter.survival_function_at_times(at).to_numpy()
    np.testing.assert_allclose(kaplan_meier_at(at, times, events), left, atol=1e-6)
    inner = (left > 0) & (left < 1)
    ends = fitter.confidence_interval_survival_function_.loc[at].to_numpy().T  # Greenwood's, on the log-log scale
    for own, other in zip(kaplan_meier_interval(at, times, events), ends, strict=True):
        np.testing.assert_allclose(own[inner], other[inner], atol=1e-6)


def test_the_stratified_coefficient_with_efrons_ties(patients: pd.DataFrame) -> None:
    x, times, events, folds = arrays(patients)
    draws = np.concatenate([np.ones((1, len(x))), draw_patients(len(x), 0, 3)])
    for weights, own in zip(draws, cox_slope(x, times, events, folds, draws), strict=True):
        drawn = patients.assign(weight=weights)[weights > 0]
        fitter = lifelines.CoxPHFitter().fit(
            drawn, "time", "event", strata=["fold"], weights_col="weight", fit_options={"precision": 1e-12}
        )
        assert own == pytest.approx(fitter.params_["x"], abs=1e-6)


def test_the_log_rank_test(patients: pd.DataFrame) -> None:
    x, times, events, _ = arrays(patients)
    high = x > 0.2
    other = statistics.logrank_test(times[high], times[~high], events[high], events[~high])
    own = log_rank(high, times, events, np.zeros(len(x), int))
    assert own == pytest.approx((other.test_statistic, other.p_value), abs=1e-6)


def test_concordance_with_ties_of_times_and_risks(patients: pd.DataFrame) -> None:
    x, times, events, folds = arrays(patients)
    risks = np.round(x, 1)
    own = harrell_c(Followed(times, events, np.zeros(len(x), int)), risks, np.ones((1, len(x))))[0]
    assert own == pytest.approx(utils.concordance_index(times, -risks, events), abs=1e-6)
    right = pairs = 0.0
    for fold in range(3):
        part = folds == fold
        comparable = utils.concordance_index(times[part], -risks[part], events[part])
        size = _pairs(times[part], events[part])
        right, pairs = right + comparable * size, pairs + size
    within = harrell_c(Followed(times, events, folds), risks, np.ones((1, len(x))))[0]
    assert within == pytest.approx(right / pairs, abs=1e-6)


def _pairs(times: np.ndarray, events: np.ndarray) -> int:
    """Count the pairs whose order in time is known: an event before another time, or at the time of a censoring."""
    earlier = (times[:, None] < times[None]) | ((times[:, None] == times[None]) & ~events[None])
    return int((earlier & events[:, None] & ~np.eye(len(times), dtype=bool)).sum())


def test_the_baseline_hazard_is_breslows(patients: pd.DataFrame) -> None:
    x, times, events, _ = arrays(patients)
    fitter = lifelines.CoxPHFitter().fit(patients[["x", "time", "event"]], "time", "event")
    at = np.unique(times)[[2, 6, 12]]
    slope, center = fitter.params_["x"], patients["x"].mean()
    asked = np.array([-1.0, 0.0, 1.5])
    own = breslow(slope * (asked - center), at, slope * (x - center), times, events)
    other = fitter.predict_survival_function(pd.DataFrame({"x": asked}), times=at).to_numpy().T
    np.testing.assert_allclose(own, other, atol=1e-6)

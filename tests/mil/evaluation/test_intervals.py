"""Intervals: against a bootstrap by hand and scipy's, and how often they hold the truth."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from mil.evaluation.bootstrap import draw_groups, draw_patients, estimate, estimates, left_out, standard_error
from mil.targets.metrics import METRICS, percentile_interval


def table(labels: np.ndarray, rng: np.random.Generator, apart: float = 1.0) -> np.ndarray:
    scores = 1 / (1 + np.exp(-(rng.normal(size=len(labels)) + apart * labels)))
    return np.stack([1 - scores, scores], axis=1)


def mean_of(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ values / weights.sum(axis=1))


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"ece"}))
def test_the_interval_is_that_of_a_bootstrap_by_hand(name: str) -> None:
    """Patients are repeated and left out row by row; ends by scipy's distributions (Efron 1987; Hesterberg 2015)."""
    rng = np.random.default_rng(0)
    labels = (np.arange(40) % 5 == 0).astype(np.int64)
    probs, draws = table(labels, rng), draw_patients(40, 3, 400)
    folds = {"folds_N": np.arange(40) // 10} if name == "auc" else {}
    measure = partial(METRICS[name], labels, probs, **folds)

    def of(rows: list[int]) -> float:
        own = {key: numbers[rows] for key, numbers in folds.items()}
        return float(METRICS[name](labels[rows], probs[rows], np.ones((1, len(rows))), **own)[0])

    own = of(list(range(40)))
    told = np.sort([of([patient for patient, times in enumerate(own) for _ in range(int(times))]) for own in draws])
    without = np.array([of([other for other in range(40) if other != left]) for left in range(40)])
    skew = stats.skew(without.mean() - without) / 6 / np.sqrt(40)
    moved = int((np.abs(without - without.mean()) > 1e-12).sum())
    reach = stats.norm.isf(stats.norm.sf(stats.t.ppf(0.975, moved - 1) * np.sqrt(moved / (moved - 1))))
    off = stats.norm.ppf(stats.percentileofscore(told, own, "mean") / 100)
    assert abs(off) < 0.5
    ends = []
    for z in (-reach, reach):
        level = stats.norm.cdf(off + (off + z) / (1 - skew * (off + z)))
        ends.append(told[int(np.ceil(level * 400)) - 1])
    if name == "auc":  # compares patients: draws lie too far apart
        drawn, left = told.var(), ((without - without.mean()) ** 2).sum() * 39 / 40
        assert drawn > left
        error = np.sqrt(2 * left - drawn * (1 - np.sqrt(2 / 400)))
        assert error < told.std()
        ends = [own + (end - own) * error / told.std() for end in ends]
    found = estimates({name: measure}, draws)[name]
    assert (found["value"], found["low"], found["high"]) == pytest.approx((own, *ends), abs=1e-9)


def test_the_interval_of_a_mean_is_scipys_at_the_same_level() -> None:
    values = np.random.default_rng(1).exponential(size=50)
    level = stats.norm.cdf(stats.t.ppf(0.975, 49) * np.sqrt(50 / 49)) * 2 - 1
    wanted = stats.bootstrap((values,), np.mean, confidence_level=level, n_resamples=20_000, rng=0).confidence_interval
    found = estimate(partial(mean_of, values), draw_patients(50, 0, 20_000))
    assert (found["low"], found["high"]) == pytest.approx(tuple(wanted), abs=0.01)


def test_what_shifts_all_draws_has_an_interval_around_its_value() -> None:
    labels = (np.arange(40) % 5 == 0).astype(np.int64)
    measure = partial(METRICS["ece"], labels, table(labels, np.random.default_rng(0)))
    draws = draw_patients(40, 3, 400)
    found = estimate(measure, draws)
    assert found["low"] <= found["value"] < found["high"]
    assert found["high"] > np.median(measure(draws))


def test_whoever_is_drawn_together_is_left_out_together() -> None:
    found = left_out(draw_groups(list("abacca"), 0))
    assert sorted(map(tuple, found.tolist())) == [(0, 1, 0, 1, 1, 0), (1, 0, 1, 1, 1, 1), (1, 1, 1, 0, 0, 1)]
    assert left_out(draw_groups(list("aaa"), 0)).tolist() == [[1, 1, 1]]
    assert len(left_out(draw_patients(501, 0, 64))) == 200
    assert left_out(draw_patients(501, 0, 64)).sum() == 199 * 501


def test_what_pairs_say_does_not_count_three_times_in_the_standard_error() -> None:
    """The sum of products of pairs of noise has a variance of as many as there are; that of draws has three times."""
    rng, found, drawn = np.random.default_rng(0), [], []
    for seed in range(200):
        values, draws = rng.normal(size=30), draw_patients(30, seed, 300)

        def products(weights: np.ndarray, values: np.ndarray = values) -> np.ndarray:
            return np.asarray(((weights @ values) ** 2 - weights**2 @ values**2) / 2)

        found.append(standard_error(products(draws), products(left_out(draws))) ** 2)
        drawn.append(products(draws).var())
    assert 1 < np.mean(found) / (30 * 29 / 2) < 1.7  # at most half is taken off
    assert np.mean(drawn) / (30 * 29 / 2) > 2.2


def test_95_of_100_replicates_lie_within() -> None:
    low, high = percentile_interval(np.arange(1001.0))
    assert (low, high) == (25, 975)
    assert percentile_interval(np.array([np.nan, 3.0])) == (3, 3)
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()


def test_the_interval_of_a_share_of_errors_holds_the_truth_in_95_of_100_cohorts() -> None:
    """500 cohorts of 40, errors of an exponential distribution: .93 to .97 is two deviations; percentiles hold .90."""
    errors, draws = np.random.default_rng(0).exponential(size=(500, 40)), draw_patients(40, 0, 400)
    told = [estimate(partial(mean_of, own), draws) for own in errors]
    assert 0.93 <= np.mean([own["low"] <= 1 <= own["high"] for own in told]) <= 0.97
    plain = [percentile_interval(draws @ own / 40) for own in errors]
    assert np.mean([low <= 1 <= high for low, high in plain]) < 0.93

"""Uncertainty of a metric: patients are drawn with replacement, never slides, which hang together within a patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mil.targets.metrics import METRICS, Floats, Ints, Metric, ones

REPLICATES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric and its 95 % percentile interval."""

    value: float
    low: float
    high: float


def draw_patients(n_patients: int, seed: int, replicates: int = REPLICATES) -> Floats:
    """Return how often each patient is drawn in each replicate, (B, n): each row sums to n."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=replicates).astype(np.float64)


def draw_groups(groups: Sequence[str], seed: int, replicates: int = REPLICATES) -> Floats:
    """Return how often each row is drawn, (B, n), when whole groups are: a row as often as its group."""
    names, group_of = np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)
    return draw_patients(len(names), seed, replicates)[:, group_of]


def estimate(metric: Metric, labels_N: Ints, probs_NC: Floats, draws_BN: Floats) -> Estimate:
    """Return the metric with its interval; replicates that lack a class are left out.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval.
    """
    value = float(metric(labels_N, probs_NC, ones(len(labels_N)))[0])
    return Estimate(value, *percentile_interval(metric(labels_N, probs_NC, draws_BN)))


def percentile_interval(values_B: Floats) -> tuple[float, float]:
    """Return the 95 % interval of replicates, those that are not finite left out; NaN where none is."""
    values_B = values_B[np.isfinite(values_B)]
    if len(values_B) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(values_B, [2.5, 97.5])
    return float(low), float(high)


def estimate_all(
    labels_N: Ints, probs_NC: Floats, draws_BN: Floats, metrics: Mapping[str, Metric] = METRICS
) -> dict[str, Estimate]:
    """Return every metric with its interval, all on the same draws."""
    return {name: estimate(metric, labels_N, probs_NC, draws_BN) for name, metric in metrics.items()}

"""Uncertainty of a metric: patients are drawn with replacement, never slides, which hang together within a patient."""

from collections.abc import Mapping, Sequence

import numpy as np

from mil.targets.base import Measure
from mil.targets.metrics import finite, ones, percentile_interval
from wsi.arrays import Floats
from wsi.recipe import Json

REPLICATES = 2000


def draw_patients(n_patients: int, seed: int, replicates: int = REPLICATES) -> Floats:
    """Return how often each patient is drawn in each replicate, (B, n): each row sums to n."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=replicates).astype(np.float64)


def draw_groups(groups: Sequence[str], seed: int, replicates: int = REPLICATES) -> Floats:
    """Return how often each row is drawn, (B, n), when whole groups are: a row as often as its group."""
    names, group_of = np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)
    return draw_patients(len(names), seed, replicates)[:, group_of]


def estimate(measure: Measure, draws_BN: Floats) -> Json:
    """Return ``value``, ``low`` and ``high`` of a metric; draws on which it is not defined are left out, None if all.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval.
    """
    low, high = percentile_interval(measure(draws_BN))
    return finite({"value": float(measure(ones(draws_BN.shape[1]))[0]), "low": low, "high": high})


def estimates(measures: Mapping[str, Measure], draws_BN: Floats) -> Json:
    """Return every metric with its 95 % interval, all on the same draws."""
    return {name: estimate(measure, draws_BN) for name, measure in measures.items()}

"""Predicted and true values: how they agree, whether they are calibrated, and where the errors are.

Differences are predicted less true. Limits of agreement: Bland and Altman, Lancet 1986. Concordance correlation: Lin,
Biometrics 1989. Calibration: the regression of the true on the predicted value, of which slope 1 and intercept 0 are
perfect (Steyerberg, Clinical Prediction Models, 2009). Given folds, the slope is that within them: what the models of
different folds tell differs by a constant that is the wrong way round, as each is trained without its own patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np

from mil.evaluation.bootstrap import draw_groups, estimate, estimates
from mil.evaluation.decisions.called import exact_at_the_end
from mil.targets.base import Measure
from mil.targets.metrics import finite, percentile_interval, spearman
from wsi.arrays import Bools, Floats, Ints
from wsi.recipe import Json

LIMITS = 1.959963984540054
"""Standard deviations, of the limits of agreement."""
RANGES = 4
ALPHAS = (0.05, 0.1, 0.2)
"""Shares of patients whose value may lie outside its interval."""
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Pairs:
    """True and predicted values of N patients."""

    true_N: Floats
    told_N: Floats
    folds_N: Ints
    groups: Sequence[str]
    """Who hang together and are drawn together."""
    seed: int

    @property
    def off_N(self) -> Floats:
        """Return the differences."""
        return self.told_N - self.true_N


def agreement(pairs: Pairs, own_intervals: "Sequence[Json] | None" = None) -> Json:
    """Return the numbers with their intervals; ``own_intervals``: those of `intervals_held`."""
    draws_BN = draw_groups(pairs.groups, pairs.seed)
    return {
        **estimates(_measures(pairs), draws_BN),
        "spread_and_size": estimate(_grows(pairs), draws_BN, pairs=True),
        "ranges": _ranges(pairs, draws_BN),
        "intervals": list(own_intervals or ()),
    }


def _measures(pairs: Pairs) -> dict[str, Measure]:
    true_N, told_N, off_N = pairs.true_N, pairs.told_N, pairs.off_N

    def mean(values_N: Floats, weights_BN: Floats) -> Floats:
        return np.asarray(weights_BN @ values_N / weights_BN.sum(axis=1))

    def spread(weights_BN: Floats) -> Floats:
        size_B = weights_BN.sum(axis=1)
        variance_B = mean(off_N**2, weights_BN) - mean(off_N, weights_BN) ** 2
        return np.sqrt(np.maximum(variance_B, 0) * size_B / np.maximum(size_B - 1, 1))

    def slope(weights_BN: Floats) -> Floats:
        return within(true_N, told_N, pairs.folds_N, weights_BN)

    def intercept(weights_BN: Floats) -> Floats:
        return mean(true_N, weights_BN) - slope(weights_BN) * mean(told_N, weights_BN)

    def concordance(weights_BN: Floats) -> Floats:
        true_B, told_B = mean(true_N, weights_BN), mean(told_N, weights_BN)
        both_B = mean(true_N * told_N, weights_BN) - true_B * told_B
        spreads_B = mean(true_N**2, weights_BN) - true_B**2 + mean(told_N**2, weights_BN) - told_B**2
        total_B = spreads_B + (true_B - told_B) ** 2
        return np.asarray(2 * both_B / np.where(total_B > 0, total_B, np.nan))

    return {
        "bias": lambda weights_BN: mean(off_N, weights_BN),
        "lower_limit": lambda weights_BN: mean(off_N, weights_BN) - LIMITS * spread(weights_BN),
        "upper_limit": lambda weights_BN: mean(off_N, weights_BN) + LIMITS * spread(weights_BN),
        "root_mean_squared_error": lambda weights_BN: np.sqrt(mean(off_N**2, weights_BN)),
        "mean_absolute_error": lambda weights_BN: mean(np.abs(off_N), weights_BN),
        "concordance_correlation": concordance,
        "slope": slope,
        "intercept": intercept,
    }


def within(y_N: Floats, x_N: Floats, folds_N: Ints, weights_BN: Floats) -> Floats:
    """Return the slope (B,) of least squares with an intercept for each fold; NaN where x does not vary."""
    both_B, spread_B = np.zeros(len(weights_BN)), np.zeros(len(weights_BN))
    for fold in np.unique(folds_N):
        own_N = folds_N == fold
        weights_BK = weights_BN[:, own_N]
        size_B = np.maximum(weights_BK.sum(axis=1), 1e-300)
        x_K, y_K = x_N[own_N] - x_N[own_N].mean(), y_N[own_N] - y_N[own_N].mean()
        x_B, y_B = weights_BK @ x_K / size_B, weights_BK @ y_K / size_B
        both_B += weights_BK @ (x_K * y_K) - size_B * x_B * y_B
        spread_B += weights_BK @ x_K**2 - size_B * x_B**2
    fine_B = spread_B > 1e-12 * max(float(x_N.var()) * len(x_N), 1e-300)
    return np.asarray(both_B / np.where(fine_B, spread_B, np.nan))


def _grows(pairs: Pairs) -> Measure:
    """Return the rank correlation of the size of the difference with the mean of the two values."""
    size_N, middle_N = np.abs(pairs.off_N), (pairs.true_N + pairs.told_N) / 2

    def grows(weights_BN: Floats) -> Floats:
        return spearman(middle_N, size_N, weights_BN)

    return grows


def _ranges(pairs: Pairs, draws_BN: Floats) -> list[Json]:
    """Return mean difference and mean absolute error by quarters of the true value."""
    rows = []
    for part in np.array_split(np.argsort(pairs.true_N, kind="stable"), RANGES):
        if not len(part):
            continue
        own_N = np.zeros(len(pairs.true_N))
        own_N[part] = 1

        def mean(values_N: Floats, own_N: Floats = own_N) -> Measure:
            def of_own(weights_BN: Floats) -> Floats:
                total_B = weights_BN @ own_N
                return np.asarray(weights_BN @ (own_N * values_N) / np.where(total_B > 0, total_B, np.nan))

            return of_own

        true = pairs.true_N[part]
        row: Json = {"from": float(true.min()), "to": float(true.max()), "patients": len(part)}
        row["bias"] = estimate(mean(pairs.off_N), draws_BN)
        row["mean_absolute_error"] = estimate(mean(np.abs(pairs.off_N)), draws_BN)
        rows.append(row)
    return rows


def reach(errors_N: Floats, alpha: float) -> float | None:
    """Return how far a value may lie from what is told, so that a new one lies beyond with a chance of alpha at most.

    Of n known errors ``ceil((n + 1) (1 - alpha))`` are as large or smaller; None where n is too few. Source: Lei et
    al., JASA 2018 (split conformal regression); errors of patients whom the models had not seen.
    """
    beyond = floor(alpha * (len(errors_N) + 1) + _SLACK)
    return float(np.sort(np.abs(errors_N))[len(errors_N) - beyond]) if beyond else None


def reaches_by_others(pairs: Pairs, alpha: float) -> Floats:
    """Return for each patient (N,) how far the value may lie from what is told, by the patients of the other folds."""
    found_N = np.full(len(pairs.true_N), np.inf)
    for fold in np.unique(pairs.folds_N):
        own_N = pairs.folds_N == fold
        others = reach(pairs.off_N[~own_N], alpha)
        found_N[own_N] = np.inf if others is None else others
    return found_N


def intervals_held(pairs: Pairs, reaches: "dict[float, Floats]") -> list[Json]:
    """Return how often the true value lay in its interval, by the promise, with how wide the intervals are."""
    draws_BN, rows = draw_groups(pairs.groups, pairs.seed), []
    for alpha, reach_N in reaches.items():
        held_N: Bools = np.abs(pairs.off_N) <= reach_N
        value = float(held_N.mean())
        shares_B = draws_BN @ held_N / draws_BN.sum(axis=1)
        whole = value in (0.0, 1.0)
        low, high = exact_at_the_end(value, len(set(pairs.groups))) if whole else percentile_interval(shares_B)
        held = finite({"value": value, "low": low, "high": high})
        known = reach_N[np.isfinite(reach_N)]
        rows.append({"promised": 1 - alpha, "held": held, "reach": float(known.mean()) if len(known) else None})
    return rows

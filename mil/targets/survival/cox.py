"""One coefficient of a Cox model, and the test that it is 0: pure functions on arrays; only one stratum is compared.

Shapes as in `mil.targets.survival.metrics`; strata are numbers (N,), such as folds.
"""

from collections.abc import Sequence
from math import erfc, sqrt

import numpy as np

from wsi.arrays import Bools, Floats, Ints

STEPS = 40
"""Newton's, at most."""
_WIDEST = 2.0
"""Of one step, in standard deviations of the covariate."""
FAR = 12.0
"""Standard deviations: a coefficient beyond has no bound, as the likelihood rises for ever."""


class _AtRisk:
    """Sums over the patients of a stratum who are still followed at a patient's time."""

    def __init__(self, times_N: Floats, strata_N: Ints) -> None:
        self.order_N = np.lexsort((-times_N, strata_N))
        strata, times = strata_N[self.order_N], times_N[self.order_N]
        new_N = np.append(True, np.diff(strata) != 0)
        tied_N = ~new_N & np.append(False, np.diff(times) == 0)
        self._starts = np.flatnonzero(new_N)[1:]
        ends = np.flatnonzero(np.append(~tied_N[1:], True))
        self._tie_N = np.cumsum(~tied_N) - 1
        self._firsts = np.flatnonzero(~tied_N)
        self._last_N = ends[self._tie_N]

    def sums(self, values_BN: Floats) -> Floats:
        """Return the sum (B, N) for each patient, of values (B, N) in `order_N`, as are the sums."""
        parts = np.split(values_BN, self._starts, axis=1)  # apart: a difference of sums of all would cancel
        return np.asarray(np.concatenate([np.cumsum(part, axis=1) for part in parts], axis=1)[:, self._last_N])

    def tied(self, values_BN: Floats) -> Floats:
        """Return the sum (B, N) over those of the stratum with the same time."""
        return np.asarray(np.add.reduceat(values_BN, self._firsts, axis=1)[:, self._tie_N])

    def before(self, values_BN: Floats) -> Floats:
        """Return the sum (B, N) over those with the same time who stand earlier."""
        sums_BN = np.cumsum(values_BN, axis=1)
        return np.asarray(sums_BN - values_BN - (sums_BN - values_BN)[:, self._firsts[self._tie_N]])


def cox_slope(covariate_N: Floats, times_N: Floats, events_N: Bools, strata_N: Ints, weights_BN: Floats) -> Floats:
    """Return the coefficient (B,) of one covariate in each draw; infinite without a bound, NaN where nothing is said.

    Source: Cox 1972, ties after Efron 1977, each stratum with a baseline of its own. Of log risks it is the calibration
    slope: 1 is perfect, below the risks lie too far apart (van Houwelingen, Statistics in Medicine 2000). Who is drawn
    twice weighs twice and is not tied with himself: the events of a time have their mean weight.
    """
    spread = float(covariate_N.std())
    if spread < 1e-12 or not events_N.any():
        return np.full(len(weights_BN), np.nan)
    at_risk = _AtRisk(times_N, strata_N)
    order_N = at_risk.order_N
    x_N, weights_BN = ((covariate_N - covariate_N.mean()) / spread)[order_N], weights_BN[:, order_N]
    ends_BN = weights_BN * events_N[order_N]
    has_BN = (ends_BN > 0).astype(np.float64)
    tied_BN = np.maximum(at_risk.tied(has_BN), 1)
    gone_BN, mean_weight_BN = at_risk.before(has_BN) / tied_BN, has_BN * at_risk.tied(ends_BN) / tied_BN
    ties = bool(gone_BN.any())

    def followed(values_BN: Floats) -> Floats:
        """Return the sums over those at risk, less Efron's share of those with the event at that time."""
        sums_BN = at_risk.sums(values_BN)
        return sums_BN - gone_BN * at_risk.tied(has_BN * values_BN) if ties else sums_BN

    slope_B, said_B = np.zeros(len(weights_BN)), np.ones(len(weights_BN), bool)
    for step in range(STEPS):
        powers_BN = weights_BN * np.exp(np.clip(slope_B[:, None] * x_N, -300, 300))
        all_BN = np.maximum(followed(powers_BN), 1e-300)
        mean_BN = followed(powers_BN * x_N) / all_BN
        spread_BN = np.maximum(followed(powers_BN * x_N**2) / all_BN - mean_BN**2, 0.0)
        rise_B = (ends_BN * x_N - mean_weight_BN * mean_BN).sum(axis=1)
        bend_B = (mean_weight_BN * spread_BN).sum(axis=1)
        if step == 0:
            said_B = bend_B > 1e-9
        step_B = np.clip(rise_B / np.maximum(bend_B, 1e-12), -_WIDEST, _WIDEST) * said_B * (np.abs(slope_B) < FAR)
        slope_B = slope_B + step_B
        if np.abs(step_B).max() < 1e-11:
            break
    bounded_B = np.where(np.abs(slope_B) < FAR, slope_B / spread, np.copysign(np.inf, slope_B))
    return np.asarray(np.where(said_B, bounded_B, np.nan))


def log_rank(
    high_N: Bools, times_N: Floats, events_N: Bools, strata_N: Ints, groups: Sequence[str] | None = None
) -> tuple[float, float]:
    """Return chi squared (1) and p of two groups' events over time, stratified; NaN where no stratum has both.

    Source: Mantel, Cancer Chemotherapy Reports 1966, ties by the hypergeometric variance. ``groups``: rows that hang
    together, such as a patient's slides, whose parts of the score are summed before they are squared (Lin and Wei, JASA
    1989).
    """
    at_risk = _AtRisk(times_N, strata_N)
    order_N = at_risk.order_N
    high, events = high_N[order_N].astype(np.float64), events_N[order_N].astype(np.float64)
    size, share = at_risk.sums(np.ones((1, len(high))))[0], at_risk.sums(high[None])[0]
    share = share / size
    ends = at_risk_of_tie(times_N[order_N], strata_N[order_N], events)
    score = float((events * (high - share)).sum())
    if groups is None:
        left = np.where(size > 1, (size - ends) / np.maximum(size - 1, 1), 0.0)
        variance = float((events * share * (1 - share) * left).sum())
    else:
        variance = _clustered(high, events, share, size, times_N[order_N], strata_N[order_N], groups, order_N)
    if variance <= 1e-12:
        return float("nan"), float("nan")
    chi = score**2 / variance
    return chi, erfc(sqrt(chi / 2))


def at_risk_of_tie(times_N: Floats, strata_N: Ints, events_N: Floats) -> Floats:
    """Return how many events (N,) happened at each patient's own time, in its stratum."""
    _, number_N = np.unique(np.stack([strata_N.astype(np.float64), times_N]), axis=1, return_inverse=True)
    return np.asarray(np.bincount(number_N, weights=events_N)[number_N])


def _clustered(
    high_N: Floats,
    events_N: Floats,
    share_N: Floats,
    size_N: Floats,
    times_N: Floats,
    strata_N: Ints,
    groups: Sequence[str],
    order_N: Ints,
) -> float:
    """Return the sum over groups of the squared sums of their rows' parts of the score."""
    followed_NN = (times_N[:, None] >= times_N[None]) & (strata_N[:, None] == strata_N[None])
    rises_N = events_N / size_N
    own_N = events_N * (high_N - share_N) - (followed_NN * rises_N[None] * (high_N[:, None] - share_N[None])).sum(
        axis=1
    )
    _, number_N = np.unique(np.array(groups, dtype=object).astype(str)[order_N], return_inverse=True)
    return float(np.square(np.bincount(number_N, weights=own_N)).sum())

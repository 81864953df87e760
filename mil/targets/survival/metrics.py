"""Metrics of predicted risks of an event that not everybody was followed to: pure functions on arrays.

Shapes: times, events, risks and folds are (N,); weights_BN says how often each patient counts in each of B draws. Only
patients of one fold are compared with each other: models need not have one scale. What is said of censoring (``G``, the
Kaplan-Meier estimate of not being censored yet) is that of the whole sample, and is not drawn anew.
"""

from dataclasses import dataclass

import numpy as np

from wsi.arrays import Bools, Floats, Ints

N_TIMES = 9
"""Times at which patients are told apart into those with and without the event: deciles of the event times."""
N_STEPS = 33
"""Times over which the Brier score is integrated, from the first to the last of these deciles."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What is known of N patients."""

    times_N: Floats
    events_N: Bools
    folds_N: Ints

    def deciles(self) -> Floats:
        """Return the deciles of the event times, (9,), fewer where equal, none without an event."""
        seen = self.times_N[self.events_N]
        return np.unique(np.quantile(seen, np.linspace(0.1, 0.9, N_TIMES))) if len(seen) else np.zeros(0)


def kaplan_meier_at(at_T: Floats, times_N: Floats, events_N: Bools, *, of_censoring: bool = False) -> Floats:
    """Return the share (T,) without the event at these times; or not censored, events before censoring at one time."""
    points = np.unique(times_N)
    at_risk = (times_N[None] >= points[:, None]).sum(axis=1).astype(np.float64)
    ends = ((times_N[None] == points[:, None]) & events_N[None]).sum(axis=1)
    if of_censoring:
        at_risk -= ends
        ends = ((times_N[None] == points[:, None]) & ~events_N[None]).sum(axis=1)
    left = np.cumprod(1 - ends / np.maximum(at_risk, 1))
    return np.concatenate([[1.0], left])[np.searchsorted(points, at_T, side="right")]


def kaplan_meier(times_N: Floats, events_N: Bools) -> tuple[Floats, Floats]:
    """Return times, from 0 to the last, and the share without the event from each on. Source: Kaplan and Meier 1958."""
    at_T = np.concatenate([[0.0], np.unique(times_N[events_N]), times_N[np.argsort(times_N)[-1:]]])
    return at_T, kaplan_meier_at(at_T, times_N, events_N)


def harrell_c(known: Followed, risks_N: Floats, weights_BN: Floats) -> Floats:
    """Return Harrell's C (B,): of pairs whose order in time is known, the share that risks order rightly, ties half."""
    return _share(_known_pairs(known).astype(np.float64), risks_N, weights_BN)


def uno_c(known: Followed, risks_N: Floats, weights_BN: Floats) -> Floats:
    """Return Uno's C (B,): as Harrell's, each pair by ``1 / G(t)**2``, so that it does not depend on the censoring.

    Source: Uno et al., Statistics in Medicine 2011. Pairs whose earlier time nobody was seen beyond do not count.
    """
    left_N = kaplan_meier_at(known.times_N, known.times_N, known.events_N, of_censoring=True)
    worth_N = np.where(left_N > 0, 1 / np.where(left_N > 0, left_N, 1) ** 2, 0.0)
    return _share(np.where(_known_pairs(known), worth_N[:, None], 0.0), risks_N, weights_BN)


def time_auc(known: Followed, risks_N: Floats, weights_BN: Floats, at_T: Floats | None = None) -> Floats:
    """Return the cumulative/dynamic AUC (B,), its mean over times weighted by the events between them.

    At each time patients with the event by then, weighted by ``1 / G``, against those still without. Source: Uno et
    al., JASA 2007; Lambert and Chevret 2016 for the mean. Times at which a draw has no pair do not count.
    """
    at_T = known.deciles() if at_T is None else at_T
    left_N = kaplan_meier_at(known.times_N, known.times_N, known.events_N, of_censoring=True)
    worth_N = np.where(known.events_N & (left_N > 0), 1 / np.where(left_N > 0, left_N, 1), 0.0)
    alike_NN = known.folds_N[:, None] == known.folds_N[None]
    steps_T = -np.diff(kaplan_meier_at(at_T, known.times_N, known.events_N), prepend=1.0)
    total_B, shares_B = np.zeros(len(weights_BN)), np.zeros(len(weights_BN))
    for at, step in zip(at_T, steps_T, strict=True):
        pairs_NN = ((known.times_N <= at) * worth_N)[:, None] * (known.times_N > at)[None] * alike_NN
        area_B = _share(pairs_NN, risks_N, weights_BN)
        there_B = np.isfinite(area_B)
        total_B += step * there_B
        shares_B += step * np.where(there_B, area_B, 0.0)
    return np.asarray(shares_B / np.where(total_B > 0, total_B, np.nan))


def integrated_brier(
    known: Followed, risks_N: Floats, weights_BN: Floats, without_NT: Floats | None = None, at_T: Floats | None = None
) -> Floats:
    """Return the integrated Brier score (B,), lower is better: squared error of the predicted share without the event.

    Source: Graf et al., Statistics in Medicine 1999. ``without_NT``: those shares at ``at_T``; where not given, by
    `survival_by_others`.
    """
    if at_T is None:
        deciles = known.deciles()
        at_T = np.linspace(deciles[0], deciles[-1], N_STEPS) if len(deciles) > 1 else deciles
    if len(at_T) < 2:
        return np.full(len(weights_BN), np.nan)
    without_NT = survival_by_others(known, risks_N, at_T) if without_NT is None else without_NT
    errors_N = np.trapezoid(brier_errors(known, without_NT, at_T), at_T, axis=1) / (at_T[-1] - at_T[0])
    return np.asarray(weights_BN @ errors_N / weights_BN.sum(axis=1))


def brier_errors(known: Followed, without_NT: Floats, at_T: Floats) -> Floats:
    """Return the squared errors (N, T) of the predicted shares without the event; their mean is the Brier score there.

    Who was last seen before a time counts nothing there, the others by ``1 / G`` for them. Source: Graf et al. 1999.
    """
    at_N = kaplan_meier_at(known.times_N, known.times_N, known.events_N, of_censoring=True)[:, None]
    at_T_left = kaplan_meier_at(at_T, known.times_N, known.events_N, of_censoring=True)[None]
    ended_NT = (known.times_N[:, None] <= at_T[None]) & known.events_N[:, None] & (at_N > 0)
    going_NT = (known.times_N[:, None] > at_T[None]) & (at_T_left > 0)
    errors_NT = ended_NT * without_NT**2 / np.where(at_N > 0, at_N, 1)
    return np.asarray(errors_NT + going_NT * (1 - without_NT) ** 2 / np.where(at_T_left > 0, at_T_left, 1))


def survival_by_others(known: Followed, risks_N: Floats, at_T: Floats) -> Floats:
    """Return the predicted shares without the event (N, T): each patient's by the patients of the other folds."""
    shares_NT = np.ones((len(risks_N), len(at_T)))
    for fold in np.unique(known.folds_N):
        own_N = known.folds_N == fold
        others = ~own_N
        shares_NT[own_N] = breslow(risks_N[own_N], at_T, risks_N[others], known.times_N[others], known.events_N[others])
    return shares_NT


def breslow(asked_M: Floats, at_T: Floats, risks_N: Floats, times_N: Floats, events_N: Bools) -> Floats:
    """Return the shares (M, T) without the event for log risks, with Breslow's baseline of N followed patients."""
    if not events_N.any():
        return np.ones((len(asked_M), len(at_T)))
    level = float(risks_N.max())
    points = np.unique(times_N[events_N])
    ends_P = ((times_N[None] == points[:, None]) & events_N[None]).sum(axis=1)
    at_risk_P = (times_N[None] >= points[:, None]) @ np.exp(risks_N - level)
    rises_P = ends_P / np.maximum(at_risk_P, np.finfo(float).tiny)
    hazard_T = np.concatenate([[0.0], np.cumsum(rises_P)])[np.searchsorted(points, at_T, side="right")]
    return np.asarray(np.exp(-hazard_T[None] * np.exp(np.minimum(asked_M - level, 50.0))[:, None]))


def misordered(known: Followed, risks_N: Floats) -> Floats:
    """Return, of the pairs of each patient (N,) whose order in time is known, the share in the wrong order, ties half.

    NaN for a patient without such a pair.
    """
    pairs_NN = _known_pairs(known)
    wrong_NN = pairs_NN * ((risks_N[:, None] < risks_N[None]) + 0.5 * (risks_N[:, None] == risks_N[None]))
    total_N = pairs_NN.sum(axis=0) + pairs_NN.sum(axis=1)
    return np.asarray((wrong_NN.sum(axis=0) + wrong_NN.sum(axis=1)) / np.where(total_N > 0, total_N, np.nan))


def _known_pairs(known: Followed) -> Bools:
    """Return (N, N): whether the first of two of one fold had the event before the second, or when it was censored."""
    times_N, events_N = known.times_N, known.events_N
    before_NN = (times_N[:, None] < times_N[None]) & events_N[:, None]
    before_NN |= (times_N[:, None] == times_N[None]) & events_N[:, None] & ~events_N[None]
    return np.asarray(before_NN & (known.folds_N[:, None] == known.folds_N[None]))


def _share(pairs_NN: Floats, risks_N: Floats, weights_BN: Floats) -> Floats:
    """Return the share (B,) of weighted pairs of which the first has the higher risk, ties half; NaN without a pair."""
    higher_NN = (risks_N[:, None] > risks_N[None]) + 0.5 * (risks_N[:, None] == risks_N[None])
    total_B = ((weights_BN @ pairs_NN) * weights_BN).sum(axis=1)
    right_B = ((weights_BN @ (pairs_NN * higher_NN)) * weights_BN).sum(axis=1)
    return np.asarray(right_B / np.where(total_B > 0, total_B, np.nan))

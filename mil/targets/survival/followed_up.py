"""The share without the event over time, with its interval, and in many draws at once: pure functions on arrays."""

from statistics import NormalDist

import numpy as np

from mil.targets.survival.metrics import kaplan_meier_at
from wsi.arrays import Bools, Floats

NORMAL = NormalDist().inv_cdf(0.975)


def kaplan_meier_interval(at_T: Floats, times_N: Floats, events_N: Bools) -> tuple[Floats, Floats]:
    """Return the ends (T,) of the 95 % interval of the Kaplan-Meier share; NaN beyond the last time of all.

    Greenwood's variance on the log-log scale (Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data,
    1980). Where all or none are left, the exact interval of a share of those at risk (Clopper and Pearson).
    """
    points = np.unique(times_N)
    at_risk = (times_N[None] >= points[:, None]).sum(axis=1).astype(np.float64)
    ends = ((times_N[None] == points[:, None]) & events_N[None]).sum(axis=1)
    terms = np.where(at_risk > ends, ends / np.maximum(at_risk * (at_risk - ends), 1), 0.0)
    place_T = np.searchsorted(points, at_T, side="right")
    spread_T = np.sqrt(np.concatenate([[0.0], np.cumsum(terms)])[place_T])
    left_T = kaplan_meier_at(at_T, times_N, events_N)
    inner_T = (left_T > 0) & (left_T < 1)
    logs_T = np.log(np.where(inner_T, left_T, 0.5))
    reach_T = NORMAL * spread_T / np.abs(logs_T)
    size_T = np.maximum(np.append(at_risk, 0)[np.searchsorted(points, at_T, side="left")], 1)
    exact_T = 0.025 ** (1 / size_T)
    low_T = np.where(inner_T, np.exp(logs_T * np.exp(reach_T)), np.where(left_T > 0, exact_T, 0.0))
    high_T = np.where(inner_T, np.exp(logs_T * np.exp(-reach_T)), np.where(left_T > 0, 1.0, 1 - exact_T))
    beyond_T = at_T > points[-1]
    return np.where(beyond_T, np.nan, low_T), np.where(beyond_T, np.nan, high_T)


def kaplan_meier_of_draws(at_T: Floats, times_N: Floats, events_N: Bools, weights_BN: Floats) -> Floats:
    """Return the Kaplan-Meier share (B, T) in each draw; NaN in a draw of nobody, and once nobody drawn is followed."""
    points, place_N = np.unique(times_N, return_inverse=True)
    member_NM = np.eye(len(points))[place_N]
    drawn_BM, ends_BM = weights_BN @ member_NM, (weights_BN * events_N) @ member_NM
    at_risk_BM = np.cumsum(drawn_BM[:, ::-1], axis=1)[:, ::-1]
    left_BM = np.cumprod(1 - ends_BM / np.where(at_risk_BM > 0, at_risk_BM, 1), axis=1)
    left_BM = np.concatenate([np.ones((len(weights_BN), 1)), left_BM], axis=1)
    followed_BT = np.concatenate([at_risk_BM, np.zeros((len(weights_BN), 1))], axis=1)[
        :, np.searchsorted(points, at_T, side="left")
    ]
    left_BT = left_BM[:, np.searchsorted(points, at_T, side="right")]
    return np.asarray(np.where((followed_BT > 0) | (left_BT == 0), left_BT, np.nan))

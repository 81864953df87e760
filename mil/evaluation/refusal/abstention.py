"""Answers held back: how often the answers that are left are wrong, where the least sure patients get none.

Source: El-Yaniv and Wiener, JMLR 2010 (risk and coverage); Geifman, Uziel and El-Yaniv, ICLR 2019 (the area under it).
"""

import numpy as np

from mil.evaluation.decisions.called import exact_at_the_end
from mil.targets.metrics import finite, percentile_interval
from wsi.arrays import Bools, Floats
from wsi.recipe import Json

SHOWN = (1.0, 0.9, 0.8, 0.7, 0.5)
"""Shares of patients who get an answer, that stand as numbers."""


def risks(wrong_N: Bools, doubt_N: Floats, weights_BN: Floats, shares_T: Floats) -> Floats:
    """Return the share (B, T) of wrong answers among the surest of each draw.

    Patients of equal doubt are kept by shares, so that their order says nothing; so is the last one kept.
    """
    order = np.argsort(doubt_N, kind="stable")
    ranks = np.unique(doubt_N[order], return_inverse=True)[1]
    starts = np.flatnonzero(np.diff(ranks, prepend=-1))
    weight_BK = np.add.reduceat(weights_BN[:, order], starts, axis=1)
    wrong_BK = np.add.reduceat(weights_BN[:, order] * wrong_N[order], starts, axis=1)
    upto_BK, total_B1 = np.cumsum(weight_BK, axis=1), weights_BN.sum(axis=1, keepdims=True)
    found = np.empty((len(weights_BN), len(shares_T)))
    for t, share in enumerate(shares_T):
        left_BK = np.clip(share * total_B1 - (upto_BK - weight_BK), 0, weight_BK)
        kept_BK = np.where(weight_BK > 0, left_BK / np.where(weight_BK > 0, weight_BK, 1), 0.0)
        found[:, t] = (kept_BK * wrong_BK).sum(axis=1) / (share * total_B1[:, 0])
    return found


def area(wrong_N: Bools, doubt_N: Floats) -> float:
    """Return the mean share of wrong answers over keeping the surest 1, 2, ... N; ties as in `risks`."""
    shares = np.arange(1, len(wrong_N) + 1) / len(wrong_N)
    return float(risks(wrong_N, doubt_N, np.ones((1, len(wrong_N))), shares)[0].mean())


def told_of_abstention(wrong_N: Bools, doubt_N: Floats, draws_BN: Floats, groups: int | None = None) -> Json:
    """Return the share of wrong answers where only the surest get one, with 95 % intervals, and the area.

    Where no answer is wrong, or each, the interval is the exact one, of so many patients or ``groups`` of rows.
    """
    size = groups or len(wrong_N)
    shares = np.array(SHOWN)
    values = risks(wrong_N, doubt_N, np.ones((1, len(wrong_N))), shares)[0]
    ends = [
        exact_at_the_end(value, max(1, int(share * size))) if value in (0.0, 1.0) else percentile_interval(own_B)
        for share, value, own_B in zip(SHOWN, values, risks(wrong_N, doubt_N, draws_BN, shares).T, strict=True)
    ]
    rows = [
        {"answered": share, **finite({"value": float(value), "low": low, "high": high})}
        for share, value, (low, high) in zip(SHOWN, values, ends, strict=True)
    ]
    return {"rows": rows, "area": area(wrong_N, doubt_N), "wrong": float(wrong_N.mean())}

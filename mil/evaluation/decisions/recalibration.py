"""Whether probabilities hold: the slope and intercept of a logistic regression of the truth on the log odds told.

Slope 1 and intercept 0 are perfect. A slope below 1: too sure; above 1: not sure enough. The intercept is that with
the slope held at 1 (calibration in the large): above 0 the thing is more frequent than told, below 0 less. Source: Cox,
Biometrika 1958; Van Calster et al., BMC Medicine 2019, for the two as they are reported.
"""

import numpy as np

from mil.evaluation.bootstrap import interval, left_out
from mil.targets.metrics import CLIP, finite
from wsi.arrays import Bools, Floats
from wsi.recipe import Json

STEPS = 60
"""Of Newton's method, at most."""
_WIDEST = 4.0
"""Of one step, in standard deviations of the log odds: further than that its parabola says nothing."""


def log_odds(probs_N: Floats) -> Floats:
    """Return the log odds of probabilities, which are held away from 0 and 1."""
    probs_N = np.clip(np.asarray(probs_N, np.float64), CLIP, 1 - CLIP)
    return np.asarray(np.log(probs_N) - np.log1p(-probs_N))


def slope_and_intercept(positive_N: Bools, probs_N: Floats, weights_BN: Floats) -> tuple[Floats, Floats]:
    """Return the slope (B,), with its own intercept beside it, and the intercept (B,) with the slope held at 1.

    Where the log odds part those who have it from the others, the slope has no bound: inf, or -inf where they stand the
    wrong way round. Where a class is missing both are NaN; where all log odds are one, the slope is.
    """
    x_N, y_N = log_odds(probs_N), positive_N.astype(np.float64)
    both_B = ((weights_BN @ y_N) > 0) & ((weights_BN @ (1 - y_N)) > 0)
    intercept_B = np.where(both_B, _fit(x_N, y_N, weights_BN, slope=False)[0], np.nan)
    spread = float(x_N.std())
    if spread < 1e-12:
        return np.full(len(weights_BN), np.nan), np.asarray(intercept_B)
    up_B, down_B = _parted(x_N, positive_N, weights_BN), _parted(-x_N, positive_N, weights_BN)
    slope_B = np.full(len(weights_BN), np.nan)
    fine_B = both_B & ~up_B & ~down_B & _distinct(x_N, weights_BN)
    if fine_B.any():
        standard_N = (x_N - x_N.mean()) / spread
        slope_B[fine_B] = _fit(standard_N, y_N, weights_BN[fine_B], slope=True)[1] / spread
    slope_B[both_B & up_B], slope_B[both_B & down_B] = np.inf, -np.inf
    return slope_B, np.asarray(intercept_B)


def _distinct(x_N: Floats, weights_BN: Floats) -> Bools:
    drawn = weights_BN > 0
    high, low = (np.where(drawn, x_N, -np.inf).max(axis=1), np.where(drawn, x_N, np.inf).min(axis=1))
    return np.asarray(high > low)


def _parted(x_N: Floats, positive_N: Bools, weights_BN: Floats) -> Bools:
    """Return in which draws all who have it lie at or beyond all others, upwards."""
    drawn = weights_BN > 0
    lowest = np.where(drawn & positive_N, x_N, np.inf).min(axis=1)
    highest = np.where(drawn & ~positive_N, x_N, -np.inf).max(axis=1)
    return np.asarray((lowest >= highest) & _distinct(x_N, weights_BN))


def _fit(x_N: Floats, y_N: Floats, weights_BN: Floats, *, slope: bool) -> tuple[Floats, Floats]:
    """Return intercept and slope (B,) of greatest likelihood by Newton's method; without ``slope`` it is held at 1."""
    a_B, b_B = np.zeros(len(weights_BN)), np.full(len(weights_BN), 0.0 if slope else 1.0)
    for _ in range(STEPS):
        probs_BN = 0.5 * (1 + np.tanh(0.5 * (a_B[:, None] + b_B[:, None] * x_N)))
        left_BN, worth_BN = weights_BN * (y_N - probs_BN), weights_BN * probs_BN * (1 - probs_BN)
        ga_B, haa_B = left_BN.sum(axis=1), worth_BN.sum(axis=1) + 1e-300
        if not slope:
            da_B, db_B = ga_B / haa_B, np.zeros(len(a_B))
        else:
            gb_B, hab_B, hbb_B = left_BN @ x_N, worth_BN @ x_N, worth_BN @ np.square(x_N)
            det_B = np.maximum(haa_B * hbb_B - hab_B**2, 1e-300)
            da_B, db_B = (hbb_B * ga_B - hab_B * gb_B) / det_B, (haa_B * gb_B - hab_B * ga_B) / det_B
        most_B = np.maximum(np.maximum(np.abs(da_B), np.abs(db_B)) / _WIDEST, 1.0)
        a_B, b_B = a_B + da_B / most_B, b_B + db_B / most_B
        if max(np.abs(da_B).max(), np.abs(db_B).max()) < 1e-11:
            break
    return a_B, b_B


def equal_classes(positive_N: Bools, weights_BN: Floats) -> Floats:
    """Return the weights so that those who have it and the others count equally in each draw, and sum as before."""
    up_B = (weights_BN @ positive_N)[:, None]
    down_B = (weights_BN @ ~positive_N)[:, None]
    total_B = up_B + down_B
    own_BN = np.where(positive_N, total_B / 2 / np.maximum(up_B, 1e-300), total_B / 2 / np.maximum(down_B, 1e-300))
    return np.asarray(weights_BN * own_BN)


def told_of_calibration(positive_N: Bools, probs_N: Floats, draws_BN: Floats, *, balanced: bool) -> Json:
    """Return slope and intercept with 95 % intervals over draws of patients; None where there is no bound.

    ``balanced``: those who have it and the others count equally, as probabilities for equal priors want.
    """
    told = {}
    weights = (np.ones((1, len(probs_N))), draws_BN, left_out(draws_BN))
    found = [
        slope_and_intercept(positive_N, probs_N, equal_classes(positive_N, own) if balanced else own) for own in weights
    ]
    for name, (own_1, drawn_B, left_K) in zip(("slope", "intercept"), zip(*found, strict=True), strict=True):
        low, high = interval(float(own_1[0]), drawn_B, left_K)
        told[name] = finite({"value": float(own_1[0]), "low": low, "high": high})
    return told

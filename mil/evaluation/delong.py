"""DeLong's test: do two scores of the same patients have different areas under the ROC curve.

Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988; by mid-ranks in O(n log n) after Sun and Xu, IEEE Signal
Processing Letters 2014.
"""

from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np

from mil.targets.metrics import midranks
from wsi.arrays import Bools, Floats


@dataclass(frozen=True, slots=True)
class DeLong:
    """The test's outcome."""

    difference: float
    """Second area minus first."""
    deviation: float
    """Standard error of the difference."""
    p: float
    """Two-sided; 1 where the two order all pairs of patients alike; NaN where a difference shows no variance."""


def areas_and_covariance(positive_N: Bools, scores_KN: Floats) -> tuple[Floats, Floats]:
    """Return the areas (K,) of K scores on the same patients, and their covariance (K, K).

    NaN where a class has fewer than two patients.
    """
    ups, downs = scores_KN[:, positive_N], scores_KN[:, ~positive_N]
    m, n = ups.shape[1], downs.shape[1]
    k = len(scores_KN)
    if min(m, n) < 2:
        return np.full(k, np.nan), np.full((k, k), np.nan)
    both = np.array([midranks(np.concatenate([up, down])) for up, down in zip(ups, downs, strict=True)])
    own_up, own_down = np.array([midranks(up) for up in ups]), np.array([midranks(down) for down in downs])
    v10 = (both[:, :m] - own_up) / n
    v01 = 1 - (both[:, m:] - own_down) / m
    covariance = np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n
    return np.asarray(v10.mean(axis=1)), np.asarray(covariance)


def delong(positive_N: Bools, first_N: Floats, second_N: Floats) -> DeLong:
    """Test whether two scores of the same patients have the same area under the ROC curve."""
    areas, covariance = areas_and_covariance(positive_N, np.stack([first_N, second_N]))
    difference = float(areas[1] - areas[0])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if np.isnan(variance):
        return DeLong(difference, variance, float("nan"))
    deviation = sqrt(max(variance, 0.0))
    if deviation < 1e-12:
        return DeLong(difference, 0.0, 1.0 if abs(difference) < 1e-12 else float("nan"))
    return DeLong(difference, deviation, erfc(abs(difference) / deviation / sqrt(2)))

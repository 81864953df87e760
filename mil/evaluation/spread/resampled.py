"""Cross-validation's own spread: what other training sets of this size would have given.

The folds of a cross-validation, and repeats of it, train on largely the same patients: their values hang together, and
the plain t test takes noise for a difference far too often. Nadeau and Bengio (Machine Learning 2003) add to the
variance of the mean the share that common patients hide, about test patients over training patients; for repeated
cross-validation Bouckaert and Frank (PAKDD 2004). Repeats divide the same patients anew and are no further evidence of
other patients, so the t distribution has the degrees of freedom of one division's folds: with those of all folds of
three repeats, noise is called a difference in 9 % of cohorts (docs/EVIDENCE.md).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from mil.targets.base import Measure
from mil.targets.metrics import finite
from wsi.arrays import Floats, Ints
from wsi.recipe import Json

POOLED = "_pooled"
"""Ends the name of a metric that compares patients of different folds, too."""


@dataclass(frozen=True, slots=True)
class Resampled:
    """The mean over folds (and repeats); where nothing varies there is no interval and no p: NaN."""

    value: float
    low: float
    high: float
    deviation: float
    """Standard deviation from fold to fold."""
    p: float
    """Two-sided, that the true mean is 0."""
    folds: int

    def told(self) -> Json:
        """Return JSON values."""
        return finite(asdict(self))


def resampled(values_J: Floats, tested_over_trained: float) -> Resampled | None:
    """Return the corrected resampled t interval and test of values that folds gave; None of fewer than two.

    Parameters
    ----------
    values_J
        One for each fold of each repeat, (J,); those that are not defined (NaN) are left out.
    tested_over_trained
        Test patients over training patients of a fold: with K folds 1 / (K - 1).
    """
    from scipy.special import stdtr, stdtrit

    values = values_J[np.isfinite(values_J)]
    if len(values) < 2:
        return None
    mean, variance = float(values.mean()), float(values.var(ddof=1))
    freedom = min(len(values) - 1, round(1 / tested_over_trained)) if tested_over_trained else len(values) - 1
    error = float(np.sqrt((1 / len(values) + tested_over_trained) * variance))
    reach = float(stdtrit(freedom, 0.975)) * error if error > 0 else float("nan")
    p = float(2 * stdtr(freedom, -abs(mean) / error)) if error > 0 else float("nan")
    return Resampled(mean, mean - reach, mean + reach, float(np.sqrt(variance)), p, len(values))


def ranking_metric(measures: Iterable[str]) -> str:
    """Return the metric that compares patients with each other, within folds and pooled."""
    names = list(measures)
    return [name for name in names if f"{name}{POOLED}" in names][-1]


def fold_values(measure: Measure, folds_P: Ints) -> Floats:
    """Return the metric of each fold by itself, (K,); NaN where it is not defined."""
    weights_KP = np.array([folds_P == fold for fold in np.unique(folds_P)], np.float64)
    return np.array([float(measure(own[None])[0]) for own in weights_KP])

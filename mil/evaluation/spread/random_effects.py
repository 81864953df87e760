"""Random effects: what the mean over all centers of such a kind would be, from a few centers that differ.

Each center has a true value of its own; what is measured there misses it by chance, the more the fewer its patients.
The variance between centers is DerSimonian and Laird's (Controlled Clinical Trials 1986), never below 0. The interval
is Hartung and Knapp's (Statistics in Medicine 2001): its width comes from how far the centers lie apart, by the t
distribution, and with few centers it holds the truth where the normal one does not (IntHout, Ioannidis and Borm, BMC
Medical Research Methodology 2014). Two centers that happen to agree would make it a point: where the normal interval is
the wider one, it is taken (Wiksten, Ruecker and Schwarzer, Statistics in Medicine 2016).
"""

from dataclasses import asdict, dataclass

import numpy as np

from mil.targets.metrics import finite
from wsi.arrays import Floats
from wsi.recipe import Json

NORMAL = 1.959963984540054
"""The 97.5 % of the normal distribution."""


@dataclass(frozen=True, slots=True)
class RandomEffects:
    """The mean over centers."""

    value: float
    low: float
    high: float
    between: float
    """Standard deviation of the centers' true values."""
    inconsistency: float
    """I-squared: the share of the variance that is between centers."""
    next_low: float
    """Of the 95 % prediction interval: where the true value of one more center lies; NaN with fewer than three."""
    next_high: float

    def told(self) -> Json:
        """Return JSON values."""
        return finite(asdict(self))


def random_effects(values_K: Floats, variances_K: Floats) -> RandomEffects | None:
    """Return the mean over two centers or more, with its interval; None of fewer, or without any variance.

    Parameters
    ----------
    values_K, variances_K
        Each center's value and the variance by which it misses its true one, (K,).
    """
    k = len(values_K)
    if k < 2 or not (variances_K > 0).all():
        return None
    weights, freedom = 1 / variances_K, k - 1
    apart = _squares(values_K, weights)
    unequal = weights.sum() - np.square(weights).sum() / weights.sum()
    between = max(0.0, float((apart - freedom) / unequal))
    weights = 1 / (variances_K + between)
    mean = float(weights @ values_K / weights.sum())
    error = float(1 / np.sqrt(weights.sum()))
    reach = error * max(_quantile(freedom) * np.sqrt(_squares(values_K, weights) / freedom), NORMAL)
    further = _quantile(freedom - 1) * np.sqrt(between + error**2) if k > 2 else np.nan
    return RandomEffects(
        mean,
        float(mean - reach),
        float(mean + reach),
        float(np.sqrt(between)),
        max(0.0, 1 - freedom / apart) if apart > 0 else 0.0,
        float(mean - further),
        float(mean + further),
    )


def _squares(values_K: Floats, weights_K: Floats) -> float:
    """Return the weighted squares of the distances from the weighted mean (Cochran's Q)."""
    mean = weights_K @ values_K / weights_K.sum()
    return float(weights_K @ np.square(values_K - mean))


def _quantile(freedom: int) -> float:
    """Return the 97.5 % of Student's t; `scipy.stats` takes a second to import."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))

"""Uncertainty of a metric: patients are drawn with replacement, never slides, which hang together within a patient.

Percentiles of draws are too narrow of few patients, and lopsided: their ends are moved by what leaving out one patient
after the other tells (the jackknife). docs/EVIDENCE.md says how often each interval holds the truth.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np

from mil.targets.base import Measure
from mil.targets.metrics import finite, ones
from wsi.arrays import Floats
from wsi.recipe import Json

REPLICATES = 2000
OF_PAIRS = frozenset({"auc", "macro_auc", "concordance", "concordance_uno", "time_auc", "spearman"})
"""Metrics that compare patients with each other, within folds and pooled."""
LEFT_OUT = 200
"""Of more patients so many parts are left out one after the other."""
_MOST_BIAS = 0.5
"""Deviations by which the middle of the draws is taken to be off at most: of a metric that draws shift by far more, as
they do the calibration error, the correction says nothing."""
_NORMAL = NormalDist()


def draw_patients(n_patients: int, seed: int, replicates: int = REPLICATES) -> Floats:
    """Return how often each patient is drawn in each replicate, (B, n): each row sums to n."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=replicates).astype(np.float64)


def draw_groups(groups: Sequence[str], seed: int, replicates: int = REPLICATES) -> Floats:
    """Return how often each row is drawn, (B, n), when whole groups are: a row as often as its group."""
    names, group_of = np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)
    return draw_patients(len(names), seed, replicates)[:, group_of]


def left_out(draws_BN: Floats) -> Floats:
    """Return weights (K, N) that leave out one patient after the other, or a part of many: who is drawn together.

    Of one patient there is nothing to leave out: all are kept.
    """
    group_N = np.unique(draws_BN[:64], axis=1, return_inverse=True)[1].reshape(-1) % LEFT_OUT
    kept_KN = group_N[None] != np.arange(group_N.max() + 1)[:, None]
    return np.asarray(kept_KN | (len(kept_KN) == 1), np.float64)


def interval(value: float, drawn_B: Floats, left_K: Floats, *, pairs: bool = False) -> tuple[float, float]:
    """Return the 95 % interval of a metric from its draws and from what it is without each patient; NaN where unknown.

    Bias-corrected and accelerated percentiles (Efron, JASA 1987), at the levels of Student's t and of a deviation that
    is not too small by (n - 1) / n (Hesterberg, American Statistician 2015, expanded percentiles). ``pairs``: the
    metric compares patients with each other, so that draws lie too far apart (`standard_error`).
    """
    from scipy.special import stdtrit

    drawn_B = drawn_B[~np.isnan(drawn_B)]
    if not len(drawn_B):
        return float("nan"), float("nan")
    left_K = left_K[np.isfinite(left_K)]
    pull_K = left_K.sum() / max(len(left_K), 1) - left_K
    carried = max(3, int((np.abs(pull_K) > 1e-12).sum()))
    lean = float((pull_K**3).sum() / (6 * max(float((pull_K**2).sum()) ** 1.5, 1e-300)))
    reach = -_NORMAL.inv_cdf(_NORMAL.cdf(-sqrt(carried / (carried - 1)) * float(stdtrit(carried - 1, 0.975))))
    below = (float((drawn_B < value).mean()) + float((drawn_B <= value).mean())) / 2
    off = min(max(_NORMAL.inv_cdf(min(max(below, 1e-9), 1 - 1e-9)), -_MOST_BIAS), _MOST_BIAS)
    levels = [_NORMAL.cdf(off + (off + z) / max(1 - lean * (off + z), 0.1)) for z in (-reach, reach)]
    ends = np.quantile(drawn_B, levels, method="inverted_cdf")
    if not np.isfinite(value):
        return float(ends[0]), float(ends[1])
    if pairs and np.isfinite(drawn_B).all() and drawn_B.var() > 0:
        ends = value + (ends - value) * min(1.0, standard_error(drawn_B, left_K) / float(drawn_B.std()))
    return min(value, float(ends[0])), max(value, float(ends[1]))


def standard_error(drawn_B: Floats, left_K: Floats) -> float:
    """Return the standard error of a metric or difference: that of the draws, less what they count too often.

    What two patients say of each other beyond what each says alone is told once by them, twice where one after the
    other is left out (Efron and Stein, Annals of Statistics 1981), three times by draws with replacement: where draws
    surely lie further apart, for as many as they are, what they have more is taken off the jackknife's variance, at
    most half of it.
    """
    drawn_B, left_K = drawn_B[np.isfinite(drawn_B)], left_K[np.isfinite(left_K)]
    drawn, left = float(drawn_B.var()), float(left_K.var()) * (len(left_K) - 1)
    sure = 1 - sqrt(2 / len(drawn_B))
    return sqrt(min(drawn, max(2 * left - sure * drawn, left / 2)))


def estimate(measure: Measure, draws_BN: Floats, *, pairs: bool = False) -> Json:
    """Return ``value``, ``low`` and ``high`` of a metric; draws on which it is not defined are left out, None if all.

    ``pairs``: as in `interval`.
    """
    return _estimated(measure, draws_BN, left_out(draws_BN), pairs=pairs)


def estimates(measures: Mapping[str, Measure], draws_BN: Floats) -> Json:
    """Return every metric with its 95 % interval, all on the same draws."""
    left_KN = left_out(draws_BN)
    return {name: _estimated(own, draws_BN, left_KN, pairs=of_pairs(name)) for name, own in measures.items()}


def _estimated(measure: Measure, draws_BN: Floats, left_KN: Floats, *, pairs: bool) -> Json:
    value = float(measure(ones(draws_BN.shape[1]))[0])
    low, high = interval(value, measure(draws_BN), measure(left_KN), pairs=pairs)
    return finite({"value": value, "low": low, "high": high})


def of_pairs(name: str) -> bool:
    """Tell whether a metric compares patients with each other."""
    return name.removesuffix("_pooled") in OF_PAIRS

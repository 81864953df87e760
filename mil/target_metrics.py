"""Metrics of the targets that are not one class of several: pure functions on arrays, higher is better.

NaN where a metric is not defined on the sample (one class only, no comparable pair, no spread).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mil.metrics import Floats


def concordance(
    times_N: Floats, events_N: NDArray[np.bool_], risks_N: Floats, folds_N: NDArray[np.int64] | None = None
) -> float:
    """Return Harrell's C: of the pairs whose order in time is known, how many the risks order rightly; ties one half.

    A pair is known when the earlier time is an event, or both are at one time and one alone is an event. Source:
    Harrell et al. 1982. Given folds, only patients of one fold are compared, for models need not have one scale.
    """
    before_NN = (times_N[:, None] < times_N[None]) & events_N[:, None]
    before_NN |= (times_N[:, None] == times_N[None]) & events_N[:, None] & ~events_N[None]
    if folds_N is not None:
        before_NN &= folds_N[:, None] == folds_N[None]
    higher_NN = (risks_N[:, None] > risks_N[None]) + 0.5 * (risks_N[:, None] == risks_N[None])
    pairs = int(before_NN.sum())
    return float((before_NN * higher_NN).sum() / pairs) if pairs else float("nan")


def r2(values_N: Floats, predicted_N: Floats) -> float:
    """Return 1 minus the squared error over that of the mean; below 0 where the mean would be better."""
    total = float(((values_N - values_N.mean()) ** 2).sum())
    return 1 - float(((values_N - predicted_N) ** 2).sum()) / total if total > 0 else float("nan")


def spearman(values_N: Floats, predicted_N: Floats) -> float:
    """Return the correlation of ranks, ties at their mean."""
    ranks = rankdata(values_N), rankdata(predicted_N)
    if min(rank.std() for rank in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def macro_auc(present_NC: Floats, scores_NC: Floats) -> float:
    """Return the mean over labels of the area under the ROC curve; unknown (NaN) truths do not count.

    Labels that are always, or never, present do not count either.
    """
    areas = [_auc(present_N, scores_N) for present_N, scores_N in zip(present_NC.T, scores_NC.T, strict=True)]
    known = [area for area in areas if not np.isnan(area)]
    return float(np.mean(known)) if known else float("nan")


def _auc(present_N: Floats, scores_N: Floats) -> float:
    known_N = ~np.isnan(present_N)
    positive_N, ranks_N = present_N[known_N] == 1, rankdata(scores_N[known_N])
    ups, downs = int(positive_N.sum()), int((~positive_N).sum())
    if not ups or not downs:
        return float("nan")
    return float((ranks_N[positive_N].sum() - ups * (ups + 1) / 2) / (ups * downs))

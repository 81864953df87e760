"""Metrics of patient-level predictions: pure functions on arrays, each over many sets of patient weights at once.

Shapes: ``labels_N`` int64 in [0, C); ``probs_NC`` float64; ``weights_BN`` float64, one row per bootstrap replicate (how
often each patient was drawn). Every metric returns ``(B,)`` float64; NaN where it is not defined: a replicate lacks a
class, or has no spread. Classes count equally in all metrics of classes but AUC and average precision, whatever their
share in the cohort: so does STRIP AI's score.
"""

from collections.abc import Callable, Mapping
from math import isfinite

import numpy as np

from wsi.arrays import Bools, Floats, Ints

Metric = Callable[[Ints, Floats, Floats], Floats]

CLIP = 1e-15
"""Probabilities are clipped to [CLIP, 1 - CLIP], as the competition does."""
ECE_BINS = 10


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return the numbers as JSON has them: None for what is not defined."""
    return {name: value if isfinite(value) else None for name, value in values.items()}


def ones(n: int) -> Floats:
    """Return the weights of the sample itself, (1, n)."""
    return np.ones((1, n))


def percentile_interval(values_B: Floats) -> tuple[float, float]:
    """Return the 95 % interval of replicates, those that are not finite left out; NaN where none is."""
    values_B = values_B[np.isfinite(values_B)]
    if len(values_B) == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(values_B, [2.5, 97.5])
    return float(low), float(high)


def midranks(values_N: Floats) -> Floats:
    """Return each value's rank from 1, equal ones at the mean of theirs; `scipy.stats` takes a second to import."""
    _, place_N, counts_K = np.unique(values_N, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts_K) - (counts_K - 1) / 2)[place_N])


def rescale(probs_NC: Floats) -> Floats:
    """Return rows that sum to 1, then clipped to [1e-15, 1 - 1e-15]."""
    probs_NC = np.asarray(probs_NC, np.float64)
    return np.asarray(np.clip(probs_NC / probs_NC.sum(axis=1, keepdims=True), CLIP, 1 - CLIP))


def one_hot(labels_N: Ints, n_classes: int) -> Floats:
    """Return (N, C) with 1 at each row's class."""
    return np.asarray(np.eye(n_classes)[labels_N])


def _class_weights(labels_N: Ints, n_classes: int, weights_BN: Floats) -> tuple[Floats, Floats]:
    """Return the membership (N, C) and the total weight of each class in each replicate (B, C), NaN where absent."""
    member_NC = one_hot(labels_N, n_classes)
    total_BC = weights_BN @ member_NC
    return member_NC, np.where(total_BC > 0, total_BC, np.nan)


def balanced_mean(values_N: Floats, labels_N: Ints, n_classes: int, weights_BN: Floats) -> Floats:
    """Return the mean over classes of the mean of ``values_N`` within each class, (B,)."""
    member_NC, total_BC = _class_weights(labels_N, n_classes, weights_BN)
    return np.asarray((weights_BN @ (member_NC * values_N[:, None]) / total_BC).mean(axis=1))


def weighted_log_loss(labels_N: Ints, probs_NC: Floats, weights_BN: Floats) -> Floats:
    """Return the competition's weighted multi-class log loss with equal class weights.

    ``-(sum_i w_i sum_{j in class i} ln p_ij / N_i) / sum_i w_i``, rows rescaled to sum 1, clipped to [1e-15, 1-1e-15].
    """
    probs_NC = rescale(probs_NC)
    losses_N = -np.log(probs_NC[np.arange(len(labels_N)), labels_N])
    return balanced_mean(losses_N, labels_N, probs_NC.shape[1], weights_BN)


def balanced_accuracy(labels_N: Ints, probs_NC: Floats, weights_BN: Floats) -> Floats:
    """Return the mean recall over classes; a row with a tie counts its share of the tied classes."""
    best_NC = (probs_NC >= probs_NC.max(axis=1, keepdims=True)).astype(np.float64)
    hits_N = best_NC[np.arange(len(labels_N)), labels_N] / best_NC.sum(axis=1)
    return balanced_mean(hits_N, labels_N, probs_NC.shape[1], weights_BN)


def brier(labels_N: Ints, probs_NC: Floats, weights_BN: Floats) -> Floats:
    """Return the Brier score (sum over classes, so 0.5 for a constant half), classes counted equally."""
    errors_N = ((probs_NC - one_hot(labels_N, probs_NC.shape[1])) ** 2).sum(axis=1)
    return balanced_mean(errors_N, labels_N, probs_NC.shape[1], weights_BN)


def auc(labels_N: Ints, probs_NC: Floats, weights_BN: Floats, folds_N: Ints | None = None) -> Floats:
    """Return the area under the ROC curve; with more than two classes the mean of each class against the rest.

    Given folds, only patients of one fold are compared: scores of different models need not have one scale.
    """
    n_classes = probs_NC.shape[1]
    folds_N = np.zeros(len(labels_N), np.int64) if folds_N is None else folds_N
    wanted = [1] if n_classes == 2 else range(n_classes)
    areas = [binary_auc(labels_N == c, probs_NC[:, c], weights_BN, folds_N) for c in wanted]
    return np.asarray(np.mean(areas, axis=0))


def binary_auc(positive_N: Bools, scores_N: Floats, weights_BN: Floats, folds_N: Ints) -> Floats:
    """Return the Mann-Whitney form of the AUC, ties at one half, for each replicate."""
    ups, downs = scores_N[positive_N], scores_N[~positive_N]
    alike = folds_N[positive_N][:, None] == folds_N[~positive_N][None]
    wins = ((ups[:, None] > downs[None]) + 0.5 * (ups[:, None] == downs[None])) * alike
    w_up, w_down = weights_BN[:, positive_N], weights_BN[:, ~positive_N]
    pairs = ((w_up @ alike) * w_down).sum(axis=1)
    return np.asarray(((w_up @ wins) * w_down).sum(axis=1) / np.where(pairs > 0, pairs, np.nan))


def average_precision(labels_N: Ints, probs_NC: Floats, weights_BN: Floats) -> Floats:
    """Return the average precision: of the rarer class when there are two, else the mean over classes."""
    n_classes = probs_NC.shape[1]
    counts = np.bincount(labels_N, minlength=n_classes)
    wanted = [int(counts[1] <= counts[0])] if n_classes == 2 else range(n_classes)
    return np.asarray(
        np.mean([binary_average_precision(labels_N == c, probs_NC[:, c], weights_BN) for c in wanted], axis=0)
    )


def binary_average_precision(positive_N: Bools, scores_N: Floats, weights_BN: Floats) -> Floats:
    """Return the average precision (B,) of those who are positive, patients of one score taken together."""
    order = np.argsort(-scores_N, kind="stable")
    last_of_tie = np.append(np.diff(scores_N[order]) != 0, True)
    weights = weights_BN[:, order]
    hits = np.cumsum(weights * positive_N[order], axis=1)[:, last_of_tie]
    drawn = np.cumsum(weights, axis=1)[:, last_of_tie]
    precision = np.divide(hits, drawn, out=np.zeros_like(hits), where=drawn > 0)
    total = hits[:, -1]
    gained = np.diff(hits, axis=1, prepend=0)
    return np.asarray((precision * gained).sum(axis=1) / np.where(total > 0, total, np.nan))


def ece(labels_N: Ints, probs_NC: Floats, weights_BN: Floats) -> Floats:
    """Return the expected calibration error of the top class over 10 equal-width bins, classes counted equally."""
    n_classes = probs_NC.shape[1]
    member_NC, total_BC = _class_weights(labels_N, n_classes, weights_BN)
    balanced_BN = weights_BN * ((1 / total_BC) @ member_NC.T) / n_classes
    confidence_N = probs_NC.max(axis=1)
    right_N = (probs_NC.argmax(axis=1) == labels_N).astype(np.float64)
    bins = np.minimum((confidence_N * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [np.abs(balanced_BN[:, bins == b] @ (right_N - confidence_N)[bins == b]) for b in range(ECE_BINS)]
    return np.asarray(np.sum(gaps, axis=0))


METRICS: dict[str, Metric] = {
    "weighted_log_loss": weighted_log_loss,
    "auc": auc,
    "balanced_accuracy": balanced_accuracy,
    "average_precision": average_precision,
    "brier": brier,
    "ece": ece,
}


def centred(logits_NC: Floats) -> Floats:
    """Return the logits with each row's mean taken off: the same probabilities, comparable between models."""
    return np.asarray(logits_NC - logits_NC.mean(axis=1, keepdims=True))


def softmax(logits_NC: Floats) -> Floats:
    """Return the softmax over the last axis, in float64."""
    logits_NC = np.asarray(logits_NC, np.float64)
    powers = np.exp(logits_NC - logits_NC.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def roc_curve(positive_N: Bools, scores_N: Floats) -> tuple[Floats, Floats]:
    """Return the false and true positive rates at each distinct threshold, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores_N, kind="stable")
    last_of_tie = np.append(np.diff(scores_N[order]) != 0, True)
    ups = np.cumsum(positive_N[order])[last_of_tie]
    downs = np.cumsum(~positive_N[order])[last_of_tie]
    rates = [np.concatenate([[0.0], counts / max(counts[-1], 1)]) for counts in (downs, ups)]
    return rates[0], rates[1]


def confusion(labels_N: Ints, probs_NC: Floats) -> Ints:
    """Return counts (C, C): rows are the true class, columns the most probable one."""
    n_classes = probs_NC.shape[1]
    flat = labels_N * n_classes + probs_NC.argmax(axis=1)
    return np.asarray(np.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes), np.int64)


def r2(values_N: Floats, predicted_N: Floats, weights_BN: Floats) -> Floats:
    """Return 1 minus the squared error over that of the mean (B,); below 0 where the mean would be better."""
    mean_B1 = (weights_BN @ values_N / weights_BN.sum(axis=1))[:, None]
    total_B = (weights_BN * (values_N - mean_B1) ** 2).sum(axis=1)
    return np.asarray(1 - weights_BN @ (values_N - predicted_N) ** 2 / np.where(total_B > 0, total_B, np.nan))


def r2_over(values_N: Floats, predicted_N: Floats, constant_N: Floats, weights_BN: Floats) -> Floats:
    """Return 1 minus the squared error over that of what is said without looking (B,), which itself scores exactly 0.

    Source: Campbell and Thompson, Review of Financial Studies 2008: the R-squared out of sample.
    """
    total_B = weights_BN @ (values_N - constant_N) ** 2
    return np.asarray(1 - weights_BN @ (values_N - predicted_N) ** 2 / np.where(total_B > 0, total_B, np.nan))


def spearman(values_N: Floats, predicted_N: Floats, weights_BN: Floats, folds_N: Ints | None = None) -> Floats:
    """Return the correlation of ranks (B,), ties at their mean; 0 where the predictions are all one.

    Given folds, their mean, each by its patients: models need not have one scale. Folds of one true value do not count.
    """
    folds_N = np.zeros(len(values_N), np.int64) if folds_N is None else folds_N
    told_B, patients_B = np.zeros(len(weights_BN)), np.zeros(len(weights_BN))
    for fold in np.unique(folds_N):
        own_N = folds_N == fold
        weights = weights_BN[:, own_N]
        true_BN, said_BN = (_centred_ranks(of[own_N], weights) for of in (values_N, predicted_N))
        spread_B, said_B = ((weights * of**2).sum(axis=1) for of in (true_BN, said_BN))
        both_B = np.sqrt(spread_B * said_B)
        rho_B = np.where(both_B > 0, (weights * true_BN * said_BN).sum(axis=1) / np.where(both_B > 0, both_B, 1), 0.0)
        size_B = np.where(spread_B > 0, weights.sum(axis=1), 0.0)
        told_B, patients_B = told_B + size_B * rho_B, patients_B + size_B
    return np.asarray(told_B / np.where(patients_B > 0, patients_B, np.nan))


def _centred_ranks(values_N: Floats, weights_BN: Floats) -> Floats:
    """Return the ranks (B, N) among patients who count by weights, ties at their mean, less their mean."""
    above_NN = (values_N[:, None] > values_N[None]) + 0.5 * (values_N[:, None] == values_N[None])
    return np.asarray(weights_BN @ above_NN.T - weights_BN.sum(axis=1, keepdims=True) / 2)


def macro_auc(present_NC: Floats, scores_NC: Floats, weights_BN: Floats, folds_N: Ints | None = None) -> Floats:
    """Return the mean over labels of the area under the ROC curve (B,); unknown (NaN) truths do not count.

    Labels that are always, or never, present do not count either. Given folds, only patients of one are compared.
    """
    folds_N = np.zeros(len(present_NC), np.int64) if folds_N is None else folds_N
    areas_CB = np.full((present_NC.shape[1], len(weights_BN)), np.nan)
    for c, present_N in enumerate(present_NC.T):
        known_N = ~np.isnan(present_N)
        weights, own = weights_BN[:, known_N], present_N[known_N] == 1
        areas_CB[c] = binary_auc(own, scores_NC[known_N, c], weights, folds_N[known_N])
    counted_B = np.isfinite(areas_CB).sum(axis=0)
    return np.asarray(np.nansum(areas_CB, axis=0) / np.where(counted_B > 0, counted_B, np.nan))


def macro_brier(present_NC: Floats, probs_NC: Floats, weights_BN: Floats) -> Floats:
    """Return the mean over labels of the squared error (B,); unknown (NaN) truths do not count."""
    known_NC = ~np.isnan(present_NC)
    errors_BC = weights_BN @ np.where(known_NC, (probs_NC - present_NC) ** 2, 0.0)
    known_BC = weights_BN @ known_NC
    means_BC = np.where(known_BC > 0, errors_BC / np.where(known_BC > 0, known_BC, 1), 0.0)
    counted_B = (known_BC > 0).sum(axis=1)
    return np.asarray(means_BC.sum(axis=1) / np.where(counted_B > 0, counted_B, np.nan))

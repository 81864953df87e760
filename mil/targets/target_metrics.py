"""Metrics of the targets that are not one class of several: pure functions on arrays, higher is better.

NaN where a metric is not defined on the sample (one class only, no comparable pair, no spread).
"""

import numpy as np

from mil.targets.metrics import Floats, Ints, binary_auc, ones


def r2(values_N: Floats, predicted_N: Floats, weights_BN: Floats | None = None) -> Floats:
    """Return 1 minus the squared error over that of the mean (B,); below 0 where the mean would be better."""
    weights_BN = ones(len(values_N)) if weights_BN is None else weights_BN
    mean_B1 = (weights_BN @ values_N / weights_BN.sum(axis=1))[:, None]
    total_B = (weights_BN * (values_N - mean_B1) ** 2).sum(axis=1)
    return np.asarray(1 - weights_BN @ (values_N - predicted_N) ** 2 / np.where(total_B > 0, total_B, np.nan))


def r2_over(values_N: Floats, predicted_N: Floats, constant_N: Floats, weights_BN: Floats | None = None) -> Floats:
    """Return 1 minus the squared error over that of what is said without looking (B,), which itself scores exactly 0.

    Source: Campbell and Thompson, Review of Financial Studies 2008: the R-squared out of sample.
    """
    weights_BN = ones(len(values_N)) if weights_BN is None else weights_BN
    total_B = weights_BN @ (values_N - constant_N) ** 2
    return np.asarray(1 - weights_BN @ (values_N - predicted_N) ** 2 / np.where(total_B > 0, total_B, np.nan))


def spearman(
    values_N: Floats, predicted_N: Floats, weights_BN: Floats | None = None, folds_N: Ints | None = None
) -> Floats:
    """Return the correlation of ranks (B,), ties at their mean; 0 where the predictions are all one.

    Given folds, their mean, each by its patients: models need not have one scale. Folds of one true value do not count.
    """
    weights_BN = ones(len(values_N)) if weights_BN is None else weights_BN
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


def macro_auc(
    present_NC: Floats, scores_NC: Floats, weights_BN: Floats | None = None, folds_N: Ints | None = None
) -> Floats:
    """Return the mean over labels of the area under the ROC curve (B,); unknown (NaN) truths do not count.

    Labels that are always, or never, present do not count either. Given folds, only patients of one are compared.
    """
    weights_BN = ones(len(present_NC)) if weights_BN is None else weights_BN
    folds_N = np.zeros(len(present_NC), np.int64) if folds_N is None else folds_N
    areas_CB = np.full((present_NC.shape[1], len(weights_BN)), np.nan)
    for c, present_N in enumerate(present_NC.T):
        known_N = ~np.isnan(present_N)
        weights, own = weights_BN[:, known_N], present_N[known_N] == 1
        areas_CB[c] = binary_auc(own, scores_NC[known_N, c], weights, folds_N[known_N])
    counted_B = np.isfinite(areas_CB).sum(axis=0)
    return np.asarray(np.nansum(areas_CB, axis=0) / np.where(counted_B > 0, counted_B, np.nan))

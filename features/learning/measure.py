"""Loss and AUC of tiles, and of patients, whose probabilities are the mean of their tiles'."""

import numpy as np

from wsi.arrays import Floats, Ints

SMALLEST = 1e-15
"""Probabilities are clipped to it, as the STRIP AI metric does."""


def weighted_log_loss(probs_NC: Floats, labels_N: Ints) -> float:
    """Return the mean over the classes that are there of the class's mean of -ln p."""
    own = np.clip(probs_NC[np.arange(len(labels_N)), labels_N], SMALLEST, 1 - SMALLEST)
    return float(np.mean([-np.log(own[labels_N == label]).mean() for label in np.unique(labels_N)]))


def auc(probs_NC: Floats, labels_N: Ints) -> float:
    """Return the area under the ROC curve: for two classes of the second, else the mean of one against the rest.

    NaN where fewer than two classes are there.
    """
    from sklearn.metrics import roc_auc_score

    there = np.unique(labels_N)
    if len(there) < 2:
        return float("nan")
    if probs_NC.shape[1] == 2:
        return float(roc_auc_score(labels_N, probs_NC[:, 1]))
    return float(np.mean([roc_auc_score(labels_N == label, probs_NC[:, label]) for label in there]))


def measures(probs_NC: Floats, labels_N: Ints, patients_N: Ints) -> dict[str, float]:
    """Return loss and AUC of tiles and of patients; ``patients_N`` numbers the patients from 0."""
    count = np.bincount(patients_N)
    sums = np.stack([np.bincount(patients_N, column) for column in probs_NC.T], axis=1)
    label_of = np.zeros(len(count), np.int64)
    label_of[patients_N] = labels_N
    means = sums / count[:, None]
    return {
        "val_loss": weighted_log_loss(probs_NC, labels_N),
        "val_tile_auc": auc(probs_NC, labels_N),
        "val_patient_loss": weighted_log_loss(means, label_of),
        "val_patient_auc": auc(means, label_of),
    }

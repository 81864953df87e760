"""Confident learning: which given classes are likely to be wrong, by probabilities of models that had not seen them.

Source: Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70 (2021), arXiv
1911.00068, section 3: a class's threshold is the mean probability that its own members are given; somebody counts as a
confident member of the most probable class whose threshold is reached; whoever is one of another class than the given
one stands off the diagonal of the confident joint, and is a suspect.
"""

import numpy as np

from wsi.arrays import Floats, Ints

NOBODY = -1
"""In place of a class: no threshold is reached."""


def thresholds(labels_N: Ints, probs_NC: Floats) -> Floats:
    """Return the threshold of each class (C,): its mean probability among its members; infinite without any."""
    members_NC = labels_N[:, None] == np.arange(probs_NC.shape[1])
    counts_C = members_NC.sum(axis=0)
    sums_C = np.where(members_NC, probs_NC, 0.0).sum(axis=0)
    return np.asarray(np.where(counts_C > 0, sums_C / np.maximum(counts_C, 1), np.inf))


def confident_classes(labels_N: Ints, probs_NC: Floats) -> Ints:
    """Return the class (N,) of which each is a confident member; `NOBODY` where there is none."""
    reached_NC = probs_NC >= thresholds(labels_N, probs_NC)
    best_N = np.where(reached_NC, probs_NC, -np.inf).argmax(axis=1)
    return np.asarray(np.where(reached_NC.any(axis=1), best_N, NOBODY), np.int64)


def suspects(labels_N: Ints, probs_NC: Floats) -> tuple[Ints, Ints]:
    """Return the rows whose given class is likely to be wrong, and the classes suggested; the surest first.

    They stand off the diagonal of the confident joint, and the suggested class is more probable than the given one,
    which thresholds of a weak model alone do not say. The surest has the least margin: the given class's probability
    less the suggested one's.
    """
    found_N, every = confident_classes(labels_N, probs_NC), np.arange(len(labels_N))
    margins_N = probs_NC[every, labels_N] - probs_NC[every, found_N]
    rows = np.flatnonzero((found_N != NOBODY) & (found_N != labels_N) & (margins_N < 0))
    rows = rows[np.argsort(margins_N[rows], kind="stable")]
    return rows, found_N[rows]

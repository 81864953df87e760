"""Several tables of probabilities of the same patients as one: their mean, or a logistic regression on them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mil.targets.metrics import CLIP, softmax
from wsi.arrays import Floats, Ints

PARTS = 5
"""Parts of the patients: who is told was not fitted on."""


def mean_probs(tables: Sequence[Floats]) -> Floats:
    """Return the probabilities (P, C) of the mean of several tables' log probabilities."""
    return softmax(np.mean([np.log(np.clip(probs, CLIP, 1)) for probs in tables], axis=0))


def stacked(tables: Sequence[Floats], labels_P: Ints, seed: int) -> Floats:
    """Return the probabilities (P, C) of a logistic regression on the tables' logits, fitted on the other patients."""
    from sklearn.model_selection import StratifiedKFold

    logits_PK = stack_inputs(tables)
    parts = int(min(PARTS, np.bincount(labels_P).min()))
    if parts < 2:
        return mean_probs(tables)
    result = np.zeros(tables[0].shape)
    for train, test in StratifiedKFold(parts, shuffle=True, random_state=seed).split(logits_PK, labels_P):
        result[test] = fit_stack(logits_PK[train], labels_P[train]).predict_proba(logits_PK[test])
    return result


def stack_inputs(tables: Sequence[Floats]) -> Floats:
    """Return what the stack takes: the logits (P, K) of every run, each class against the first."""
    logs = [np.log(np.clip(probs, 1e-6, 1)) for probs in tables]
    return np.concatenate([log[:, 1:] - log[:, :1] for log in logs], axis=1)


def fit_stack(logits_PK: Floats, labels_P: Ints) -> Any:
    """Return the logistic regression of the stack, fitted on these patients."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight="balanced", C=1.0, max_iter=1000).fit(logits_PK, labels_P)

"""Conformal sets: the classes that cannot be ruled out, so that the true one is among them as often as promised.

A class is ruled out of a patient where its probability is lower than that of nearly all known patients of that class:
of n of them ``floor(alpha (n + 1))`` may lie below. So each class is held with a probability of 1 - alpha or more, and
not only on average over the classes; a class of fewer than 1 / alpha - 1 known patients is never ruled out. Source:
Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005 (Mondrian predictors); the score is one minus
the class's own probability (Sadinle, Lei and Wasserman, JASA 2019).

The known patients are told by models that had not seen them. A run's own patients are judged by those of the other
folds. That is cross-conformal (Vovk, Annals of Mathematics and AI 2015): the promise is proven for one split model, and
for the mean of several models it is checked by simulation (docs/EVIDENCE.md), not proven.
"""

from collections.abc import Sequence
from math import floor

import numpy as np

from mil.evaluation.bootstrap import draw_groups
from mil.evaluation.decisions.called import exact_at_the_end
from mil.targets.metrics import finite, percentile_interval
from wsi.arrays import Bools, Floats, Ints
from wsi.recipe import Json

ALPHAS = (0.05, 0.1, 0.2)
"""Shares of patients whose true class may be missed."""
_SLACK = 1e-9


def least_probabilities(probs_NC: Floats, labels_N: Ints, alpha: float) -> Floats:
    """Return the probability (C,) below which each class is ruled out; 0: it never is, as too few are known."""
    found = np.zeros(probs_NC.shape[1])
    for c in range(len(found)):
        own = np.sort(probs_NC[labels_N == c, c])
        allowed = floor(alpha * (len(own) + 1) + _SLACK)
        found[c] = own[allowed - 1] if allowed else 0.0
    return found


def sets_of(probs_NC: Floats, least_C: Floats) -> Bools:
    """Return which classes (N, C) are not ruled out."""
    return np.asarray(probs_NC >= least_C)


def sets_by_others(probs_PC: Floats, labels_P: Ints, folds_P: Ints, alpha: float) -> Bools:
    """Return the sets (P, C) of a run's own patients, each by the patients of the other folds."""
    sets_PC = np.ones(probs_PC.shape, bool)
    for fold in np.unique(folds_P):
        own_P = folds_P == fold
        sets_PC[own_P] = sets_of(probs_PC[own_P], least_probabilities(probs_PC[~own_P], labels_P[~own_P], alpha))
    return sets_PC


def coverage(
    sets_PC: Bools, labels_P: Ints, names: Sequence[str], groups: Sequence[str], alpha: float, seed: int = 0
) -> Json:
    """Return how often the true class was held, in each class and in all, and how large the sets were."""
    held_P = sets_PC[np.arange(len(labels_P)), labels_P]
    sizes_P, draws_BP = sets_PC.sum(axis=1), draw_groups(groups, seed)
    n_groups = len(set(groups))
    classes = {name: _share(held_P, labels_P == c, draws_BP, n_groups) for c, name in enumerate(names)}
    return {
        "promised": 1 - alpha,
        "held": _share(held_P, np.ones(len(labels_P), bool), draws_BP, n_groups),
        "classes": classes,
        "one_class": float((sizes_P == 1).mean()),
        "several": float((sizes_P > 1).mean()),
        "none": float((sizes_P == 0).mean()),
        "right_of_one": float(held_P[sizes_P == 1].mean()) if (sizes_P == 1).any() else None,
    }


def _share(held_P: Bools, chosen_P: Bools, draws_BP: Floats, groups: int) -> Json:
    size = int(chosen_P.sum())
    if not size:
        return {"patients": 0, "value": None, "low": None, "high": None}
    total_B = draws_BP @ chosen_P
    value = float(held_P[chosen_P].mean())
    shares_B = draws_BP @ (held_P & chosen_P) / np.where(total_B > 0, total_B, np.nan)
    low, high = exact_at_the_end(value, min(size, groups)) if value in (0.0, 1.0) else percentile_interval(shares_B)
    return {"patients": size, **finite({"value": value, "low": low, "high": high})}

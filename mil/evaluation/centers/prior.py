"""The prior of a center: as many of its patients have a class as its other patients say.

Probabilities are told for equal priors; at the cohort's prevalence they stand for its shares. Where a class is frequent
at one center and rare at another, each center's own shares make them better, honestly so where those shares are known
from other patients than the one who is told, and where a new patient comes from a center that is known, unchanged. They
are counted here on the patients of the other folds, never on those who are told; how far a center is believed against
all is chosen on those same others, each told by the rest. Under folds of whole centers none is known: nothing moves.
"""

from collections.abc import Sequence

import numpy as np

from mil.evaluation.bootstrap import estimate
from mil.evaluation.decisions.recalibration import log_odds
from mil.targets.base import Target
from mil.targets.metrics import CLIP, one_hot
from mil.targets.questions import at_prevalence
from wsi.arrays import Floats, Ints
from wsi.recipe import Json

BELIEFS = (1.0, 2.0, 5.0, 10.0, 30.0, 100.0, np.inf)
"""Patients like all of them that are added to each center: infinitely many, and centers are not told apart."""


def center_priors(labels_P: Ints, centers: Sequence[str], folds_P: Ints, n_classes: int) -> tuple[Floats, list[float]]:
    """Return each patient's prior (P, C) by the other folds' patients of the same center, and each fold's belief."""
    names = np.unique(np.array(centers, dtype=object).astype(str), return_inverse=True)[1]
    member_PC = one_hot(labels_P, n_classes)
    prior_PC, beliefs = np.zeros(member_PC.shape), []
    for fold in np.unique(folds_P):
        others, own = folds_P != fold, folds_P == fold
        counts_KC = np.stack([member_PC[others & (names == k)].sum(axis=0) for k in range(int(names.max()) + 1)])
        share_C = member_PC[others].mean(axis=0)
        belief = _belief(counts_KC, member_PC[others], names[others], share_C)
        beliefs.append(belief)
        prior_PC[own] = _shares(counts_KC[names[own]], share_C, belief)
    return np.clip(prior_PC, CLIP, 1), beliefs


def priors_of_new(
    labels_P: Ints, centers: Sequence[str], new_centers: Sequence[str], n_classes: int
) -> tuple[Floats, float]:
    """Return each new patient's prior (N, C) by the known patients of the same center, and the belief.

    Known patients of whom no center is told say nothing of one; a new patient of a center that is not known, or not
    told, has the shares of all known ones.
    """
    told_P = np.array([bool(center) for center in centers])
    member_PC = one_hot(labels_P, n_classes)
    share_C = member_PC.mean(axis=0)
    names = sorted({center for center in centers if center})
    number = {name: k for k, name in enumerate(names)}
    home_P = np.array([number.get(center, -1) for center in centers])
    counts_KC = np.array([member_PC[home_P == k].sum(axis=0) for k in range(len(names))]).reshape(-1, n_classes)
    belief = _belief(counts_KC, member_PC[told_P], home_P[told_P], share_C) if names else np.inf
    none_C = np.zeros(n_classes)
    counts_NC = np.array([counts_KC[number[own]] if own in number else none_C for own in new_centers])
    return np.clip(_shares(counts_NC, share_C, belief), CLIP, 1), belief


def _shares(counts_PC: Floats, share_C: Floats, belief: float) -> Floats:
    if not np.isfinite(belief):
        return np.tile(share_C, (len(counts_PC), 1))
    return np.asarray((counts_PC + belief * share_C) / (counts_PC.sum(axis=1, keepdims=True) + belief))


def _belief(counts_KC: Floats, member_PC: Floats, names_P: Ints, share_C: Floats) -> float:
    """Return the belief under which the patients, each left out of the counts, are told best; of equal ones the last.

    The share of all is taken as it is: one patient moves it little.
    """
    left_PC = counts_KC[names_P] - member_PC
    losses = [
        -float(np.log(np.clip((_shares(left_PC, share_C, belief) * member_PC).sum(axis=1), CLIP, 1)).sum())
        for belief in BELIEFS
    ]
    return BELIEFS[max(k for k, loss in enumerate(losses) if loss <= min(losses) + 1e-9)]


def told_by_center(
    truth: Target, told_PC: Floats, centers: Sequence[str], folds_P: Ints, draws_BP: Floats
) -> Json | None:
    """Return what the centers' own priors change, of a target with classes and two known centers; else None.

    ``log_loss`` counts each patient once, at the cohort's prevalence and at each center's; ``gain`` is the first less
    the second, with its interval over draws of patients; ``auc`` of two classes is that of all patients together.
    """
    if not truth.groups or len({center for center in centers if center}) < 2 or (truth.groups_N < 0).any():
        return None
    own_PC, beliefs = center_priors(truth.groups_N, centers, folds_P, len(truth.groups))
    return _changed(truth.groups_N, told_PC, truth.blind(folds_P), own_PC, beliefs, draws_BP)


def told_by_known_center(
    known_labels_K: Ints,
    known_centers: Sequence[str],
    truth: Target,
    told_PC: Floats,
    centers: Sequence[str],
    draws_BP: Floats,
) -> Json | None:
    """Return what the shares of known patients of the same centers change for others; None where no center is known.

    As `told_by_center`; the ``cohort`` is that of the known patients, and nothing is counted on those who are told.
    ``patients``: how many come from a known center.
    """
    both = {center for center in centers if center} & set(known_centers)
    if not both or (truth.groups_N < 0).any():
        return None
    own_PC, belief = priors_of_new(known_labels_K, known_centers, centers, len(truth.groups))
    whole_PC = np.tile(one_hot(known_labels_K, len(truth.groups)).mean(axis=0), (len(centers), 1))
    found = _changed(truth.groups_N, told_PC, whole_PC, own_PC, [belief], draws_BP)
    return {**found, "patients": sum(center in both for center in centers)}


def _changed(
    labels_P: Ints, told_PC: Floats, whole_PC: Floats, own_PC: Floats, beliefs: Sequence[float], draws_BP: Floats
) -> Json:
    tables = {"cohort": at_prevalence(told_PC, np.clip(whole_PC, CLIP, 1)), "center": at_prevalence(told_PC, own_PC)}
    rows = np.arange(len(labels_P))
    losses = {name: -np.log(np.clip(table[rows, labels_P], CLIP, 1)) for name, table in tables.items()}
    return {
        "log_loss": {name: float(loss_P.mean()) for name, loss_P in losses.items()},
        "gain": estimate(lambda w: w @ (losses["cohort"] - losses["center"]) / w.sum(axis=1), draws_BP),
        "beliefs": [None if not np.isfinite(belief) else belief for belief in beliefs],
        "moved": _moved(own_PC, whole_PC),
    }


def _moved(own_PC: Floats, whole_PC: Floats) -> list[float]:
    """Return the least and the greatest shift of the log odds of the last class."""
    ends: Floats = log_odds(own_PC[:, -1]) - log_odds(whole_PC[:, -1])
    return [float(ends.min()), float(ends.max())]

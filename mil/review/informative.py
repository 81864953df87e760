"""How much a patient's label would teach a run: pure functions of what its models say.

Sources: Settles, Active Learning Literature Survey, University of Wisconsin 1648 (2009), section 3: uncertainty
sampling by entropy and margin (3.1), query by committee by the mean divergence from its consensus (3.2), expected
gradient length (3.3); Brinker, Incorporating Diversity in Active Learning with Support Vector Machines, ICML 2003.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from mil.models.model import BagModel
from mil.ragged.packing import BagRows, pack
from mil.targets.judged import entropy
from wsi.arrays import Bools, Floats

MOST_ROWS = 20_000
"""Tiles of a patient, from their beginning on evenly drawn, by which the change of a model is judged."""


def uncertainty(kind: str, told_PC: Floats) -> Floats:
    """Return how unsure probabilities (P, C) are, 0 to 1: their entropy, of labels the mean of each label's."""
    return np.mean(_each(kind, told_PC, entropy), axis=0)


def margin(told_PC: Floats) -> Floats:
    """Return by how much the most probable class is ahead of the second (P,)."""
    sorted_PC = np.sort(told_PC, axis=1)
    return np.asarray(sorted_PC[:, -1] - sorted_PC[:, -2])


def disagreement(kind: str, told_MPC: Floats, asked_MP: Bools) -> Floats:
    """Return how far the models that are asked of each patient are apart (P,); NaN where fewer than two are.

    Of classes and labels the mean Kullback-Leibler divergence from the models' mean, as a share of the highest
    possible; of other targets the standard deviation of what is told.
    """
    weights_MP1 = np.where(asked_MP, 1.0, 0.0)[..., None]
    counts_P = asked_MP.sum(axis=0)
    mean_PC = (told_MPC * weights_MP1).sum(axis=0) / np.maximum(counts_P, 1)[:, None]
    if kind in ("classes", "labels"):
        own_MP = np.stack([uncertainty(kind, told_PC) for told_PC in told_MPC])
        apart_P = uncertainty(kind, mean_PC) - (own_MP * asked_MP).sum(axis=0) / np.maximum(counts_P, 1)
    else:
        square_PC = (np.square(told_MPC - mean_PC) * weights_MP1).sum(axis=0) / np.maximum(counts_P, 1)[:, None]
        apart_P = np.sqrt(square_PC).mean(axis=1)
    return np.asarray(np.where(counts_P > 1, np.maximum(apart_P, 0.0), np.nan))


def _each(kind: str, told_PC: Floats, measure: Callable[[Floats], Floats]) -> list[Floats]:
    """Return a measure of the classes' probabilities, or of each label's and its complement."""
    if kind == "classes":
        return [measure(told_PC)]
    return [measure(np.stack([own_P, 1 - own_P], axis=1)) for own_P in told_PC.T]


def expected_change(model: BagModel, bags: Sequence[BagRows], told_C: Floats, device: str) -> float:
    """Return the expected length of the gradient that a patient's label would give to all weights of a model.

    The mean over the classes, by their probabilities, of the gradient's length were the patient of that class; the loss
    is the mean cross-entropy of the patient's slides, without dropout.
    """
    packed = pack([_thinned(bag, MOST_ROWS // len(bags)) for bag in bags], device)
    weights, lengths = [own for own in model.parameters() if own.requires_grad], []
    for number in range(len(told_C)):
        logits_SC = model(packed.rows_ND, packed.offsets).logits_BC
        truth_S = torch.full((len(bags),), number, device=logits_SC.device)
        parts = torch.autograd.grad(cross_entropy(logits_SC.float(), truth_S), weights, allow_unused=True)
        lengths.append(sum(float(own.square().sum()) for own in parts if own is not None) ** 0.5)
    return float(np.dot(told_C, lengths))


def _thinned(bag: BagRows, most: int) -> BagRows:
    if len(bag) <= most:
        return bag
    return np.asarray(bag)[np.linspace(0, len(bag) - 1, max(1, most)).astype(np.int64)]


def chosen(scores_P: Floats, points_PD: Floats | None, most: int) -> tuple[list[int], list[float]]:
    """Return whom to look at, in order, and how far each is from the nearest one before (1 and more: far).

    Without ``points_PD`` those of the highest scores. With them each next one has the highest product of score and
    distance to the nearest one already chosen; distances are in units of the median one, and count up to 1. Scores are
    0 or more; those that are NaN come last, by their place.
    """
    order = np.argsort(np.where(np.isnan(scores_P), np.inf, -scores_P), kind="stable")
    if points_PD is None:
        return order[:most].tolist(), [1.0] * min(most, len(order))
    scale, near_P = _median_distance(points_PD), np.full(len(scores_P), np.inf)
    left, found, distances = np.ones(len(scores_P), bool), list[int](), list[float]()
    while len(found) < min(most, len(scores_P)):
        worth_P = np.where(np.isnan(scores_P), -1.0, scores_P * np.minimum(near_P, 1.0))
        best = max(np.flatnonzero(left)[np.argsort(-scores_P[left], kind="stable")].tolist(), key=lambda i: worth_P[i])
        found.append(best)
        distances.append(float(near_P[best]))
        left[best] = False
        near_P = np.minimum(near_P, np.linalg.norm(points_PD - points_PD[best], axis=1) / scale)
    return found, distances


def _median_distance(points_PD: Floats, most: int = 500) -> float:
    """Return the median distance of two points, of a sample of them; 1 where all are one."""
    some = points_PD[np.linspace(0, len(points_PD) - 1, min(most, len(points_PD))).astype(np.int64)]
    square_NN = np.maximum(np.square(some).sum(1)[:, None] + np.square(some).sum(1) - 2 * some @ some.T, 0.0)
    apart = np.sqrt(square_NN[np.triu_indices(len(some), 1)])
    return float(np.median(apart)) or 1.0 if len(apart) else 1.0

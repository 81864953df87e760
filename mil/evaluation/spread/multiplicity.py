"""How often one looked: a p against chance, and p values that know of the other looks."""

from collections.abc import Sequence

import numpy as np

from mil.targets.base import Measure, Target
from mil.targets.metrics import midranks, ones
from wsi.arrays import Bools, Floats, Ints

PERMUTATIONS, FEWER = 999, 199
"""Deals; and where each needs the metric anew of more than `MANY` patients, whose pairs are looked at."""
MANY = 500
OUT_OF_FOLD = 2**0.5
"""By how much the deals of a cross-validation lie too close together. The models of two folds test each other's
patients, so that a chance likeness of two patients counts twice, which no dealing of finished answers knows: for linear
models on noise the metric's variance is twice that of the deals."""


def holm(p_K: Sequence[float], looks: int = 0) -> list[float]:
    """Return p values corrected for all of them (Holm, Scandinavian Journal of Statistics 1979); NaN stays NaN.

    ``looks``: how many there were, where these are not all: the error is held for the ones that are not shown, too.
    """
    known = [k for k, p in enumerate(p_K) if p == p]
    left = max(looks, len(known))
    found, least = [float("nan")] * len(p_K), 0.0
    for rank, k in enumerate(sorted(known, key=lambda k: p_K[k])):
        least = max(least, min(1.0, (left - rank) * p_K[k]))
        found[k] = least
    return found


def bonferroni(p: float, looks: int) -> float:
    """Return a p corrected for so many looks."""
    return min(1.0, p * max(1, looks))


def deals_of(truth: Target, measure_name: str, patients: int) -> int:
    """Return how often answers are dealt anew."""
    return PERMUTATIONS if _by_ranks(truth, measure_name) or patients <= MANY else FEWER


def _by_ranks(truth: Target, measure_name: str) -> bool:
    return len(truth.groups) == 2 and measure_name == "auc"


def against_chance(
    truth: Target,
    told_PC: Floats,
    folds_P: Ints,
    measure_name: str,
    seed: int,
    blind_PC: Floats | None = None,
) -> float | None:
    """Return the one-sided p that a metric is above chance: what is told is dealt anew among the patients of a fold.

    None where the metric is not defined. The models are not trained anew: the p is of these answers. Out of fold it
    knows of `OUT_OF_FOLD`. ``blind_PC``: what
    is said of them without looking, where it is not what the other folds say.
    """
    rng = np.random.default_rng(seed)
    if _by_ranks(truth, measure_name):
        positive_P = truth.groups_N == 1
        dealt = _areas(positive_P, told_PC[:, 1], folds_P, rng)
    else:
        numbers = range(deals_of(truth, measure_name, len(folds_P)) + 1)
        blind_PC = truth.blind(folds_P) if blind_PC is None else blind_PC
        dealt = np.array([_dealt(truth, told_PC, folds_P, blind_PC, measure_name, rng, k) for k in numbers])
    if not np.isfinite(dealt[0]):
        return None
    wider = OUT_OF_FOLD if len(np.unique(folds_P)) > 1 else 1.0
    others = np.mean(dealt[1:]) + wider * (dealt[1:] - np.mean(dealt[1:]))
    return float((1 + (others >= dealt[0] - 1e-12).sum()) / len(dealt))


def _dealt(
    truth: Target,
    told_PC: Floats,
    folds_P: Ints,
    blind_PC: Floats,
    name: str,
    rng: np.random.Generator,
    number: int,
) -> float:
    order = _orders(folds_P, rng, 1)[0] if number else np.arange(len(folds_P))
    measure: Measure = truth.measures(told_PC[order], folds_P, blind_PC)[name]
    return float(measure(ones(len(folds_P)))[0])


def _orders(folds_P: Ints, rng: np.random.Generator, count: int) -> Ints:
    """Return orders (count, P) of the patients that leave everybody's place in the same fold."""
    orders = np.tile(np.arange(len(folds_P)), (count, 1))
    for fold in np.unique(folds_P):
        own = np.flatnonzero(folds_P == fold)
        orders[:, own] = rng.permuted(orders[:, own], axis=1)
    return orders


def _areas(positive_P: Bools, told_P: Floats, folds_P: Ints, rng: np.random.Generator) -> Floats:
    """Return the area within folds, first as it is, then for each deal: fold by fold from the sum of ranks."""
    orders = np.concatenate([np.arange(len(folds_P))[None], _orders(folds_P, rng, PERMUTATIONS)])
    won, pairs = np.zeros(len(orders)), 0
    for fold in np.unique(folds_P):
        own = np.flatnonzero(folds_P == fold)
        ups = int(positive_P[own].sum())
        ranks_P = np.zeros(len(folds_P))
        ranks_P[own] = midranks(told_P[own])
        won += ranks_P[orders[:, own[positive_P[own]]]].sum(axis=1) - ups * (ups + 1) / 2
        pairs += ups * (len(own) - ups)
    return np.asarray(won / pairs if pairs else np.full(len(orders), np.nan))

"""What is left when only patients of one center are compared, and what the mean over centers would be.

A model that knows the center ranks patients of a center with much of the disease above those of one with little:
pooled, that counts. Within a center, nothing is won by knowing it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mil.evaluation.bootstrap import estimate
from mil.evaluation.spread.random_effects import random_effects
from mil.targets.base import Measure, Target
from mil.targets.metrics import finite, ones
from wsi.arrays import Bools, Floats, Ints
from wsi.recipe import Json

LEAST = 5
"""Patients of a center, to be judged by itself; and where there are classes..."""
LEAST_OF_EACH = 3
MeasureIn = Callable[[Ints], Measure]
"""A metric that compares patients of one stratum only, by the strata."""


def strata_of(centers: Sequence[str], folds_P: Ints) -> Ints:
    """Return a number for each pair of center and fold, (P,) int64; patients without a center are one."""
    pairs = np.array([f"{fold}|{center}" for center, fold in zip(centers, folds_P.tolist(), strict=True)])
    return np.asarray(np.unique(pairs, return_inverse=True)[1], np.int64)


def within_centers(
    measure_in: MeasureIn, truth: Target, centers: Sequence[str], folds_P: Ints, draws_BP: Floats
) -> Json | None:
    """Return the metric within centers, each center's, and the mean over centers as random effects.

    Patients of one center *and* fold are compared: models of different folds need not have one scale. The pooled form
    counts every pair once, so that a center weighs as its pairs do. None without two known centers.

    Parameters
    ----------
    draws_BP
        How often each patient is drawn, for intervals.
    """
    names = sorted({center for center in centers if center})
    if len(names) < 2:
        return None
    known_P = np.array([bool(center) for center in centers])
    measure = measure_in(strata_of(centers, folds_P))
    rows = [_center(name, measure, truth, np.array([own == name for own in centers]), draws_BP) for name in names]
    judged = [row for row in rows if row["value"] is not None and not row["few"] and row["variance"] is not None]
    pooled = estimate(lambda weights_BP: measure(weights_BP * known_P), draws_BP, pairs=True)
    return {"pooled": pooled, "centers": rows, "over_centers": _over(judged), "left_out": len(rows) - len(judged)}


def _center(name: str, measure: Measure, truth: Target, own_P: Bools, draws_BP: Floats) -> Json:
    value = float(measure(ones(len(own_P)) * own_P)[0])
    drawn = measure(draws_BP * own_P)
    drawn = drawn[np.isfinite(drawn)]
    variance = float(drawn.var(ddof=1)) if len(drawn) > len(draws_BP) / 2 else np.nan
    counts = (
        np.bincount(truth.groups_N[own_P], minlength=len(truth.groups)) if truth.groups else np.array([own_P.sum()])
    )
    few = int(own_P.sum()) < LEAST or (bool(truth.groups) and int(counts.min()) < LEAST_OF_EACH)
    told = finite({"value": value, "variance": variance})
    return {"center": name, "patients": int(own_P.sum()), "few": few, "worth": _worth(counts), **told}


def _worth(counts: Ints) -> float:
    """Return how many patients' worth a center is: the harmonic mean of the classes' numbers, over their number."""
    return float(1 / (1 / counts).sum()) if counts.min() > 0 else 0.0


def _over(judged: Sequence[Json]) -> Json | None:
    """Return the mean over the centers that can be judged.

    A few patients tell their own variance badly, and none at all where all pairs are right: centers share one variance
    per patient's worth.
    """
    if len(judged) < 2:
        return None
    values, variances, worth = (np.array([row[key] for row in judged]) for key in ("value", "variance", "worth"))
    each = float((variances * worth * worth).sum() / worth.sum())
    found = random_effects(values, each / worth) if each > 0 else None
    return None if found is None else found.told()

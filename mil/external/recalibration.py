"""Recalibration in the large: what one number, fitted on the new cohort, would mend; apart from what the run tells.

Probabilities for the prevalence of the training get one number added to their log odds: their mean becomes the share
that is there. It is judged on patients that it was not fitted on (ten parts of the groups). Nothing of the run changes.
"""

from collections.abc import Sequence

import numpy as np

from mil.evaluation.decisions.recalibration import log_odds, slope_and_intercept
from mil.targets.metrics import CLIP
from mil.targets.questions import Question
from wsi.arrays import Bools, Floats, Ints
from wsi.recipe import Json

PARTS = 10


def recalibrated(questions: Sequence[Question], groups: Sequence[str], seed: int) -> list[Json]:
    """Return for each question what was told, what is there, the number, and what errors it leaves."""
    numbers = np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)[1]
    part_G = np.random.default_rng(seed).permutation(int(numbers.max()) + 1) % PARTS
    return [_one(q, part_G[numbers]) for q in questions]


def _one(q: Question, part_P: Ints) -> Json:
    positive, told, parts = q.positive_P[q.known_P], q.real_P[q.known_P], part_P[q.known_P]
    both = bool(positive.any() and not positive.all())
    own = float(slope_and_intercept(positive, told, np.ones((1, len(told))))[1][0]) if both else None
    found: Json = {
        "question": q.name,
        "told": float(told.mean()),
        "there": float(positive.mean()),
        "number": own,
        "before": _errors(positive, told),
        "after": None,
    }
    moved = _moved_by_others(positive, told, parts) if both else None
    return found if moved is None else {**found, "after": _errors(positive, moved)}


def _moved_by_others(positive_P: Bools, told_P: Floats, part_P: Ints) -> Floats | None:
    """Return the probabilities moved by the number that the other parts' patients give; None where one lacks a kind."""
    parts = np.unique(part_P)
    if len(parts) < 2:
        return None
    weights = np.array([(part_P != part).astype(np.float64) for part in parts])
    numbers = slope_and_intercept(positive_P, told_P, weights)[1]
    if not np.isfinite(numbers).all():
        return None
    odds_P = log_odds(told_P) + numbers[np.searchsorted(parts, part_P)]
    return np.asarray(0.5 * (1 + np.tanh(0.5 * odds_P)))


def _errors(positive_P: Bools, told_P: Floats) -> Json:
    right_P = np.clip(np.where(positive_P, told_P, 1 - told_P), CLIP, 1)
    return {"brier": float(np.square(positive_P - told_P).mean()), "log_loss": float(-np.log(right_P).mean())}

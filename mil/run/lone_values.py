"""Single values so far from all others that they decide every squared error, as those of a typing error do."""

from collections.abc import Sequence

import numpy as np

from mil.targets import Target
from mil.targets.value import ValueTarget
from wsi.arrays import Bools, Floats, Ints

FAR = 5.0
"""Gaps of more than so many times the range of all other values are told: docs/EVIDENCE.md has how often honest
values have one."""
MOST = 3
"""So many patients at one end stand alone at the most; of fewer than 30 a tenth."""
JUDGED = {
    "r2_pooled": "R\N{SUPERSCRIPT TWO} against the mean of those who are judged",
    "mean_absolute_error": "mean absolute error",
}
"""Metrics that are told with and without: the training's own mean is spoilt by such a value, and flatters a model."""
DECIDED = "one value may decide the numbers"


def lone(values_N: Floats) -> Ints:
    """Return the places of values at either end that are parted from all others by more than `FAR` of their range."""
    order = np.argsort(values_N, kind="stable")
    sorted_N, found = values_N[order], np.zeros(0, np.int64)
    for count in range(1, min(MOST, len(values_N) // 10) + 1):
        for ends, rest, gap in (
            (order[:count], sorted_N[count:], sorted_N[count] - sorted_N[count - 1]),
            (order[-count:], sorted_N[:-count], sorted_N[-count] - sorted_N[-count - 1]),
        ):
            if gap > FAR * np.ptp(rest) > 0:
                found = ends
    return np.sort(found)


def about_lone(
    truth: Target, ids: Sequence[str], told_PC: Floats, blind_PC: Floats, folds_P: Ints, scored_P: Bools
) -> str:
    """Return who has a value far from all others, and the metrics with and without them; empty where nobody has.

    ``told_PC``, ``blind_PC``: what the run and the training's mean say. ``scored_P``: who counts in the metrics.
    """
    if not isinstance(truth, ValueTarget):
        return ""
    alone = lone(truth.values_N)
    if not len(alone):
        return ""
    with_P = scored_P.astype(np.float64)
    without_P = with_P.copy()
    without_P[alone] = 0
    others, measures = np.delete(truth.values_N, alone), truth.measures(told_PC, folds_P, blind_PC)
    numbers = []
    for name, said in JUDGED.items():
        one, other = measures[name](np.stack([with_P, without_P])).tolist()
        numbers.append(f"{said} {one:.3g} with and {other:.3g} without")
    who = ", ".join(f"{ids[i]} ({truth.values_N[i]:.6g})" for i in alone)
    return (
        f"the value of {who} lies far from all others ({others.min():.4g} to {others.max():.4g}): if that is no typing "
        f"error, the numbers hang on it ({'; '.join(numbers)}, by the same models); if it is one, correct it and train "
        "again, as the models have learnt from it"
    )

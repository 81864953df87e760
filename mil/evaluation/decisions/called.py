"""How good a yes-or-no answer is: pure functions of who is called, each over many sets of patient weights at once.

Shapes as in `mil.targets.metrics`: every measure returns (B,), NaN where a draw has nobody in its denominator.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from mil.targets.base import Measure
from mil.targets.metrics import finite, ones, percentile_interval
from wsi.arrays import Bools, Floats
from wsi.recipe import Json

Cells = tuple[Floats, Floats, Floats, Floats]
"""True and false positives, false and true negatives, (B,) each."""

_Z = 1.959963984540054
"""Of the normal distribution's 97.5 %."""


def cells(positive_N: Bools, called_N: Bools, weights_BN: Floats) -> Cells:
    """Return the four cells of the table of truth and answer."""
    pairs = [(True, True), (False, True), (True, False), (False, False)]
    counted = [weights_BN @ ((positive_N == has) & (called_N == said)).astype(np.float64) for has, said in pairs]
    return counted[0], counted[1], counted[2], counted[3]


def _over(part_B: Floats, whole_B: Floats) -> Floats:
    return np.asarray(part_B / np.where(whole_B > 0, whole_B, np.nan))


def _mcc(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> Floats:
    """Return Matthews' correlation; 0 where one answer is given to all, as its limit is."""
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    one_class = (tp + fn == 0) | (tn + fp == 0)
    found = np.where(spread > 0, (tp * tn - fp * fn) / np.where(spread > 0, spread, 1), 0.0)
    return np.asarray(np.where(one_class, np.nan, found))


_FORMULAS: Mapping[str, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "sensitivity": lambda tp, fp, fn, tn: _over(tp, tp + fn),
    "specificity": lambda tp, fp, fn, tn: _over(tn, tn + fp),
    "ppv": lambda tp, fp, fn, tn: _over(tp, tp + fp),
    "npv": lambda tp, fp, fn, tn: _over(tn, tn + fn),
    "f1": lambda tp, fp, fn, tn: _over(2 * tp, 2 * tp + fp + fn),
    "mcc": _mcc,
}
_SHARE_OF: Mapping[str, tuple[int, int]] = {"sensitivity": (0, 2), "specificity": (3, 1), "ppv": (0, 1), "npv": (3, 2)}
"""Of which cells a share is the first over both."""


def measures(positive_N: Bools, called_N: Bools) -> dict[str, Measure]:
    """Return sensitivity, specificity, PPV, NPV, F1 and MCC by name."""

    def measured(name: str, weights_BN: Floats) -> Floats:
        return _FORMULAS[name](*cells(positive_N, called_N, weights_BN))

    return {name: partial(measured, name) for name in _FORMULAS}


def filled(drawn: Cells) -> Cells:
    """Return the cells of draws, each with a draw of Gamma(1/2) added, what Jeffreys' prior says of it unseen.

    A draw of patients never fills a cell that is empty, and few fill it too evenly. Source: Goutte and Gaussier, ECIR
    2005, for F1 by draws of the cells with that prior.
    """
    unseen = np.random.default_rng(0).standard_gamma(0.5, size=(4, len(drawn[0])))
    tp, fp, fn, tn = (own + more.reshape(-1, *[1] * (own.ndim - 1)) for own, more in zip(drawn, unseen, strict=True))
    return tp, fp, fn, tn


def told_of_calls(positive_N: Bools, called_N: Bools, draws_BN: Floats, groups: int | None = None) -> Json:
    """Return the four cells, and each measure with its 95 % interval.

    Shares have Wilson's score interval (JASA 1927), which holds the truth as often as it says of few patients, too; F1
    and MCC that over draws of patients (`filled`). ``groups``: how many there are where rows hang together; then
    shares have theirs over the draws. A share of 0 or 1 has the exact one (Clopper and Pearson, Biometrika 1934) of the
    patients concerned, or of the groups where these are fewer: whoever is drawn does not change it.
    """
    counts = cells(positive_N, called_N, ones(len(positive_N)))
    found: Json = {name: int(own[0]) for name, own in zip(("tp", "fp", "fn", "tn"), counts, strict=True)}
    drawn = cells(positive_N, called_N, draws_BN)
    for name, formula in _FORMULAS.items():
        value, (low, high) = (
            float(formula(*counts)[0]),
            percentile_interval(formula(*(drawn if name in _SHARE_OF else filled(drawn)))),
        )
        if name in _SHARE_OF and value in (0.0, 1.0):
            size = int(sum(counts[cell][0] for cell in _SHARE_OF[name]))
            low, high = exact_at_the_end(value, min(size, groups or size))
        elif name in _SHARE_OF and groups is None:
            low, high = wilson(value, int(sum(counts[cell][0] for cell in _SHARE_OF[name])))
        found[name] = finite({"value": value, "low": low, "high": high})
    return found


def wilson(share: float, size: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a share of so many; NaN of none."""
    if not size:
        return float("nan"), float("nan")
    middle = (share + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    reach = _Z * (share * (1 - share) / size + _Z**2 / (4 * size**2)) ** 0.5 / (1 + _Z**2 / size)
    return middle - reach, middle + reach


def exact_at_the_end(share: float, size: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share of 0 or 1 of so many."""
    width = 0.025 ** (1 / size)
    return (width, 1.0) if share == 1 else (0.0, 1 - width)

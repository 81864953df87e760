"""Where to cut: from which probability on a patient counts as having it, chosen on patients who are not judged by it.

``youden``             sensitivity + specificity is the highest (Youden, Cancer 1950)
``sensitivity=0.95``   the highest cut at which 95 % of new patients who have it are expected to be found
``specificity=0.95``   the lowest cut at which 95 % of new patients who have it not are expected to be left alone
``cost=10``            the least cost, where a patient who is missed costs as much as 10 false alarms

A sensitivity that n patients show is not what the next ones will: of those who have it, ``floor((n + 1)(1 - s))`` lie
below the cut, so that a new one lies below it with a probability of 1 - s at most, whatever the scores' distribution
(Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005, section 2.2: ranks of exchangeable scores).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor

import numpy as np

from wsi.arrays import Bools, Floats
from wsi.errors import RequestError

DEFAULT = ("youden", "sensitivity=0.95", "specificity=0.95")
FORMS = "expected youden, sensitivity=SHARE, specificity=SHARE or cost=NUMBER"
_SLACK = 1e-9
"""So that (19 + 1) * (1 - .95) is 1."""


@dataclass(frozen=True, slots=True)
class Rule:
    """By what a cut is chosen."""

    kind: str
    value: float = 0.0

    def __str__(self) -> str:
        """Return it for a reader."""
        if self.kind == "youden":
            return "highest Youden index"
        if self.kind == "cost":
            return f"least cost, a miss = {self.value:g} false alarms"
        return f"{self.kind} of {self.value * 100:g} %"

    @property
    def text(self) -> str:
        """Return it as it is asked for."""
        return self.kind if self.kind == "youden" else f"{self.kind}={self.value:g}"


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut, and on whom it was chosen."""

    at: float
    """A patient counts as having it from this probability on."""
    positives: int
    negatives: int
    expected: float | None
    """Of a wanted sensitivity or specificity: what may be expected of new patients; less than wanted of too few."""


def parse_rule(text: str) -> Rule:
    """Read a rule such as ``sensitivity=0.95``; `RequestError` where it is none."""
    kind, sign, number = text.strip().partition("=")
    if kind == "youden" and not sign:
        return Rule(kind)
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if kind in ("sensitivity", "specificity") and 0 < value < 1:
        return Rule(kind, value)
    if kind == "cost" and 0 < value < float("inf"):
        return Rule(kind, value)
    raise RequestError(f"--operating {text}: {FORMS}, a share above 0 and below 1, a number above 0")


def choose_cut(rule: Rule, positive_N: Bools, told_N: Floats) -> Cut | None:
    """Return the cut by a rule on these patients; None where nobody has it, or everybody.

    Cuts lie half-way between two neighbouring probabilities, or between the outermost and 0 or 1.
    """
    ups, downs = told_N[positive_N], told_N[~positive_N]
    if not len(ups) or not len(downs):
        return None
    cuts = candidates(told_N)
    missed_K = np.searchsorted(np.sort(ups), cuts, side="left")
    spared_K = np.searchsorted(np.sort(downs), cuts, side="left")
    at, expected = _CHOICES[rule.kind](rule.value, missed_K, spared_K, (len(ups), len(downs)), cuts)
    return Cut(float(cuts[at]), len(ups), len(downs), expected)


def candidates(told_N: Floats) -> Floats:
    """Return the cuts that differ in whom they call, ascending."""
    values = np.unique(told_N)
    edges = np.concatenate([[min(0.0, values[0])], values, [max(1.0, values[-1])]])
    return np.asarray((edges[1:] + edges[:-1]) / 2)


_Choice = Callable[[float, "np.ndarray", "np.ndarray", tuple[int, int], Floats], tuple[int, float | None]]


def _youden(_: float, missed_K: Floats, spared_K: Floats, sizes: tuple[int, int], cuts: Floats) -> tuple[int, None]:
    return _best(spared_K / sizes[1] - missed_K / sizes[0], cuts), None


def _cost(miss: float, missed_K: Floats, spared_K: Floats, sizes: tuple[int, int], cuts: Floats) -> tuple[int, None]:
    return _best(-(miss * missed_K + sizes[1] - spared_K), cuts), None


def _best(worth_K: Floats, cuts: Floats) -> int:
    """Return the cut worth most; of equal ones that nearest to a half."""
    best = np.flatnonzero(worth_K >= worth_K.max() - 1e-12)
    return int(best[np.abs(cuts[best] - 0.5).argmin()])


def _sensitivity(
    wanted: float, missed_K: Floats, spared_K: Floats, sizes: tuple[int, int], cuts: Floats
) -> tuple[int, float]:
    allowed = floor((sizes[0] + 1) * (1 - wanted) + _SLACK)
    below = max(allowed, 1) - 1
    return int(np.flatnonzero(missed_K <= below).max()), 1 - max(allowed, 1) / (sizes[0] + 1)


def _specificity(
    wanted: float, missed_K: Floats, spared_K: Floats, sizes: tuple[int, int], cuts: Floats
) -> tuple[int, float]:
    allowed = floor((sizes[1] + 1) * (1 - wanted) + _SLACK)
    above = max(allowed, 1) - 1
    return int(np.flatnonzero(sizes[1] - spared_K <= above).min()), 1 - max(allowed, 1) / (sizes[1] + 1)


_CHOICES: Mapping[str, _Choice] = {
    "youden": _youden,
    "sensitivity": _sensitivity,
    "specificity": _specificity,
    "cost": _cost,
}

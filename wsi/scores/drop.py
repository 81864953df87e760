"""Rules by which tiles are left out of the tile list: ``focus<0.04``, ``pen>0.5``, ``duplicate>0``."""

import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi.arrays import Bools
from wsi.errors import RequestError
from wsi.scores.artefacts import OVERVIEW_SCORES
from wsi.scores.quality import TILE_SCORES

SCORES = (*TILE_SCORES, *OVERVIEW_SCORES)
"""Every score that a rule may name."""
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_RULE = re.compile(r"\s*([a-z]+)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*")


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """Tiles of which the comparison is true are left out."""

    score: str
    compare: str
    bound: float

    def __str__(self) -> str:
        return f"{self.score}{self.compare}{self.bound!r}"


def parse_rules(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Read rules, sorted and each once: one order per meaning.

    Raises
    ------
    RequestError
        A text is no rule, or names a score that does not exist.
    """
    rules = set()
    for text in texts:
        match = _RULE.fullmatch(text)
        if match is None or match[1] not in SCORES:
            raise RequestError(
                f"--drop {text!r}: expected a rule such as 'focus<0.04' on one of {', '.join(sorted(SCORES))}"
            )
        rules.add(Rule(match[1], match[2], float(match[3])))
    return tuple(sorted(rules))


def dropped(rules: Iterable[Rule], scores: Mapping[str, NDArray[np.float32]], n_tiles: int) -> Bools:
    """Return which tiles any rule leaves out, bool (n,); every score that a rule names must be there."""
    out = np.zeros(n_tiles, bool)
    for rule in rules:
        out |= _COMPARE[rule.compare](scores[rule.score], np.float32(rule.bound))
    return out

"""Labelled pictures made of formulas, on whatever device: nothing is downloaded, stored or owned by anyone."""

from collections.abc import Mapping
from types import MappingProxyType

from features.formulas import contours, iterated, leaves, stained
from features.formulas.spec import Formula, FormulaSpec
from wsi.errors import RequestError

FORMULAS: Mapping[str, FormulaSpec] = MappingProxyType(
    iterated.FAMILIES | contours.FAMILIES | leaves.FAMILIES | stained.FAMILIES
)


def formula(name: str, *, classes: int, seed: int) -> Formula:
    """Return a family's pictures, of a number of classes.

    Raises
    ------
    RequestError
        There is no such family, or no class.
    """
    if name not in FORMULAS:
        raise RequestError(f"formula {name}: expected one of {', '.join(FORMULAS)}")
    if classes < 1:
        raise RequestError(f"{classes} classes of formula {name}: expected at least 1")
    return FORMULAS[name].build(name, classes, seed)


__all__ = ["FORMULAS", "Formula", "FormulaSpec", "formula"]

"""When a run is said to tell the center in place of the tissue.

The center alone must reach half as far above chance as the run does, and what is left when only patients of one center
are compared must be less than half of what there is, or not shown to be above chance. The first alone blames every run
on a cohort whose centers differ in the disease, however well it looks at tissue; the second alone blames a run for
chance within small centers. docs/EVIDENCE.md has how often each speaks where the truth is known.
"""

from typing import Any

from wsi.recipe import Json


def told_by_center(own: float | None, center: float | None, chance: float, spread: Json) -> bool:
    """Tell whether the center may be what a run tells.

    Parameters
    ----------
    own, center
        The first metric of the run, and of the center alone; None where that is not above chance.
    spread
        spread.json of the run; where it has no areas within centers, the center alone decides.
    """
    if center is None or (own is not None and 2 * (center - chance) < own - chance):
        return False
    whole, within = _part(spread, "patients"), _part(_part(spread, "centers"), "pooled")
    all_told, left, low = whole.get("value"), within.get("value"), within.get("low")
    if all_told is None or left is None or low is None:
        return True
    return bool(low <= chance or 2 * (left - chance) < all_told - chance)


def _part(told: Json, name: str) -> dict[str, Any]:
    return told.get(name) or {}

"""Which um/px is true: one resolver, which says what it believed, why, and what it rejected."""

from collections.abc import Sequence
from dataclasses import dataclass

from wsi.errors import ResolutionError
from wsi.slide import MppClaim

PLAUSIBLE_MPP = (0.05, 20.0)
"""um/px outside this is a placeholder or an error: 25.4 dpi gives 1000, 72 dpi gives 352.8."""
ASSUMED = "assumed"
"""The source where the slide says nothing that can be believed."""
WANTED_MPP = "0.05 to 20 um/px"
POSSIBLE_MPP = "0.05 to 100 um/px"
MAX_ANISOTROPY = 1.10
"""x and y may differ by this factor at most."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The um/px that the software goes by, and where it comes from."""

    mpp: float
    """um/px at level 0 (geometric mean of y and x)."""
    source: str
    """``manifest``, ``assumed``, or the place in the file."""
    rejected: tuple[str, ...]
    """One line for each value that was found and not believed."""


def is_wanted_mpp(mpp: float) -> bool:
    """Tell whether a store can be asked for at that um/px: `WANTED_MPP`."""
    return 0.05 <= mpp <= 20


def is_possible_mpp(mpp: float) -> bool:
    """Tell whether a person may say that a slide has that um/px: `POSSIBLE_MPP`."""
    return 0.05 <= mpp <= 100


def resolve_mpp(
    claims: Sequence[MppClaim],
    *,
    objective_power: float | None = None,
    manifest_mpp: float | None = None,
    assume_mpp: float | None = None,
) -> Resolution:
    """Choose the um/px: manifest, then the file's claims in order, then objective power, then ``assume_mpp``.

    A plausible value is between 0.05 and 20 um/px with x and y within 10 % of each other. An objective power p counts
    as 10 / p um/px, the common convention for scanners.

    Raises
    ------
    ResolutionError
        Nothing plausible was found and nothing is assumed; the message lists what was found and how to override it.
    """
    if manifest_mpp is not None:
        return Resolution(manifest_mpp, "manifest", ())
    rejected = []
    for claim in claims:
        if reason := _implausible(claim.mpp_yx):
            rejected.append(f"{claim.source} says {_show(claim.mpp_yx)} um/px: {reason}")
        else:
            return Resolution((claim.mpp_yx[0] * claim.mpp_yx[1]) ** 0.5, claim.source, tuple(rejected))
    if objective_power:
        mpp = 10 / objective_power
        if reason := _implausible((mpp, mpp)):
            rejected.append(f"objective power {objective_power:g} means {mpp:.4g} um/px: {reason}")
        else:
            return Resolution(mpp, f"objective power {objective_power:g}", tuple(rejected))
    if assume_mpp is not None:
        return Resolution(assume_mpp, ASSUMED, tuple(rejected))
    found = "; ".join(rejected) or "the file says nothing"
    raise ResolutionError(
        f"um/px unknown ({found}): give it in the manifest's mpp column, or with --assume-mpp for all such slides"
    )


def _implausible(mpp_yx: tuple[float, float]) -> str:
    low, high = PLAUSIBLE_MPP
    if not all(low <= value <= high for value in mpp_yx):
        return f"outside {low} to {high}, a placeholder or an error"
    if max(mpp_yx) / min(mpp_yx) > MAX_ANISOTROPY:
        return f"x and y differ by more than {MAX_ANISOTROPY - 1:.0%}"
    return ""


def _show(mpp_yx: tuple[float, float]) -> str:
    y, x = mpp_yx
    return f"{x:.4g}" if abs(x - y) < 1e-6 * x else f"{x:.4g} x {y:.4g}"

"""Which um/px is true: one resolver, which says what it believed, why, and what it rejected."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wsi.errors import ResolutionError
from wsi.readers.protocol import MppClaim

PLAUSIBLE_MPP = (0.05, 20.0)
"""um/px outside this is a placeholder or an error: 25.4 dpi gives 1000, 72 dpi gives 352.8."""
ASSUMED = "assumed"
"""The source where the slide says nothing that can be believed."""
POSSIBLE_MPP = "0.05 to 100 um/px"
MAX_ANISOTROPY = 1.01
"""x and y may differ by this factor at most: pixels that are not square would be treated as if they were."""
_TOLD_ANISOTROPY = 1.001
_POWER_CONFLICT, _CLAIM_CONFLICT = 1.41, 1.05
"""From which factor on it is told that the objective power, or another place in the file, means another um/px."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The um/px that the software goes by, and where it comes from."""

    mpp: float
    """um/px at level 0 (geometric mean of y and x)."""
    source: str
    """``manifest``, ``assumed``, or the place in the file."""
    rejected: tuple[str, ...]
    """One line for each value that was found and not believed, or that does not fit the one that was."""


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

    A plausible value is between 0.05 and 20 um/px. Of x and y that differ by less than 1 % the geometric mean counts.
    An objective power p counts as 10 / p um/px, the common convention for scanners.

    Raises
    ------
    ResolutionError
        Nothing plausible was found and nothing is assumed, or the first plausible value is of pixels that are not
        square; the message lists what was found and how to override it.
    """
    if manifest_mpp is not None:
        return Resolution(manifest_mpp, "manifest", _conflicts("manifest", manifest_mpp, claims, objective_power))
    rejected: list[str] = []
    for i, claim in enumerate(claims):
        if reason := _implausible(claim.mpp_yx):
            rejected.append(f"{claim.source} says {_show(claim.mpp_yx)} um/px: {reason}")
            continue
        rejected += _not_square(claim)
        mpp = (claim.mpp_yx[0] * claim.mpp_yx[1]) ** 0.5
        rejected += _conflicts(claim.source, mpp, claims[i + 1 :], objective_power)
        return Resolution(mpp, claim.source, tuple(rejected))
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
    return ""


def _not_square(claim: MppClaim) -> list[str]:
    """Say that x and y differ a little; refuse pixels that are not square."""
    ratio = max(claim.mpp_yx) / min(claim.mpp_yx)
    if ratio > MAX_ANISOTROPY:
        raise ResolutionError(
            f"{claim.source} gives {_show(claim.mpp_yx)} um/px (x, y), which differ by {ratio - 1:.1%}: pixels that "
            f"are not square (by more than {MAX_ANISOTROPY - 1:.0%}) are not tiled; resample the slide, or, if that is "
            "wrong, give its um/px in the manifest's mpp column"
        )
    if ratio < _TOLD_ANISOTROPY:
        return []
    return [f"{claim.source}: x and y differ by {ratio - 1:.1%} ({_show(claim.mpp_yx)} um/px), their mean is taken"]


def _conflicts(source: str, mpp: float, others: Sequence[MppClaim], power: float | None) -> tuple[str, ...]:
    """Say what in the file means another um/px than the one that is believed."""
    told = [
        f"{claim.source} gives {_show(claim.mpp_yx)} um/px, {source} {mpp:.4g}: {source} is believed"
        for claim in others
        if not _implausible(claim.mpp_yx) and _factor(mpp, math.sqrt(math.prod(claim.mpp_yx))) > _CLAIM_CONFLICT
    ]
    if power and not _implausible((10 / power, 10 / power)) and _factor(mpp, 10 / power) > _POWER_CONFLICT:
        meant = f"objective power {power:g} would mean {10 / power:.4g} um/px"
        told.append(f"{meant}, {source} gives {mpp:.4g}: {source} is believed")
    return tuple(told)


def _factor(a: float, b: float) -> float:
    return max(a, b) / min(a, b)


def _show(mpp_yx: tuple[float, float]) -> str:
    y, x = mpp_yx
    return f"{x:.4g}" if abs(x - y) < 1e-6 * x else f"{x:.4g} x {y:.4g}"

"""An estimate is a range, never a point."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import hypot
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Range:
    """What is expected, and between which values it lies nine times out of ten."""

    low: float
    expected: float
    high: float

    @classmethod
    def about(cls, expected: float, *errors: float) -> Self:
        """Return a range of relative errors that do not depend on each other."""
        error = hypot(*errors) if errors else 0.0
        return cls(expected * max(0.0, 1 - error), expected, expected * (1 + error))

    @classmethod
    def exactly(cls, value: float) -> Self:
        """Return a range without width: what was counted."""
        return cls(value, value, value)

    def __add__(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, factor: float) -> "Range":
        """Return the range of so many of them."""
        return Range(self.low * factor, self.expected * factor, self.high * factor)

    @property
    def error(self) -> float:
        """The larger of its two relative errors."""
        if not self.expected:
            return 0.0
        return max(self.high - self.expected, self.expected - self.low) / self.expected

    def as_dict(self) -> dict[str, float]:
        """Return JSON values."""
        return {name: round(value, 3) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """Return the range of JSON values."""
        return cls(float(told["low"]), float(told["expected"]), float(told["high"]))


NOTHING = Range(0.0, 0.0, 0.0)


def total(ranges: Iterable[Range]) -> Range:
    """Return the sum: all of them low, expected, high together."""
    return sum(ranges, NOTHING)


def largest(ranges: Iterable[Range]) -> Range:
    """Return the largest low, expected and high of them."""
    known = [*ranges, NOTHING]
    return Range(max(r.low for r in known), max(r.expected for r in known), max(r.high for r in known))

"""What a stage reports: one outcome per item, and the summary from which the exit code follows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class Status(StrEnum):
    """How one item ended."""

    DONE = "done"
    SKIPPED = "skipped"
    """Finished by an earlier run with the same recipe."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one item (slide, store, bag, fold) ended."""

    item_id: str
    status: Status
    reason: str = ""
    """One line for a person: why it failed, or what is remarkable."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON values: counts, seconds, warnings."""


CLAIMED = "claimed"
"""Fact of an item that failed only because another process is at it."""


def failed(failures: Mapping[str, str]) -> list[Outcome]:
    """Return the outcomes of items that failed, each with its reason."""
    return [Outcome(item_id, Status.FAILED, reason) for item_id, reason in failures.items()]


@dataclass(frozen=True, slots=True)
class Summary:
    """How a whole stage ended."""

    stage: str
    outcomes: Sequence[Outcome]
    seconds: float
    """Wall time."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """Seconds by step, summed over threads and processes, where the stage measures them."""

    def ended(self, status: Status) -> list[Outcome]:
        """Return the outcomes of that status."""
        return [outcome for outcome in self.outcomes if outcome.status is status]

    @property
    def exit_code(self) -> int:
        """0 when nothing failed, else 1."""
        return 1 if self.ended(Status.FAILED) else 0

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "stage": self.stage,
            "seconds": round(self.seconds, 3),
            **({"spent": {step: round(value, 3) for step, value in self.spent.items()}} if self.spent else {}),
            "counts": {status.value: len(self.ended(status)) for status in Status},
            "items": [
                {"id": o.item_id, "status": o.status.value, "reason": o.reason, **o.facts} for o in self.outcomes
            ],
        }


class Progress(Protocol):
    """Where a stage tells how far it is; the command line shows a bar, a library call shows nothing."""

    def begin(self, title: str, total: float, unit: str) -> None:
        """Start a bar of ``total`` units (``"B"`` for bytes, else a plural such as ``"tiles"``)."""

    def grow(self, amount: float) -> None:
        """Raise the running bar's total: more work was found."""

    def advance(self, amount: float) -> None:
        """Add to the running bar."""

    def note(self, line: str) -> None:
        """Show one line of text above the bar."""

    def end(self) -> None:
        """Close the running bar."""


class Silent:
    """A `Progress` that shows nothing."""

    def begin(self, title: str, total: float, unit: str) -> None: ...

    def grow(self, amount: float) -> None: ...

    def advance(self, amount: float) -> None: ...

    def note(self, line: str) -> None: ...

    def end(self) -> None: ...

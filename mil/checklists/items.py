"""The items of two reporting guidelines, answered as far as a run knows, and marked where only a person does.

TRIPOD+AI: Collins et al., BMJ 2024;385:e078378. CLAIM 2024 update: Tejani et al., Radiology: Artificial Intelligence
2024;6(4):e240300. The tables beside this file say what an item asks for in words of our own, which functions answer it,
and what stays for a person in any case.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from mil.checklists import of_data, of_model, of_results
from mil.checklists.known import Answer, Known

FILLED, PARTLY, OPEN, NOT_HERE = "filled", "partly", "for a person", "not asked here"
SOURCES = {
    "tripod_ai": ("TRIPOD+AI", "Collins et al., BMJ 2024;385:e078378"),
    "claim_2024": ("CLAIM 2024", "Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300"),
}
_NOT_TOLD = "The run does not tell it"
_REST = "The rest of what is asked for: the run does not tell it"
_ELSEWHERE = "It is asked for where a model is made: see the checklists of the run"
_LATER = "It is asked for where a model is judged on another cohort"


@dataclass(frozen=True, slots=True)
class Item:
    """One item, as its guideline has it."""

    number: str
    section: str
    applies: str
    """``both``, or only to the ``development`` of a model, or only to its ``evaluation``."""
    says: str
    """What it asks for, paraphrased."""
    topics: tuple[str, ...]
    """Functions of `of_data`, `of_model` and `of_results` that answer it."""
    asks: str
    """What only a person knows; empty where the run can know all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An item with what the run says of it."""

    item: Item
    status: str
    answers: tuple[Answer, ...]
    open: str
    """What is left to a person."""


def topic(name: str) -> Callable[[Known], Answer | None]:
    """Return the function that answers a topic."""
    room = next(own for own in (of_data, of_model, of_results) if hasattr(own, name))
    found: Callable[[Known], Answer | None] = getattr(room, name)
    return found


@cache
def items(checklist: str) -> tuple[Item, ...]:
    """Return the items of a checklist, in its order."""
    text = resources.files("mil.checklists").joinpath(f"{checklist}.csv").read_text("utf-8")
    return tuple(
        Item(row["item"], row["section"], row["applies"], row["says"], tuple(row["topics"].split()), row["asks"])
        for row in csv.DictReader(text.splitlines())
    )


def filled(checklist: str, known: Known) -> list[Entry]:
    """Return every item of a checklist with what the run, or its evaluation elsewhere, says of it."""
    found: dict[str, Answer | None] = {}
    kind = "evaluation" if known.elsewhere else "development"
    return [_entry(item, kind, known, found) for item in items(checklist)]


def _entry(item: Item, kind: str, known: Known, found: dict[str, Answer | None]) -> Entry:
    if item.applies not in ("both", kind):
        return Entry(item, NOT_HERE, (), _ELSEWHERE if kind == "evaluation" else _LATER)
    for name in item.topics:
        if name not in found:
            found[name] = topic(name)(known)
    answers = tuple(own for name in item.topics if (own := found[name]) is not None)
    if not answers:
        return Entry(item, OPEN, (), item.asks or _NOT_TOLD)
    rest = item.asks or (_REST if len(answers) < len(item.topics) else "")
    return Entry(item, PARTLY if rest else FILLED, answers, rest)


def tally(entries: Sequence[Entry]) -> dict[str, int]:
    """Return how many items have each status."""
    return {status: sum(own.status == status for own in entries) for status in (FILLED, PARTLY, OPEN, NOT_HERE)}

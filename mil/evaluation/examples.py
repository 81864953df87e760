"""Which slides are worth looking at: those that speak for the model, those that warn of it, and the least sure."""

from collections.abc import Collection, Sequence

from mil.targets.base import SlideRow, Target

EACH, MISTAKES = 2, 6
"""Slides in a report that speak for the model, and that warn of it."""
MOST = 12
"""Slides that are drawn where none is asked for by name."""


def choose(
    target: type[Target], slides: Sequence[SlideRow], outputs: Sequence[str], available: Collection[str]
) -> list[tuple[str, str]]:
    """Return (image id, caption) of the slides available that tell most, as `Target.telling` has it.

    ``slides`` are the slide rows of oof.csv, ``outputs`` what the run tells of each.
    """
    return target.telling(_drawable(slides, available), outputs, EACH, MISTAKES)


def of_interest(
    target: type[Target], slides: Sequence[SlideRow], outputs: Sequence[str], available: Collection[str]
) -> list[str]:
    """Return up to `MOST` of the slides available, those of most interest first, in the turns of `Target.turns`.

    Slides that the run does not know come after its own.
    """
    turns = target.turns(_drawable(slides, available), outputs)
    longest = max(map(len, turns), default=0)
    picked = [turn[place] for place in range(longest) for turn in turns if place < len(turn)]
    new = sorted(set(available) - {row["image_id"] for row in slides})
    return list(dict.fromkeys([*picked, *new]))[:MOST]


def _drawable(slides: Sequence[SlideRow], available: Collection[str]) -> list[SlideRow]:
    return [row for row in slides if row["image_id"] in available and int(row["n_tiles"]) > 0]

"""What most slides of a cohort are warned of: told once, so that what is odd can be seen."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from wsi.qc.rows import SlideRow

_MOST, _LEAST_SLIDES = 0.5, 4
"""Share of the slides, and their number, from which on a warning is common."""
_NAMED = 8
"""Slides without a common warning that are named, if there are no more."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True)
class Common:
    """A warning of most slides; only its numbers differ."""

    kind: str
    """Without its numbers."""
    text: str
    same: bool
    """Whether the numbers are the same on all of them."""
    count: int
    others: tuple[str, ...]
    """The slides that do not have it, where they are few."""


def common_warnings(rows: Sequence[SlideRow]) -> list[Common]:
    """Return the warnings of most slides, the most frequent first."""
    kinds = [{_kind(line): line for line in row.warnings} for row in rows]
    counts, found = Counter(kind for own in kinds for kind in own), []
    for kind, count in counts.most_common():
        if count < max(_LEAST_SLIDES, _MOST * len(rows)):
            break
        texts = {own[kind] for own in kinds if kind in own}
        text = next(iter(texts)) if len(texts) == 1 else f"{kind} (each its own numbers)"
        others = tuple(row.image_id for row, own in zip(rows, kinds, strict=True) if kind not in own)
        found.append(Common(kind, text, len(texts) == 1, count, others if len(others) <= _NAMED else ()))
    return found


def rare_warnings(row: SlideRow, common: Sequence[Common]) -> list[str]:
    """Return the warnings that few other slides have."""
    kinds = {own.kind for own in common}
    return [line for line in row.warnings if _kind(line) not in kinds]


def own_warnings(row: SlideRow, common: Sequence[Common]) -> list[str]:
    """Return the warnings that are not told word by word for most slides; the rare ones first."""
    rare, same = rare_warnings(row, common), {own.kind for own in common if own.same}
    return [*rare, *(line for line in row.warnings if line not in rare and _kind(line) not in same)]


def _kind(line: str) -> str:
    return _NUMBER.sub("\N{HORIZONTAL ELLIPSIS}", line)

"""How one patient was judged, and how all were, in a table: what a reader is told, whatever the target."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi.arrays import Floats


@dataclass(frozen=True, slots=True)
class Judged:
    """One patient, out of fold."""

    truth: str
    """What is true of the patient; empty where unknown."""
    told: str
    """What the model tells, as `Target.said` has it."""
    error: float | None
    """`Words.error`; None where it is not defined."""
    right: bool | None
    """Whether it is what is true; None where an answer is not right or wrong but near or far."""
    doubt: float | None
    """0 (sure) to 1 (no better than a guess): entropy of the probabilities; None where none are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """A table that says where a model is good and where it is not."""

    title: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    """The first cell names the row."""
    hits: frozenset[tuple[int, int]] = frozenset()
    """(row, column) of the cells that count right answers, the first column being 1."""
    misses: frozenset[tuple[int, int]] = frozenset()
    """Those that count wrong ones."""


def judgements(
    truths: Sequence[str],
    said: Sequence[str],
    errors_P: Floats,
    right: Sequence[bool | None],
    doubts_P: Floats | None,
) -> list[Judged]:
    """Put together what is known of each patient; an error that is not finite is not defined."""
    known = [float(error) if np.isfinite(error) else None for error in errors_P]
    doubts = [None] * len(known) if doubts_P is None else [float(doubt) for doubt in doubts_P]
    return [Judged(*own) for own in zip(truths, said, known, right, doubts, strict=True)]


def percent(share: float) -> str:
    """Return a probability for a reader: none that is not certain is told as 0 or 100 %."""
    text = f"{share * 100:.0f} %"
    if text == "0 %" and share > 0:
        return "< 1 %"
    return "> 99 %" if text == "100 %" and share < 1 else text


def entropy(probs_NC: Floats) -> Floats:
    """Return the entropy (N,) of rows of probabilities, as a share of the highest possible."""
    logs_NC = np.log(np.where(probs_NC > 0, probs_NC, 1))
    return np.asarray(-(probs_NC * logs_NC).sum(axis=1) / np.log(probs_NC.shape[1]))

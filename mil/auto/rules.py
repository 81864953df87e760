"""The rules of `gigamil train --auto`, all in one table: of each option the first rule that holds decides.

Thresholds and values were chosen by trying settings against today's defaults on simulated cohorts and on two classical
sets; docs/HEADS.md has the table, what came out, and what was tried and left alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from mil.auto.fingerprint import Fingerprint

VERSION = 3
"""Raised when a rule changes: what an experiment of a cohort file is begun by."""
FEW = 20
"""Patients of the rarest kind below which division and beginning decide much of the result."""
STEADY = 150
"""Patients of the rarest kind from which on one model's beginning is taken to matter little."""
STEPS = 160
"""Of a model's training where nobody tells when to stop."""
LARGE_BAG = 8192
"""Tiles of a bag above which an epoch need not see them all."""

Chosen = Mapping[str, Any]
"""What is chosen or given already, by field."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    option: str
    """Field of `TrainOptions`."""
    case: str
    """When it holds, in words."""
    when: Callable[[Fingerprint], bool]
    value: Callable[[Fingerprint, Chosen], Any]
    chosen: str
    """The value, in words."""
    why: str
    """A sentence, with the fingerprint's numbers in braces."""


def always(_: Fingerprint) -> bool:
    """Hold for every cohort."""
    return True


def _epochs_of_steps(cohort: Fingerprint, folds: int) -> int:
    """Return how many epochs on all folds but one take `STEPS`."""
    return min(60, max(1, round(STEPS / ceil(cohort.steps * (1 - 1 / folds)))))


RULES: tuple[Rule, ...] = (
    Rule(
        "folds", "--splits, --teacher or --fusion folds tell them", lambda f: f.told_folds > 1,
        lambda f, _: f.told_folds, "as told", "the splits, the teacher or the bags tell that there are {told_folds}",
    ),
    Rule(
        "folds", "--split centers", lambda f: f.by_center,
        lambda f, _: max(2, min(10, f.centers)), "a fold for each center, at most 10",
        "folds are whole centers, of which there are {centers}",
    ),
    Rule(
        "folds", "fewer than 10 patients of the rarest kind", lambda f: f.least < 10,
        lambda f, _: max(2, min(5, f.least // 2)), "half of these patients, 2 to 5",
        "every fold tests and trains some of the {least} {kind}",
    ),
    Rule(
        "folds", "otherwise", always, lambda *_: 5, "5", "each model learns from four fifths of {patients} patients",
    ),
    Rule(
        "repeats", "folds are told, or whole centers", lambda f: f.told_folds > 1 or f.by_center,
        lambda *_: 1, "1", "the folds are not drawn, so that others cannot be drawn either",
    ),
    Rule(
        "repeats", "fewer than 20 patients of the rarest kind", lambda f: f.least < FEW,
        lambda *_: 3, "3", "with {least} {kind} one division of the patients may be luck",
    ),
    Rule(
        "repeats", "otherwise", always, lambda *_: 1, "1",
        "the usual; --repeats 3 tells how other divisions of the {patients} patients fare",
    ),
    Rule(
        "seeds", "fewer than 150 patients of the rarest kind", lambda f: f.least < STEADY, lambda *_: 3, "3",
        "with {least} {kind} a model depends on how it began: the mean of three less so",
    ),
    Rule(
        "seeds", "otherwise", always, lambda *_: 1, "1",
        "the usual: new patients are told by the mean over the folds anyway",
    ),
    Rule(
        "inner_share", "survival, or --nested", lambda f: f.validates, lambda *_: 0.2, "0.2",
        "these patients are needed: risks count from their median, inner folds calibrate by them",
    ),
    Rule(
        "inner_share", "fewer than 150 patients of the rarest kind", lambda f: f.least < STEADY, lambda *_: 0.0, "0",
        "with {least} {kind} a fifth of them is missed in training and is too few to tell when to stop",
    ),
    Rule("inner_share", "otherwise", always, lambda *_: 0.2, "0.2", "the usual: they tell when to stop"),
    Rule(
        "epochs", "always", always, lambda f, own: 60 if own["inner_share"] else _epochs_of_steps(f, own["folds"]),
        "60; where inner-share is 0 as many as 160 steps take, 60 at most",
        "training stops before where patients who validate gain no more; where none do it is short from the start",
    ),
    Rule(
        "patience", "always", always, lambda _, own: max(10, own["epochs"] // 4), "a quarter of the epochs, 10 or more",
        "it goes with the number of epochs",
    ),
    Rule(
        "max_tiles", "one bag in ten has more than 8,192 tiles", lambda f: f.many_tiles > LARGE_BAG,
        lambda *_: LARGE_BAG // 2, "4096",
        "one bag in ten has {many_tiles:,} tiles or more: 4,096, drawn anew each epoch, are quicker; all are scored",
    ),
    Rule("max_tiles", "otherwise", always, lambda *_: 0, "0", "bags of {tiles:,} tiles are read whole"),
    Rule(
        "hidden", "always", always, lambda *_: 128, "128",
        "narrower heads ranked no better in simulated cohorts of 40 patients; nothing else was tried",
    ),
    Rule(
        "attention", "always", always, lambda _, own: max(16, own["hidden"] // 2), "half of hidden, 16 or more",
        "it goes with the width of the embedding",
    ),
    Rule(
        "dropout", "always", always, lambda *_: 0.25, "0.25",
        "more of it ranked no better in simulated cohorts of 40 patients; nothing else was tried",
    ),
)  # fmt: skip


def rule_for(option: str, cohort: Fingerprint) -> Rule:
    """Return the rule that decides an option for a cohort."""
    return next(rule for rule in RULES if rule.option == option and rule.when(cohort))

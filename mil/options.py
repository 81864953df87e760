"""What options of mil may say: choices by name, and the options that several verbs share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from wsi.options import Option

HeadName = Literal[
    "gated_abmil", "abmil", "mean_pool", "mean_mlp", "max_pool", "linear", "additive", "clam_sb", "clam_mb", "dsmil",
    "transmil", "dtfd", "acmil", "transformer",
]  # fmt: skip
"""docs/HEADS.md tells them apart."""
Head = Annotated[HeadName, Option(plugins="gigamil.heads")]
"""Ours, or another package's."""
Target = Literal["classes", "labels", "value", "survival"]
Calibration = Literal["none", "temperature", "prior", "platt", "auto"]
Fusion = Literal["none", "concat", "late", "folds"]
Output = Literal["linear", "arcface"]
Tracker = Literal["wandb", "mlflow"]
Combination = Literal["mean", "stack"]
Planned = Literal[
    "folds", "repeats", "seeds", "inner_share", "epochs", "patience", "max_tiles", "hidden", "attention", "dropout",
]  # fmt: skip
"""Options of a training that --auto decides, where they are not given: those of `mil.auto.rules`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run."""

    run: Annotated[Path, Option(argument="RUN")]
    """Run folder of `gigamil train`."""


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Where it runs."""

    workers: Annotated[int, Option(short="-w", least=1, formerly=("--jobs", "-j"))] = 1
    """Processes that work side by side."""


@dataclass(frozen=True, kw_only=True)
class ByRules:
    """By the cohort."""

    auto: bool = False
    """Choose by the cohort's size, classes and bags what is not given; run and report say why. Rules: docs/HEADS.md."""
    fixed: Annotated[tuple[Planned, ...], Option(commas=True, given_for="auto")] = ()
    """Options that --auto leaves as they are; those that are given always are."""

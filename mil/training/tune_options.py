"""What a search for settings can be told."""

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from features.option_groups import Precision
from mil.options import Head
from mil.training.options import Asked, Cohort, Epochs, Folds, TrainOptions
from wsi.errors import RequestError
from wsi.option_groups import Claims, Count, Overwriting
from wsi.options import Option, at_least, check, shared


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Cohort, Asked, Folds, Epochs, Precision, Overwriting, Claims):
    """Options of `mil.tune.tune`: those of a training, but for what is searched."""

    out: Annotated[Path, Option(short="-o", remote="output")]
    """Folder of the search."""
    trials: Count = 30
    """Settings tried in each search."""
    inner_folds: Annotated[int, at_least(2)] = 3
    """Inner folds, which choose the settings; --folds are the outer ones, which give the score."""
    heads: Annotated[tuple[Head, ...], Option(commas=True)] = ("gated_abmil",)
    """Heads to choose from, A,B,..."""

    def __post_init__(self) -> None:
        check(self)
        if not self.heads:
            raise RequestError("--heads: expected one or more heads, found none")
        if self.inner_share == 0:
            raise RequestError("--inner-share 0: expected more: settings are compared as these patients calibrate them")
        if self.fusion in ("late", "folds") or self.aggregate == "max" or self.target != "classes":
            raise RequestError(
                "tune searches models of classes, of one kind of bags, by the mean over a patient's slides, without a "
                "teacher or other slides"
            )
        if importlib.util.find_spec("optuna") is None:
            raise RequestError("optuna is not installed; pip install 'gigamil[tune]'")

    @cached_property
    def train(self) -> TrainOptions:
        """Return what is searched around: a training of the first head, into the folder of the search."""
        return TrainOptions(**shared(TrainOptions, self), head=self.heads[0], baselines=())

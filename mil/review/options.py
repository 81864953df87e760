"""What a worklist can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from features.option_groups import Device
from mil.options import Run
from wsi.errors import RequestError
from wsi.option_groups import Claims, Count, Manifest, Overwriting
from wsi.options import Option, check

By = Literal["uncertainty", "disagreement", "change", "suspicion"]


@dataclass(frozen=True, kw_only=True)
class WorklistOptions(Run, Manifest, Device, Overwriting, Claims):
    """Options of `mil.review.worklist.worklist`."""

    bags: Annotated[tuple[Path, ...], Option(argument="[BAGS]...")] = ()
    """Bags (.h5) of the slides to choose from, or folders of them: new ones, or the run's own; suspicion wants none."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """Table to write; what it means stands beside it as JSON."""
    by: By = "uncertainty"
    """uncertainty of the probabilities; disagreement of the models; change: how far a label would move the models;
    suspicion: of the run's own patients, whose class is likely to be wrong."""
    most: Annotated[Count, Option(short="-n")] = 50
    """Patients."""
    diverse: bool = True
    """Take patients who are unlike those before them, rather than many of one kind."""
    retrain: bool = False
    """With suspicion: train anew with so many suspects relabelled; say what it does. Wants BAGS and --manifest."""

    def __post_init__(self) -> None:
        check(self)
        if self.out.suffix != ".csv":
            raise RequestError(f"--out {self.out}: expected a name that ends in .csv")
        if self.by != "suspicion" and not self.bags:
            raise RequestError(f"--by {self.by}: expected bags of the slides to choose from, found none")
        if self.retrain and self.by != "suspicion":
            raise RequestError("--retrain is for --by suspicion: leave it out")
        if self.retrain and not (self.bags and self.manifest):
            raise RequestError("--retrain: expected the run's bags and its --manifest, to train again")

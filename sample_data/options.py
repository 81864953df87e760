"""How large a sample cohort is made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from sample_data.spec import MIN_SIDE_PX
from wsi.errors import RequestError
from wsi.machine.cpu import usable_cpus
from wsi.option_groups import Claims
from wsi.options import Option, at_least, check
from wsi.recipe import Recipe

FORMAT = 1
"""Raised whenever the same options give other files."""
MIN_PATIENTS = 12
_ENOUGH = f"at least {MIN_PATIENTS}, so that every center has both classes"


@dataclass(frozen=True, kw_only=True)
class Size:
    """The cohort."""

    patients: Annotated[int, Option(least=MIN_PATIENTS, expected=_ENOUGH)] = 60
    """Patients in train.csv, 12 or more; test.csv has a tenth as many more, at least two."""
    size: int = 8000
    """Longest side that a slide may have, in level-0 pixels; the shortest is 3/8 of it. 60000 is gigapixels."""
    workers: Annotated[int | None, Option(short="-w", least=1)] = None
    """Processes, side by side; otherwise one per usable CPU."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Size, Claims):
    """How to make the sample cohort."""

    out: Annotated[Path, Option(argument="OUT", remote="output")]
    """Folder for train.csv, test.csv, truth.csv and slides/."""
    seed: Annotated[int, at_least(0)] = 7
    """Another seed, another cohort."""
    shortest: int | None = None
    """Shortest side of a slide, where it is not 3/8 of the longest."""

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        check(self)
        if not MIN_SIDE_PX <= self.min_px <= self.size:
            raise RequestError(
                f"sides of {self.min_px} to {self.size} px: expected {MIN_SIDE_PX} <= the shortest <= --size"
            )

    @property
    def min_px(self) -> int:
        """Return the shortest side."""
        return self.size * 3 // 8 if self.shortest is None else self.shortest

    def recipe(self) -> Recipe:
        """Return what shapes the files."""
        return {
            "sample_cohort": FORMAT,
            "patients": self.patients,
            "seed": self.seed,
            "min_px": self.min_px,
            "max_px": self.size,
        }

    @property
    def processes(self) -> int:
        """Number of worker processes."""
        return self.workers or usable_cpus()

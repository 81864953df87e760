"""What `gigamil run` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from wsi.errors import RequestError
from wsi.option_groups import Claims, Count, Overwriting
from wsi.options import Option, at_least, check


@dataclass(frozen=True, kw_only=True)
class CohortArgument:
    """The cohort."""

    cohort: Annotated[Path, Option(argument="COHORT.toml")]
    """File that describes slides, tiling, encoders, experiments and outputs; `gigamil config run` prints one."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Telling in place of doing."""

    list_rows: Annotated[bool, Option(name="list")] = False
    """Print the table of experiments."""
    explain: bool = False
    """Print for each stage and item what would be done, and why."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(CohortArgument, Shown, Overwriting, Claims):
    """Options of `mil.pipeline.run.run`."""

    stage: Literal["all", "tile", "extract", "train", "after"] = "all"
    """Only this one; after: predictions, heat maps, report and pages of what is trained."""
    rows: Annotated[int, at_least(0)] = 0
    """Experiments to train at most; 0: until none is left."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, tcp://..., or its scheduler file: its workers tile."""
    workers: Annotated[int | None, Option(short="-w", least=0)] = None
    """Worker processes of tiling and training, in place of the file's."""
    nproc: Count | None = None
    """Processes of extraction that share the work, in place of the file's. Or start this under torchrun."""
    take: Annotated[int, at_least(0)] = 0
    """Slides that extraction takes at a time, so that several processes or nodes share them; 0: all at once."""
    require_rehearsal: bool = False
    """Refuse to begin unless `gigamil rehearse` found this file sound."""

    def __post_init__(self) -> None:
        check(self)
        if self.list_rows and self.explain:
            raise RequestError("--list and --explain exclude each other: the table, or what would be done")

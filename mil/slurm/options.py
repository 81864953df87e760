"""What `gigamil submit` can be told."""

from dataclasses import dataclass
from typing import Literal

from mil.pipeline.options import CohortArgument
from wsi.options import check


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(CohortArgument):
    """Options of `mil.slurm.submit.submit`."""

    stage: Literal["all", "tile", "extract", "train", "after"] = "all"
    """Only this one; after: predictions, heat maps, report and pages."""
    dry_run: bool = False
    """Print the scripts and how they would be submitted, and do nothing."""
    require_rehearsal: bool = False
    """Refuse to begin unless `gigamil rehearse` found this file sound."""

    def __post_init__(self) -> None:
        check(self)

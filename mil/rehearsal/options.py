"""What `gigamil rehearse` can be told, on the command line and in the table [rehearse] of a cohort file."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from mil.pipeline.options import CohortArgument
from wsi.option_files import table_values
from wsi.option_groups import Above0, Claims, Count, Factor
from wsi.options import Option, check

if TYPE_CHECKING:
    from mil.pipeline.cohort.cohort_file import CohortFile


@dataclass(frozen=True, kw_only=True)
class RehearseOptions(CohortArgument, Claims):
    """Options of `mil.rehearsal.rehearse.rehearse`."""

    cluster: bool = False
    """Also submit the share to the cluster of [slurm], wait for its jobs, and compare what they made."""
    keep: bool = False
    """Keep what was made, in rehearsal/ of the cohort's folder, also when all agreed."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """[rehearse]: how much is rehearsed, and how far the production settings may be from the plain ones."""

    share: Factor = 0.02
    """Share of the patients of each class."""
    patients: Annotated[int, Option(least=8)] = 12
    """Patients at least."""
    epochs: Count = 10
    """Epochs of training at most."""
    experiments: Count = 4
    """Experiments at most: of each encoder and head the first by priority."""
    fp32: Above0 = 0.002
    """Largest relative difference of a slide's features, the median of its tiles, where both were made in fp32."""
    fp16: Above0 = 0.02
    """The same where production is fp16."""
    bf16: Above0 = 0.05
    """The same where production is bf16."""
    cosine: Factor = 0.99
    """Least cosine between the two features of any tile."""
    scores: Above0 = 0.05
    """Largest difference of what is told of a slide: of a probability; of values and risks in units of their spread."""

    def as_dict(self) -> dict[str, float]:
        """Return JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def rehearsed_of(file: "CohortFile") -> Rehearsed:
    """Return what the file's [rehearse] says, over the defaults.

    Raises
    ------
    RequestError
        A key or a value is none of these.
    """
    where = f"{file.path}, [rehearse]"
    return Rehearsed(**table_values(Rehearsed, file.rehearse, file.path.parent, "rehearse", where))

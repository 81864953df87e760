"""What is done and what is left to do of each stage of a cohort file, item by item; nothing is written."""

from collections.abc import Mapping
from dataclasses import dataclass

from mil.pipeline.cohort_file import CohortFile

STAGES = ("tile", "extract", "train", "after")


@dataclass(frozen=True, slots=True)
class StageState:
    """How far a stage is."""

    stage: str
    """tile, extract with the encoder after a space where there are several, train, predict, heatmap, page, report."""
    waiting: Mapping[str, str]
    """Item (slide or experiment) -> why it is not done: missing, other settings with the fields named, damaged."""
    done: tuple[str, ...]


def states(file: CohortFile, *, thorough: bool = False) -> list[StageState]:
    """Return how far each stage is.

    Parameters
    ----------
    file
        The cohort file.
    thorough
        Open slides, stores and bags as the stages themselves would, to tell other settings and damage; otherwise
        only what is there, which is quick.
    """
    from mil.pipeline.finding import after_states, bag_states, row_state, store_state

    return [store_state(file, thorough), *bag_states(file, thorough), row_state(file), *after_states(file)]

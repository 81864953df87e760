"""Several models trained in turns by one process, each to the numbers that it comes to alone.

The model that is furthest behind takes the next step. With one order of slides for all (``--order shared``) models then
want a slide's rows within a few steps of each other: they are read from the disk once, and lie in the page cache, or on
the device, for the others. Nothing else is shared, and what torch draws by chance goes on where the model left it: to
put the models' first layers into one product would gain nothing on a CPU (each standardises rows by its own patients,
and products are at their limit), and would cost the last bits.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch

from mil.ragged.randomness import Randomness
from mil.training.jobs import FitJob
from wsi.machine.interrupt import Leaving

Result = TypeVar("Result")
Steps = Generator[float, None, Result]
"""A training that yields between its steps how many epochs are done, and returns what comes out."""


def to_the_end(steps: Steps[Result]) -> Result:
    """Go through all steps; return what comes out."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            result: Result = ended.value
            return result


@dataclass(slots=True, eq=False)
class _Model:
    """A training under way."""

    job: FitJob
    steps: Steps[dict[str, float]]
    randomness: Randomness
    place: float = -1.0


def fit_in_turns(
    fittings: Iterable[tuple[FitJob, Steps[dict[str, float]]]],
    device: torch.device,
    done: Callable[[FitJob, dict[str, float]], None],
) -> None:
    """Train the models in turns; tell each as it is finished.

    Raises
    ------
    Leaving
        Somebody asked to save and leave; raised when every model has.
    """
    standing = [_Model(job, steps, Randomness(device)) for job, steps in fittings]
    left = False
    try:
        while standing:
            own = min(standing, key=lambda model: model.place)
            own.randomness.replay()
            try:
                own.place = next(own.steps)
                own.randomness = Randomness(device)
            except StopIteration as ended:
                standing.remove(own)
                done(own.job, ended.value)
            except Leaving:
                standing.remove(own)
                left = True
    finally:
        for own in standing:
            own.steps.close()
    if left:
        raise Leaving

"""What is learned: the classes of formulas, or what two views of one tile have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import cross_entropy

from features.learning.average import average_of, move_average, warmed
from features.learning.checkpoint import Tensors
from features.learning.ranks import Setting
from features.pretrain.student import Student


class Objective(ABC):
    """A loss on a student's outputs."""

    def __init__(self, student: Student, ema: float) -> None:
        self.student, self._ema = student, ema
        self.average = average_of(student) if ema else None
        """The moving average of the student; None: there is none."""

    @abstractmethod
    def loss_sum(self, outputs: Sequence[Tensor], views: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the summed loss of a part's images, in float32.

        ``outputs``: (n, K) for each view (n, 3, S, S), large views first; ``targets``: (n,) int64.
        """

    @abstractmethod
    def settle(self, setting: Setting, step: int, n_steps: int) -> None:
        """End a step (counted from 0), on all ranks: move averages."""

    def hold_back(self, epoch: int) -> None:  # noqa: B027
        """Take away gradients of what is not to move in this epoch."""

    def state(self) -> Tensors:
        """Return what goes on from step to step beside weights and their average."""
        return {}

    def go_on_from(self, state: Tensors) -> None:  # noqa: B027
        """Take it over."""

    def _follow(self, step: int) -> None:
        """Move the average, in the first steps faster than its decay tells."""
        if self.average is not None:
            move_average(self.average, self.student, warmed(self._ema, step), step)


class Classes(Objective):
    """Cross-entropy of the classes of formulas."""

    def __init__(self, student: Student, ema: float, smoothing: float) -> None:
        super().__init__(student, ema)
        self._smoothing = smoothing

    def loss_sum(self, outputs: Sequence[Tensor], views: Sequence[Tensor], targets: Tensor) -> Tensor:
        """See `Objective.loss_sum`."""
        return cross_entropy(outputs[0].float(), targets, label_smoothing=self._smoothing, reduction="sum")

    def settle(self, setting: Setting, step: int, n_steps: int) -> None:
        """See `Objective.settle`."""
        self._follow(step)

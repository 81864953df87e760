"""Targets that are softer than a label: smoothed, mixed from two bags, or taught by another model.

Each wraps the truth of a batch and is one itself, so heads with losses of their own see the same target as the last
layer. All but the mixture need a target of one class of several.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from mil.ragged.instances import wide
from mil.targets.losses import Truths


@dataclass(frozen=True, slots=True)
class Smoothed(Truths):
    """A share of the target spread evenly over the classes.

    Source: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, arXiv 1512.00567, section 7.
    """

    truth: Truths
    share: float

    @property
    def classes_B(self) -> Tensor | None:
        return self.truth.classes_B

    def loss(self, logits_BC: Tensor) -> Tensor:
        uniform_B = -F.log_softmax(wide(logits_BC), dim=1).mean(1)
        return (1 - self.share) * self.truth.loss(logits_BC) + self.share * uniform_B


@dataclass(frozen=True, slots=True)
class Distilled(Truths):
    """The truth, and a teacher's softened probabilities.

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531: cross-entropy to
    the teacher at a temperature, times its square. The teacher's entropy is taken off, so that the loss of a perfect
    copy is 0.
    """

    truth: Truths
    teacher_BC: Tensor
    """Logits, float32."""
    weight: float
    temperature: float

    @property
    def classes_B(self) -> Tensor | None:
        return self.truth.classes_B

    def loss(self, logits_BC: Tensor) -> Tensor:
        taught_BC = F.log_softmax(self.teacher_BC / self.temperature, dim=1)
        said_BC = F.log_softmax(wide(logits_BC) / self.temperature, dim=1)
        apart_B = (taught_BC.exp() * (taught_BC - said_BC)).sum(1)
        return (1 - self.weight) * self.truth.loss(logits_BC) + self.weight * self.temperature**2 * apart_B


@dataclass(frozen=True, slots=True)
class Mixed(Truths):
    """The truths of two bags of which one was mixed, by share (B,). The class is that of the larger share."""

    truth: Truths
    other: Truths
    share_B: Tensor
    """Of ``truth``, in [0.5, 1], times its bag's weight over the mixture's."""
    other_share_B: Tensor
    """Of ``other``, likewise."""

    @property
    def classes_B(self) -> Tensor | None:
        return self.truth.classes_B

    def loss(self, logits_BC: Tensor) -> Tensor:
        return self.share_B * self.truth.loss(logits_BC) + self.other_share_B * self.other.loss(logits_BC)

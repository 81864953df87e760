"""What is true of the bags of one batch, and what each target's loss is: functions on tensors."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mil.ragged.instances import wide


class Truths(ABC):
    """What is true of the bags of one batch."""

    @property
    def classes_B(self) -> Tensor | None:
        """Return the class number of each bag, int64; None where the target is not one class of several."""
        return None

    @abstractmethod
    def loss(self, logits_BC: Tensor) -> Tensor:
        """Return the loss of each bag (B,), float32."""


@dataclass(frozen=True, slots=True)
class Classes(Truths):
    """One class of several: cross-entropy."""

    true_B: Tensor

    @property
    def classes_B(self) -> Tensor:
        return self.true_B

    def loss(self, logits_BC: Tensor) -> Tensor:
        return F.cross_entropy(wide(logits_BC), self.true_B, reduction="none")


@dataclass(frozen=True, slots=True)
class Labels(Truths):
    """Several labels, NaN where unknown: the mean binary cross-entropy over a bag's known labels."""

    true_BC: Tensor

    def loss(self, logits_BC: Tensor) -> Tensor:
        known_BC = ~self.true_BC.isnan()
        losses_BC = F.binary_cross_entropy_with_logits(
            wide(logits_BC), self.true_BC.nan_to_num().to(wide(logits_BC).dtype), reduction="none"
        )
        return (losses_BC * known_BC).sum(1) / known_BC.sum(1).clamp(min=1)


@dataclass(frozen=True, slots=True)
class Values(Truths):
    """A standardised number: Huber loss, delta 1."""

    true_B: Tensor

    def loss(self, logits_BC: Tensor) -> Tensor:
        return F.huber_loss(wide(logits_BC[:, 0]), self.true_B.to(wide(logits_BC).dtype), reduction="none")


@dataclass(frozen=True, slots=True)
class Survivals(Truths):
    """A time and whether the event was seen then: Cox partial likelihood among the patients of the batch."""

    times_B: Tensor
    events_B: Tensor
    patients_B: Tensor | None = None
    """Number of the patient of each bag, of whom time and event are; None where every bag is one's."""

    def loss(self, logits_BC: Tensor) -> Tensor:
        return cox_losses(wide(logits_BC[:, 0]), self.times_B, self.events_B, self.patients_B)


def cox_losses(risks_B: Tensor, times_B: Tensor, events_B: Tensor, patients_B: Tensor | None = None) -> Tensor:
    """Return each bag's part (B,) of the negative log partial likelihood, scaled so that the mean is per bag of events.

    Source: Cox 1972; Faraggi and Simon 1995 for networks; ties after Efron 1977. Bags without an event have 0 and stand
    in the risk sets of the others. Without any event all are 0.

    A hazard is a patient's: bags of one patient together are one at risk, with the mean of their hazards, and their
    common time is no tie. Each bag has a part of its own; weighted by 1 over the patient's bags, patients count once.
    """
    places_B = torch.arange(len(risks_B), device=risks_B.device) if patients_B is None else patients_B
    alike_BB = places_B[None] == places_B[:, None]
    first_B = alike_BB.int().argmax(1)  # the place of the patient's first bag
    tied_BB = (times_B[None] == times_B[:, None]) & events_B[None] & events_B[:, None]
    once_BB = tied_BB & (first_B == torch.arange(len(risks_B), device=risks_B.device))[None]
    earlier_B = (once_BB & (first_B[None] < first_B[:, None])).sum(1).to(risks_B.dtype)
    share_B1 = (earlier_B / once_BB.sum(1).clamp(min=1))[:, None]
    part_BB = (times_B[None] >= times_B[:, None]).to(risks_B.dtype) - share_B1 * tied_BB
    part_BB = part_BB / alike_BB.sum(1)
    left_B = (risks_B[None] + part_BB.log()).logsumexp(1)
    losses_B = torch.where(events_B, left_B - risks_B, torch.zeros_like(risks_B))
    return losses_B * len(risks_B) / events_B.sum().clamp(min=1)


LOSSES: dict[str, Callable[..., Truths]] = {
    "classes": Classes,
    "labels": Labels,
    "value": Values,
    "survival": Survivals,
}
"""By the target's kind: from what `Target.learnt` tells."""

"""What every MIL head is: a module from packed rows to one row of logits per bag."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """Everything needed to build a head again."""

    name: str
    """The head's name in the registry."""
    dim: int
    """Width of the features."""
    n_classes: int
    hidden: int = 128
    """Width of the instance embedding."""
    attention: int = 64
    """Width of the attention branch, where the head has one."""
    dropout: float = 0.25

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


class HeadOutput(NamedTuple):
    """What a head says about a batch of B bags with N instances in all."""

    logits_BC: Tensor
    """float32."""
    attention_N: Tensor | None
    """float32, sums to 1 in each bag; None where the head weighs all instances alike."""


class Head(nn.Module, ABC):
    """Base of all heads. Contract: a bag's output does not depend on the other bags, nor on the order of its instances.

    An empty bag gives finite logits.
    """

    attends: ClassVar[bool]
    """Whether it weighs instances."""

    @abstractmethod
    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, rows_ND: Tensor, offsets: Sequence[int]) -> HeadOutput:
        """Return logits and attention of the packed bags; softmax and pooling in float32."""

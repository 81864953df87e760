"""What every MIL head is: a module from the packed instances of B bags to one row of logits per bag."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from mil.ragged.instances import Instances
from wsi.errors import RequestError

OUTPUTS = ("linear", "arcface")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """Everything needed to build a head again."""

    name: str
    """The head's name in the registry."""
    dim: int
    """Width of the features."""
    n_classes: int
    """Number of logits: classes, or values where the target is not a class."""
    hidden: int = 128
    """Width of the instance embedding."""
    attention: int = 64
    """Width of the attention branch, where the head has one."""
    dropout: float = 0.25
    output: str = "linear"
    """The last layer: linear, or arcface."""
    margins: tuple[float, ...] = ()
    """ArcFace's margin of each class, radians; empty: 0.3 for all."""
    subcenters: int = 1
    """ArcFace's centers per class."""
    extra_classes: int = 0
    """The last so many of the classes are learnt and never told."""
    target: str = "classes"
    """What the outputs are: of ``classes`` only their differences count."""
    scale: float = 1.0
    """What outputs are multiplied by in evaluation mode: the deviation of the values that were learnt."""
    shift: float = 0.0
    """What is then added: their mean."""
    limit: float = 0.0
    """Of standardised features, in standard deviations; 0: none, as in models made before there was one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "margins", tuple(self.margins))
        if self.output not in OUTPUTS:
            raise RequestError(f"output: expected one of {', '.join(OUTPUTS)}, found {self.output!r}")
        if self.margins and len(self.margins) != self.n_classes:
            raise RequestError(f"margins: expected {self.n_classes}, one for each class, found {len(self.margins)}")
        if self.limit < 0:
            raise RequestError(f"limit: expected 0 or more, found {self.limit}")
        if self.subcenters < 1:
            raise RequestError(f"subcenters: expected 1 or more, found {self.subcenters}")

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


class Truth(Protocol):
    """What is known of the bags of a batch while training; heads with losses of their own ask it."""

    @property
    def classes_B(self) -> Tensor | None:
        """Return the class number of each bag, int64; None where the target is not one class of several."""

    def loss(self, logits_BC: Tensor) -> Tensor:
        """Return the loss of each bag (B,), float32, of other logits for the same bags."""


class HeadOutput(NamedTuple):
    """What a head says about a batch of B bags with N instances in all; float32 throughout."""

    logits_BC: Tensor
    attention_N: Tensor | None = None
    """Sums to 1 in each bag; None where the head weighs all instances alike. For heat maps."""
    aux_loss_B: Tensor | None = None
    """The head's own loss of each bag, to be added to the target's; None without `Truth` or where there is none."""
    embedding_BH: Tensor | None = None
    """The bag as a point: what the last layer sees. None where there is no such single point."""
    tile_logits_NC: Tensor | None = None
    """What each instance says of the logits, which are the sum or the maximum of it; None where they are neither, or
    where only `Explains.explain` tells it."""


class Head(nn.Module, ABC):
    """Base of all heads.

    Contract: a bag's output does not depend on the other bags of the batch; where ``order_free``, neither on the order
    of its instances. In evaluation mode the same bags give the same bits.
    """

    attends: ClassVar[bool]
    """Whether it weighs instances."""
    order_free: ClassVar[bool] = True
    """Whether the order of a bag's instances changes nothing, in evaluation mode."""
    has_point: ClassVar[bool] = True
    """Whether one point stands for a bag (``embedding_BH``): what ArcFace and look-up by likeness need."""
    streams: ClassVar[bool] = False
    """Whether the memory of a step does not grow with a large bag, but for its scores."""
    about: ClassVar[str]
    """What it is, in one line."""

    @abstractmethod
    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, instances: Instances, truth: Truth | None = None) -> HeadOutput:
        """Return logits and attention of the packed bags; softmax and pooling in float32.

        ``truth`` is given while training, for the head's own losses.
        """


class Explains(ABC):
    """A head that can tell what each instance says of the logits."""

    says: ClassVar[Literal["sum", "max"]] = "sum"
    """How the logits follow from what the instances say."""

    @abstractmethod
    def explain(self, instances: Instances) -> HeadOutput | None:
        """Return logits and attention as in evaluation mode, with ``tile_logits_NC``, in one pass over the rows.

        A constant in the logits is shared out as the weights are: what an instance says is its weight times the logits
        of a bag of nothing but its like. None where the last layer makes no sum of it (ArcFace).
        """

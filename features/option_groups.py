"""Options that the verbs with networks share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from wsi.option_groups import Count
from wsi.options import Option

if TYPE_CHECKING:
    from features.encoders.spec import WeightsChoice

JOINED = "+"
"""Between the names of encoders whose vectors stand beside each other."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where it runs."""

    device: str = "auto"
    """cpu, cuda or cuda:<n>; auto: a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class Precision(Device):
    """Where it runs."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the matrix products; auto: fp32 on a CPU, half precision on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Where it runs."""

    nproc: Count = 1
    """Processes that share the work; with GPUs, one for each. Or start this under torchrun."""


@dataclass(frozen=True, kw_only=True)
class Prefetching:
    """Where it runs."""

    prefetch_mib: Count = 512
    """Memory for tiles under way, MiB per process."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The encoder's weights."""

    weights: Path | None = None
    """Local weights, in place of the published ones: .safetensors, or .pt with tensors only."""
    random_weights: Annotated[int | None, Option(least=0, most=2**63 - 1, expected="a seed from 0 to 2^63 - 1")] = None
    """Seed of untrained random weights, for trials only."""

    def start(self) -> "WeightsChoice":
        """Return where the weights come from; raises `RequestError` where the choice cannot be."""
        from features.encoders.spec import WeightsChoice

        return WeightsChoice(self.weights, self.random_weights)

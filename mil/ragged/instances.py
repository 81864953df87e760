"""The instances of a batch of bags, packed, and turned into numbers that a network can use only chunk by chunk.

Features stay in the type that they are stored in (float16 as a rule). They are cast and standardised on the device, all
at once for small bags, and `CHUNK` rows at a time where a bag has more than `STREAM_ABOVE` instances, so that a large
bag never exists whole in float32.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wsi.errors import BagError

STREAM_ABOVE = 20_000
"""Instances in one bag above which heads go over its rows in chunks and compute them again in the backward pass."""
CHUNK = {"cpu": 2048, "cuda": 32_768}
"""Rows of a chunk by device: what stays near a core's cache, what keeps a GPU busy (128 MiB at 1024 features)."""
AT_ONCE = 256
"""Rows that a CPU casts and standardises at once: all of them would go through memory four times."""
RowFunction = Callable[[Tensor], Tensor]
"""From rows (n, D) to rows (n, ...); a row's result depends on that row alone."""


def wide(values: Tensor) -> Tensor:
    """Return the values in float32, or as they are in float64: what softmax, sums and losses are computed in."""
    return values if values.dtype == torch.float64 else values.float()


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """The instances of B bags: bag b is the rows ``offsets[b]`` to ``offsets[b + 1]``.

    Raises
    ------
    BagError
        A bag has no instance.
    """

    rows_ND: Tensor
    """Features in any float type."""
    offsets: Sequence[int]
    """B + 1 row numbers, from 0 to N, ascending."""
    mean_D: Tensor | None = None
    """Taken off each row, before ``scale_D`` multiplies it."""
    scale_D: Tensor | None = None
    limit: float = float("inf")
    """Standardised values beyond it count as the limit."""
    order_N: Tensor | None = None
    """int64; row i is ``rows_ND[order_N[i]]``, where given."""
    large: bool = False
    """Whether these are parts of a bag large enough to be streamed, whatever their own sizes."""
    presence_N: Tensor | None = None
    """Ones that multiply the rows as they are stored, where given: their gradient is gradient times input of each row,
    without a gradient of every feature."""

    def __post_init__(self) -> None:
        empty = [str(bag) for bag, size in enumerate(self.sizes) if size < 1]
        if empty:
            raise BagError(f"bag {', '.join(empty[:5])} of the batch is empty: expected one or more instances in each")

    @property
    def sizes(self) -> list[int]:
        """Return the number of instances of each bag."""
        return [stop - start for start, stop in pairwise(self.offsets)]

    @property
    def streamed(self) -> bool:
        """Tell whether a bag is so large that rows should be gone over in chunks; never while a graph is exported."""
        return not torch.compiler.is_compiling() and (self.large or max(self.sizes) > STREAM_ABOVE)

    def rows(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the rows from start to stop, cast to float32 (float64 stays) and standardised."""
        if self.order_N is not None:
            return self.take(slice(start, stop))
        ready = self._ready(self.rows_ND[start:stop])
        return ready if self.presence_N is None else ready * self.presence_N[start:stop, None]

    def take(self, rows_K: Tensor | slice) -> Tensor:
        """Return the rows of these numbers (K,), ready as those of `rows`."""
        stored = rows_K if self.order_N is None else self.order_N[rows_K]
        ready = self._ready(self.rows_ND[stored])
        return ready if self.presence_N is None else ready * self.presence_N[stored, None]

    def _ready(self, chosen: Tensor) -> Tensor:
        if self.mean_D is None or self.scale_D is None:
            return wide(chosen)
        if chosen.dtype in (torch.float32, torch.float64):
            return ((chosen - self.mean_D) * self.scale_D).clamp_(-self.limit, self.limit)
        if chosen.device.type != "cpu":  # the cast is part of the difference: once less through memory
            return chosen.sub(self.mean_D).mul_(self.scale_D).clamp_(-self.limit, self.limit)
        if torch.compiler.is_compiling() or len(chosen) <= AT_ONCE:
            return chosen.float().sub_(self.mean_D).mul_(self.scale_D).clamp_(-self.limit, self.limit)
        ready = torch.empty(chosen.shape)
        for own, part in zip(ready.split(AT_ONCE), chosen.split(AT_ONCE), strict=True):
            own.copy_(part).sub_(self.mean_D).mul_(self.scale_D).clamp_(-self.limit, self.limit)
        return ready

    def chunks(self) -> Iterator[tuple[int, int, int]]:
        """Yield (bag, start, stop) of chunks of at most `CHUNK` rows, none across the border of two bags."""
        size = CHUNK.get(self.rows_ND.device.type, CHUNK["cpu"])
        for bag, (first, last) in enumerate(pairwise(self.offsets)):
            for start in range(first, last, size):
                yield bag, start, min(start + size, last)

    def map(self, function: RowFunction) -> Tensor:
        """Return ``function`` of all rows; of large bags in chunks that are computed again in the backward pass."""
        if not self.streamed:
            return function(self.rows())

        def part(start: int, stop: int) -> Tensor:
            return function(self.rows(start, stop))

        if not torch.is_grad_enabled():
            return torch.cat([part(start, stop) for _, start, stop in self.chunks()])
        parts = [checkpoint(part, start, stop, use_reentrant=False) for _, start, stop in self.chunks()]
        return torch.cat(parts)

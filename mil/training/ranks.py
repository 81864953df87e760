"""The processes that train one model together: each takes a share of every batch's bags.

The gradient is exactly that of one process, whatever the bags' sizes and however many a rank has: a rank's summed loss
is scaled by ``world / bags of the whole batch``, and gradients are averaged over the ranks once a step, after all of a
rank's backward passes. (The mean of the ranks' mean losses, as DistributedDataParallel leaves it, is another gradient
when shares differ.) Sums are in float32.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from features.distributed import Group
from wsi.arrays import Floats

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Ranks:
    """A process among those of its model; alone without a group."""

    rank: int = 0
    world: int = 1
    group: Group | None = None
    device: torch.device = _CPU

    def share(self, sizes: Sequence[int]) -> list[int]:
        """Return the positions of this rank's bags, ascending: the largest bag goes to the rank with the least rows."""
        if self.world == 1:
            return list(range(len(sizes)))
        rows = [0] * self.world
        own = []
        for position in sorted(range(len(sizes)), key=lambda position: (-sizes[position], position)):
            rank = rows.index(min(rows))
            rows[rank] += sizes[position]
            if rank == self.rank:
                own.append(position)
        return sorted(own)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the ranks; a parameter without any stays without."""
        if self.world == 1:
            return
        own = list(parameters)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
        there = torch.tensor([float(p.grad is not None) for p in own], device=parts[0].device)
        flat = torch.cat([part.detach().reshape(-1).float() for part in parts] + [there])
        dist.all_reduce(flat)
        *found, there = torch.split(flat, [p.numel() for p in own] + [len(own)])
        for parameter, value, any_rank in zip(own, found, there.tolist(), strict=True):
            if any_rank:
                parameter.grad = (value / self.world).view_as(parameter).to(parameter.dtype)

    def total(self, values: Floats) -> Floats:
        """Return the sum over the ranks, element by element, float64."""
        if self.world == 1:
            return values
        sums: Tensor = torch.from_numpy(np.ascontiguousarray(values, np.float64)).to(self.device)
        dist.all_reduce(sums)
        return np.asarray(sums.cpu().numpy())

    def any(self, own: bool) -> bool:
        """Tell whether it is so on any rank: one answer for all of them."""
        return own if self.world == 1 else bool(self.total(np.array([float(own)]))[0])

    def from_first(self, value: Any) -> Any:
        """Return rank 0's value on every rank."""
        return value if self.group is None else self.group.from_first(value)

"""Ragged bags as rows and offsets, never padded; attention pooling over them in float32.

``rows_ND`` holds the instances of all bags of a batch one after another; bag b is
``rows_ND[offsets[b]:offsets[b + 1]]``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.floating[Any]]
"""(n, D) features of one bag, any float type, memory-mapped or not."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch of bags."""

    rows_ND: Tensor
    offsets: tuple[int, ...]
    """n_bags + 1 row numbers, from 0 to N, ascending."""

    @property
    def sizes(self) -> list[int]:
        """Return the number of instances of each bag."""
        return [stop - start for start, stop in pairwise(self.offsets)]


def pack(bags: Sequence[Rows], device: torch.device | str = "cpu") -> Packed:
    """Join bags (n_i, D) into one float32 block on the device; rows travel in their own type and are cast there."""
    offsets = tuple(accumulate((len(bag) for bag in bags), initial=0))
    rows = torch.from_numpy(np.concatenate([np.asarray(bag) for bag in bags]))
    return Packed(rows.to(device, non_blocking=True).float(), offsets)


def attention_pool(scores_N: Tensor, values_NH: Tensor, offsets: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return each bag's attention-weighted mean (B, H) and the attention (N,), which sums to 1 in each bag, in float32.

    An empty bag gives zeros.
    """
    sizes = [stop - start for start, stop in pairwise(offsets)]
    with torch.autocast(values_NH.device.type, enabled=False):
        weights = [scores.softmax(0) for scores in torch.split(scores_N.float(), sizes)]
        values = torch.split(values_NH.float(), sizes)
        pooled_BH = torch.stack([weight @ value for weight, value in zip(weights, values, strict=True)])
        return pooled_BH, torch.cat(weights)


def mean_pool(values_NH: Tensor, offsets: Sequence[int]) -> Tensor:
    """Return each bag's mean (B, H) in float32; an empty bag gives zeros."""
    sizes = [stop - start for start, stop in pairwise(offsets)]
    with torch.autocast(values_NH.device.type, enabled=False):
        return torch.stack([rows.sum(0) / max(len(rows), 1) for rows in torch.split(values_NH.float(), sizes)])


def group_by_rows(sizes: Sequence[int], max_rows: int) -> list[list[int]]:
    """Return consecutive groups of positions, each of at most ``max_rows`` instances or one single larger bag."""
    groups: list[list[int]] = []
    filled = 0
    for position, size in enumerate(sizes):
        if not groups or filled + size > max_rows:
            groups.append([])
            filled = 0
        groups[-1].append(position)
        filled += size
    return groups

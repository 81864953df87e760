"""Ragged bags as rows and offsets, never padded.

``rows_ND`` holds the instances of all bags of a batch one after another; bag b is
``rows_ND[offsets[b]:offsets[b + 1]]``.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.bags.rows import LazyRows
from wsi.errors import BagError

Rows = NDArray[np.floating[Any]]
"""(n, D) features of one bag, any float type, memory-mapped or not."""
BagRows = Rows | LazyRows
"""(n, D) features of one bag, in memory or read when they are used."""


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


def pack(
    bags: Sequence[BagRows | Tensor], device: torch.device | str = "cpu", names: Sequence[str] | None = None
) -> Packed:
    """Join bags (n_i, D) into one block on the device, in the type they are stored in; a single bag is not copied.

    Bags that are on the device already (tensors) are joined there.

    Raises
    ------
    BagError
        A bag is empty; ``names``, or its place in the batch, tell which.
    """
    empty = [names[i] if names else f"number {i}" for i, bag in enumerate(bags) if len(bag) == 0]
    if empty:
        raise BagError(f"bag {', '.join(empty[:5])} is empty: expected one or more tiles; leave it out")
    offsets = tuple(accumulate((len(bag) for bag in bags), initial=0))
    if any(isinstance(bag, Tensor) for bag in bags):
        parts = [(bag if isinstance(bag, Tensor) else _as_tensor(np.asarray(bag))).to(device) for bag in bags]
        return Packed(parts[0] if len(parts) == 1 else torch.cat(parts), offsets)
    rows = np.asarray(bags[0]) if len(bags) == 1 else np.concatenate([np.asarray(bag) for bag in bags])
    return Packed(_as_tensor(rows).to(device, non_blocking=True), offsets)


def _as_tensor(rows: Rows) -> Tensor:
    """Return a tensor on the array's memory; features are only read, so a read-only file map serves as well."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(rows)


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

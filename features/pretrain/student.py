"""A backbone and the head on it, which is thrown away afterwards."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn


class Student(nn.Module):
    """A backbone and its head; views of one size go through together."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Return an output (N, K) for each view (N, 3, S, S); the smallest go first, batch norm keeps the largest's."""
        order = sorted(range(len(views)), key=lambda number: views[number].shape[2])
        outputs: dict[int, Tensor] = {}
        for _, same in groupby(order, key=lambda number: views[number].shape[2]):
            numbers = list(same)
            together: Tensor = self.head(self.backbone(torch.cat([views[number] for number in numbers])))
            outputs |= dict(zip(numbers, together.chunk(len(numbers)), strict=True))
        return [outputs[number] for number in range(len(views))]

"""The running mean of a model's weights: steadier than the weights of any one step.

Source: Polyak and Juditsky 1992; exponential form with a young mean that forgets faster, as in Tarvainen and Valpola,
Mean Teachers, NeurIPS 2017, arXiv 1703.01780: the decay is at most (1 + steps) / (10 + steps).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightMean:
    """The mean of the floating tensors of a model's state; other tensors are the latest. Off where ``decay`` is 0."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.steps = 0
        self.values: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        if not self.decay:
            return
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.model.state_dict().items():
            mean = self.values.get(name)
            if mean is None or not value.is_floating_point():
                self.values[name] = value.detach().clone()
            else:
                mean.lerp_(value, 1 - keep)
        self.steps += 1

    def restore(self, values: dict[str, Tensor], steps: int) -> None:
        """Go on from a checkpoint."""
        own = self.model.state_dict()
        self.values = {name: value.to(own[name].device) for name, value in values.items()}
        self.steps = steps

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the mean's weights inside."""
        if not self.values:
            yield
            return
        own = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.values)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

"""Statistics of batch norm under parts and ranks: each part is normalised by itself, and all parts count alike.

Batch norm makes an image's output depend on the others of its batch. Synchronised over ranks it would still see the
parts that are accumulated one by one, so two ranks would not do what two parts do. Here every part of a step is its own
batch (ghost batch norm, arXiv 1705.08741), and the running statistics move once a step, towards the mean of all parts'
of all ranks. So the number of parts shapes the result, and how they are divided among ranks does not, but for rounding.
"""

import torch
from torch import Tensor, nn

from features.learning.backbone import NORMS
from features.learning.ranks import Setting
from features.learning.steps import over_ranks

MOMENTUM = 0.1
"""Where a layer names none."""


class Statistics:
    """The running statistics of a model's batch norms.

    A layer's own momentum is set to 1: after a part has gone through, its buffers hold that part's statistics.
    """

    def __init__(self, model: nn.Module) -> None:
        self.norms = [own for own in model.modules() if isinstance(own, NORMS) and own.track_running_stats]
        self._momenta = [0.0 for _ in self.norms]
        for number, own in enumerate(self.norms):
            self._momenta[number] = MOMENTUM if own.momentum is None else own.momentum
            own.momentum = 1.0
        self.reload()

    @property
    def buffers(self) -> list[Tensor]:
        """What the layers hold: means and variances."""
        return [value for own in self.norms for value in (own.running_mean, own.running_var) if value is not None]

    def reload(self) -> None:
        """Take what the layers hold for the running statistics."""
        self._running = [value.clone() for value in self.buffers]
        self._sums = [torch.zeros_like(value, dtype=torch.float64) for value in self._running]

    def note(self) -> None:
        """Add the statistics of the part that has just gone through."""
        if self.norms:
            torch._foreach_add_(self._sums, self.buffers)

    def settle(self, n_parts: int, setting: Setting, step: int) -> None:
        """Move the running statistics by a step's parts of all ranks, and give them to the layers."""
        if not self.norms:
            return
        flat = torch.cat([value.flatten() for value in self._sums]).cpu().numpy()
        mean = torch.from_numpy(over_ranks(flat, setting) / n_parts)
        start = 0
        for number, (running, held, total) in enumerate(zip(self._running, self.buffers, self._sums, strict=True)):
            part = mean[start : start + running.numel()].view_as(running).to(running)
            start += running.numel()
            running.lerp_(part, self._momenta[number // 2])
            held.copy_(running)
            total.zero_()
        count_steps(self.norms, step)


def count_steps(norms: "list[nn.modules.batchnorm._BatchNorm]", step: int) -> None:
    """Let layers count steps, as they would with one part each."""
    for own in norms:
        if own.num_batches_tracked is not None:
            own.num_batches_tracked.fill_(step + 1)


def refuse_single_images(model: nn.Module, smallest: int, n_parts: int) -> str:
    """Return why a part is too small to be normalised, or nothing."""
    if smallest >= 2 or not any(isinstance(own, NORMS) for own in model.modules()):
        return ""
    return f"expected two images or more in each of {n_parts} parts for batch norm, found {smallest}"

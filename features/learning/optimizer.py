"""The optimizer's groups, and the rate's course."""

import math
from typing import Protocol

import torch
from torch import nn


class Course(Protocol):
    """Options that tell the rate's course."""

    @property
    def lr(self) -> float: ...
    @property
    def epochs(self) -> int: ...
    @property
    def warmup_epochs(self) -> float: ...


def undecayed(backbone: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that the architecture wants no weight decay for."""
    names = getattr(backbone, "no_weight_decay", None)
    return frozenset(names()) if callable(names) else frozenset()


def learning_rate(options: Course, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step, counted from the run's first: linear warm-up, then half a cosine down to 0."""
    total = options.epochs * steps_per_epoch
    warmup = min(round(options.warmup_epochs * steps_per_epoch), total - 1)
    if step < warmup:
        return options.lr * (step + 1) / (warmup + 1)
    return options.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]

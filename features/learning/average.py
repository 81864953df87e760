"""The moving average of a model: parameters and the statistics of its batch norms."""

import copy
from typing import TypeVar

import torch
from torch import nn

from features.learning.backbone import NORMS
from features.learning.norms import count_steps

Model = TypeVar("Model", bound=nn.Module)


def average_of(student: Model) -> Model:
    """Return a copy whose batch norms, where it is in training mode, leave its statistics alone."""
    average = copy.deepcopy(student).requires_grad_(requires_grad=False)
    for own in _norms(average):
        own.momentum = 0.0
    return average


def warmed(decay: float, step: int) -> float:
    """Return the decay of a step, counted from 0: the first steps move the average faster."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def average_into(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average's parameters towards the model's; in the first steps faster than ``decay`` tells."""
    _move_parameters(average, model, warmed(decay, step))


@torch.no_grad()
def move_average(average: nn.Module, student: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the student by ``1 - decay``."""
    _move_parameters(average, student, decay)
    for own, other in zip(_norms(average), _norms(student), strict=True):
        for name in ("running_mean", "running_var"):
            if getattr(own, name) is not None:
                getattr(own, name).lerp_(getattr(other, name), 1 - decay)
    count_steps(_norms(average), step)


def _move_parameters(average: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [own for own in model.modules() if isinstance(own, NORMS)]

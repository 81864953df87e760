"""The optimizer: AdamW with layer-wise rates, the rate's course, and the moving average of the weights."""

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from features.adamw import AdamW
from features.finetune.model import TileClassifier
from features.finetune.options import FinetuneOptions


def build_optimizer(options: FinetuneOptions, model: TileClassifier) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101); a layer's rate is that of the one above times ``layer_decay`` (as arXiv
    2106.08254 does), its share in the group's ``lr_scale``. Biases and norms are not decayed.
    """  # noqa: D205
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        model.backbone,
        weight_decay=options.weight_decay,
        no_weight_decay_list=_undecayed(model.backbone),
        layer_decay=options.layer_decay,
    )
    head = {"lr_scale": 1.0, "params": [model.head.weight], "weight_decay": options.weight_decay}
    bias = {"lr_scale": 1.0, "params": [model.head.bias], "weight_decay": 0.0}
    return AdamW([*groups, head, bias], lr=options.lr)


def _undecayed(backbone: nn.Module) -> frozenset[str]:
    names = getattr(backbone, "no_weight_decay", None)
    return frozenset(names()) if callable(names) else frozenset()


def learning_rate(options: FinetuneOptions, step: int, steps_per_epoch: int) -> float:
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


def size_of(sizes: tuple[int, ...], epoch: int, epochs: int) -> int:
    """Return the input size of an epoch: each size has the same share of the epochs, within one."""
    return sizes[epoch * len(sizes) // epochs]


@torch.no_grad()
def average_into(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the model; in the first steps (counted from 0) faster than ``decay`` tells."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    own: list[Tensor] = list(average.parameters())
    torch._foreach_lerp_(own, list(model.parameters()), share)

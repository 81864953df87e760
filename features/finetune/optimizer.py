"""The optimizer: AdamW with layer-wise rates; and the input's size over the epochs."""

from typing import Any

import torch
from timm.optim import param_groups_layer_decay

from features.adamw import AdamW
from features.finetune.model import TileClassifier
from features.finetune.options import FinetuneOptions
from features.learning.optimizer import undecayed


def build_optimizer(options: FinetuneOptions, model: TileClassifier) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101); a layer's rate is that of the one above times ``layer_decay`` (as arXiv
    2106.08254 does), its share in the group's ``lr_scale``. Biases and norms are not decayed.
    """  # noqa: D205
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        model.backbone,
        weight_decay=options.weight_decay,
        no_weight_decay_list=undecayed(model.backbone),
        layer_decay=options.layer_decay,
    )
    head = {"lr_scale": 1.0, "params": [model.head.weight], "weight_decay": options.weight_decay}
    bias = {"lr_scale": 1.0, "params": [model.head.bias], "weight_decay": 0.0}
    return AdamW([*groups, head, bias], lr=options.lr)


def size_of(sizes: tuple[int, ...], epoch: int, epochs: int) -> int:
    """Return the input size of an epoch: each size has the same share of the epochs, within one."""
    return sizes[epoch * len(sizes) // epochs]

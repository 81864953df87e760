"""Features of many images by the weights that would be kept, divided among ranks."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from features.encoders.device import autocast
from features.learning.ranks import Setting
from features.learning.steps import over_ranks
from wsi.arrays import Floats, Ints
from wsi.progress.stalls import moved

TOGETHER = 64
"""Images that go through together, whatever the batch size: the same cuts for any number of ranks."""


def normalised(images_NCHW: Tensor, setting: Setting) -> Tensor:
    """Return images in [0, 1] as the network wants them."""
    mean, std = (images_NCHW.new_tensor(own).view(1, 3, 1, 1) for own in (setting.spec.mean, setting.spec.std))
    tiles = (images_NCHW - mean) / std
    return tiles.contiguous(memory_format=torch.channels_last) if tiles.is_cuda else tiles


@torch.no_grad()
def features_of(backbone: nn.Module, images: Callable[[Ints], Tensor], count: int, setting: Setting) -> Floats:
    """Return float64 (count, D): features of ``images(rows)`` for all rows, on every rank (a collective)."""
    was = backbone.training
    backbone.eval()
    found = np.zeros((count, setting.spec.dim))
    for start in range(setting.place.rank * TOGETHER, count, setting.place.world * TOGETHER):
        moved()
        rows = np.arange(start, min(count, start + TOGETHER))
        tiles = normalised(images(rows), setting)
        with autocast(setting.device, setting.precision):
            features = backbone(tiles)
        found[rows] = features.double().cpu().numpy()
    backbone.train(was)
    return over_ranks(found, setting)

"""Colour jitter of a batch, on the device: each tile by factors of its own."""

import torch
from torch import Tensor

COLOURS = 5
"""Numbers of a colour jitter: gains of R, G, B, contrast, saturation."""
_GREY = (0.299, 0.587, 0.114)
"""Luma weights of ITU-R BT.601."""


def coloured(tiles_NCHW: Tensor, colours_N5: Tensor) -> Tensor:
    """Return float tiles in [0, 1] with gains, contrast and saturation changed, each by its own factors."""
    grey = torch.tensor(_GREY, device=tiles_NCHW.device).view(1, 3, 1, 1)
    gains, contrast, saturation = colours_N5[:, :3], colours_N5[:, 3], colours_N5[:, 4]
    tiles = tiles_NCHW * gains[:, :, None, None]
    mean = (tiles * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    tiles = (tiles - mean) * contrast[:, None, None, None] + mean
    luma = (tiles * grey).sum(1, keepdim=True)
    return ((tiles - luma) * saturation[:, None, None, None] + luma).clamp(0, 1)

"""Test-time views of a tile: what the encoder sees beside the tile itself."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

View = Callable[[Tensor], Tensor]
"""uint8 (N, 3, T, T) to the same shape."""
GREY = (0.299, 0.587, 0.114)
"""ITU-R BT.601 luma."""
JITTERS = ((1.1, 1.1, 1.1), (0.9, 0.9, 0.9), (1.1, 0.9, 1.1), (0.9, 1.1, 0.9))
"""Factors of brightness, contrast and saturation: fixed, so that a bag can be made again."""


def _same(tiles_NCHW: Tensor) -> Tensor:
    return tiles_NCHW


def _turned(tiles_NCHW: Tensor, quarters: int, mirrored: bool) -> Tensor:
    turned = torch.rot90(tiles_NCHW, quarters, (2, 3))
    return turned.flip(3) if mirrored else turned


def _jittered(tiles_NCHW: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    pixels = tiles_NCHW.float() * brightness
    grey = (pixels * pixels.new_tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    pixels = (pixels - mean) * contrast + mean
    grey = (grey - mean) * contrast + mean
    pixels = (pixels - grey) * saturation + grey
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


_FLIPS = (_same, partial(_turned, quarters=0, mirrored=True), partial(_turned, quarters=2, mirrored=True))
VIEWS: dict[str, tuple[View, ...]] = {
    "none": (_same,),
    "flips": (*_FLIPS, partial(_turned, quarters=2, mirrored=False)),
    "d4": tuple(partial(_turned, quarters=q, mirrored=m) for m in (False, True) for q in range(4)),
    "colour": (_same, *(partial(_jittered, brightness=b, contrast=c, saturation=s) for b, c, s in JITTERS)),
}
"""``flips``: 4 (none, both axes, and both at once); ``d4``: 8 (quarter turns, mirrored or not); ``colour``: 5."""

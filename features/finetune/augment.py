"""Augmentation of tiles, drawn for each tile of each epoch by itself: it does not depend on ranks or batches.

H&E tiles have no up and no handedness: all eight turns and flips are alike. Colour varies with the stain's batch and
the scanner: the jitter scales each channel, the contrast and the saturation.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.finetune.batches import generator

COLOURS = 5
"""Numbers of a colour jitter: gains of R, G, B, contrast, saturation."""
_GREY = (0.299, 0.587, 0.114)
"""Luma weights of ITU-R BT.601."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one tile."""

    turn: int
    """0 to 7: quarter turns, and from 4 on a flip, too."""
    colours: NDArray[np.float32]
    """(5,) factors; ones leave the tile as it is."""
    share: float
    """Of the tile in a mixup; 1: not mixed."""


def draw_change(seed: int, epoch: int, image_id: str, tile: int, *, flips: bool, jitter: float, mixup: float) -> Change:
    """Draw the change of one tile in one epoch."""
    rng = generator(seed, epoch, "change", image_id, tile)
    turn, colours = int(rng.integers(8)), rng.uniform(-1, 1, 1 + COLOURS)
    share = float(rng.beta(mixup, mixup)) if mixup else 1.0
    factors = 1 + jitter * colours
    gains = factors[0] * (1 + jitter / 2 * colours[1:4])  # brightness, and a smaller shift of each channel
    return Change(turn if flips else 0, np.array([*gains, *factors[4:]], np.float32), share)


def turned(tile_CHW: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Return a view of the square tile, turned and flipped."""
    view = np.rot90(tile_CHW, turn % 4, axes=(1, 2))
    return view[:, :, ::-1] if turn >= 4 else view


def coloured(tiles_NCHW: Tensor, colours_N5: Tensor) -> Tensor:
    """Return float tiles in [0, 1] with gains, contrast and saturation changed, each by its own factors."""
    grey = torch.tensor(_GREY, device=tiles_NCHW.device).view(1, 3, 1, 1)
    gains, contrast, saturation = colours_N5[:, :3], colours_N5[:, 3], colours_N5[:, 4]
    tiles = tiles_NCHW * gains[:, :, None, None]
    mean = (tiles * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    tiles = (tiles - mean) * contrast[:, None, None, None] + mean
    luma = (tiles * grey).sum(1, keepdim=True)
    return ((tiles - luma) * saturation[:, None, None, None] + luma).clamp(0, 1)

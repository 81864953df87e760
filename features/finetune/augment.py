"""Augmentation of tiles, drawn for each tile of each epoch by itself: it does not depend on ranks or batches.

H&E tiles have no up and no handedness: all eight turns and flips are alike. Colour varies with the stain's batch and
the scanner: the jitter scales each channel, the contrast and the saturation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.learning.batches import generator
from features.learning.colours import COLOURS


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

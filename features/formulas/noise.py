"""Smooth noise by formula: numbers at the knots of a lattice, interpolated between them."""

import torch
from torch import Tensor

from features.formulas.chance import uniform


def smooth_noise(keys_n: Tensor, name: str, size_px: int, knots: int) -> Tensor:
    """Return value noise, float32 (n, size, size) in [0, 1]: ``knots`` to a side, smooth steps between (Perlin 1985).

    Sums and products alone, so that a pixel does not depend on how arrays are cut.
    """
    lattice = uniform(keys_n, name, knots + 1, knots + 1).float()
    position = torch.arange(size_px, device=keys_n.device, dtype=torch.float64) * (knots / size_px)
    low = position.floor()
    share = position - low
    share = (share * share * (3 - 2 * share)).float()
    index = low.long()
    rows = lattice[:, index] + share[:, None] * (lattice[:, index + 1] - lattice[:, index])
    left, right = rows[:, :, index], rows[:, :, index + 1]
    return left + share * (right - left)


def octaves(keys_n: Tensor, name: str, size_px: int, knots: int, number: int) -> Tensor:
    """Return the weighted mean of value noise, each octave twice as fine and half as strong, (n, size, size)."""
    total = 2 - 2 ** (1 - number)
    return torch.stack(
        [
            smooth_noise(keys_n, f"{name} {o}", size_px, min(knots << o, size_px)) * (0.5**o / total)
            for o in range(number)
        ]
    ).sum(0)

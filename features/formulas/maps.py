"""Affine maps by chance that contract: of the plane by the sigma-factor, of space by how far their attractor spreads.

Legend: n systems, K maps in each (those beyond a system's own number have odds of 0). All float64.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from features.formulas.chance import between, keys, normal, uniform, whole

MOST_MAPS = 8
LEAST_DETERMINANT = 0.01
"""Below it a map is drawn as often as with it: otherwise its part of the attractor would stay empty."""
CONTRACTION = 0.98
"""Largest stretching of a map after its parameters were changed, and of one of space."""
VALUES = (0.1, 0.8)
"""Singular values of maps of space, before they are scaled together."""
DIMENSIONS = (1.5, 2.2)


@dataclass(frozen=True, slots=True)
class Maps:
    """Systems of x -> matrix x + shift."""

    matrices: Tensor
    """(n, K, d, d)."""
    shifts: Tensor
    """(n, K, d)."""
    odds: Tensor
    """(n, K): how often each is drawn; they sum up to 1."""

    def __getitem__(self, rows: Tensor) -> "Maps":
        return Maps(self.matrices[rows], self.shifts[rows], self.odds[rows])

    def to(self, device: torch.device) -> "Maps":
        """Return them on a device."""
        return Maps(self.matrices.to(device), self.shifts.to(device), self.odds.to(device))

    def framed(self, scale_nd: Tensor, origin_nd: Tensor) -> "Maps":
        """Return the same systems in other coordinates: scale x + origin, axis by axis."""
        matrices = self.matrices * (scale_nd[:, None, :, None] / scale_nd[:, None, None, :])
        moved = origin_nd[:, None] - (matrices * origin_nd[:, None, None]).sum(-1)
        return replace(self, matrices=matrices, shifts=self.shifts * scale_nd[:, None] + moved)

    def changed(self, matrices: Tensor, shifts: Tensor) -> "Maps":
        """Return the systems with other numbers, drawn as often as before; maps that would expand are scaled down."""
        stretch = _stretch(matrices)[..., None, None]
        return replace(self, matrices=matrices * (CONTRACTION / stretch).clamp(max=1.0), shifts=shifts)


def plane_maps(system_keys: Tensor, numbers: tuple[int, int], sigma: tuple[float, float] | None = None) -> Maps:
    """Draw systems of the plane, of ``numbers`` maps (least, most).

    ``sigma``: range of the sigma-factor; by default from (5 + N) / 2 to (6 + N) / 2 for N maps.
    Source: Anderson & Farrell, Improving fractal pre-training, WACV 2022, section 3.
    """
    number = whole(system_keys, "number of maps", *numbers)
    low, high = ((5 + number) / 2, (6 + number) / 2) if sigma is None else (number * 0 + v for v in sigma)
    factor = low + (high - low) * uniform(system_keys, "sigma factor")
    values = _singular_values(system_keys, number, factor)
    turns = between(system_keys, "turns", -math.pi, math.pi, 2, MOST_MAPS)
    signs = 2.0 * whole(system_keys, "signs", 0, 1, MOST_MAPS, 2) - 1
    matrices = _turn(turns[:, 0]) * values[..., None, :] @ _turn(turns[:, 1]) * signs[..., None, :]
    shifts = between(system_keys, "shifts", -1, 1, MOST_MAPS, 2)
    return Maps(matrices, shifts, _odds(values.prod(-1), number))


def space_maps(system_keys: Tensor, numbers: tuple[int, int]) -> Maps:
    """Draw systems of space, scaled to a similarity dimension of 1.5 to 2.2: threads and leaves, no dust, no blots.

    The similarity dimension d is that of sum |det|^(d / 3) = 1 (Moran 1946; for maps that stretch unevenly a guide).
    """
    number = whole(system_keys, "number of maps", *numbers)
    values = between(system_keys, "values", *VALUES, MOST_MAPS, 3)
    own = torch.arange(MOST_MAPS, device=number.device) < number[:, None]
    dimension = between(system_keys, "dimension", *DIMENSIONS)
    total = (values.prod(-1) ** (dimension[:, None] / 3) * own).sum(1)
    values = (values * (total ** (-1 / dimension))[:, None, None]).clamp(max=CONTRACTION)
    signs = 2.0 * whole(system_keys, "signs", 0, 1, MOST_MAPS, 3) - 1
    first, second = (rotations(system_keys, f"turn {i}", MOST_MAPS) for i in range(2))
    matrices = first * (values * signs)[..., None, :] @ second
    return Maps(matrices, between(system_keys, "shifts", -1, 1, MOST_MAPS, 3), _odds(values.prod(-1), number))


def rotations(system_keys: Tensor, name: str, count: int) -> Tensor:
    """Return rotations of space, evenly distributed, (n, count, 3, 3): from normal quaternions (Shoemake 1992)."""
    quaternions = normal(system_keys, name, count, 4)
    w, x, y, z = (quaternions / quaternions.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def candidates(class_keys: Tensor, count: int) -> Tensor:
    """Return keys (classes, count) of systems among which a class chooses."""
    return torch.stack([keys(class_keys, torch.full_like(class_keys, i)) for i in range(count)], 1)


def _singular_values(system_keys: Tensor, number: Tensor, factor: Tensor) -> Tensor:
    """Return (n, K, 2), larger first, each at most 1, so that s1 + 2 s2 over the first N maps is the factor."""
    chance = uniform(system_keys, "singular values", MOST_MAPS, 2)
    left, values = factor.clone(), torch.full_like(chance, 0.5)
    for index in range(MOST_MAPS):
        after = 3.0 * (number - 1 - index).clamp(min=0)  # the most that the maps to come can take up
        low, high = ((left - after) / 3).clamp(min=0), left.clamp(max=1.0)
        first = low + (high - low) * chance[:, index, 0]
        # the last map takes what is left: s2 in the range that leaves s1 between s2 and 1
        last = after == 0
        low2 = ((left - after - first) / 2).clamp(min=0)
        high2 = torch.minimum(first, (left - first) / 2)
        second = low2 + (high2 - low2) * chance[:, index, 1]
        low_last, high_last = ((left - 1) / 2).clamp(min=0), left / 3
        second = torch.where(last, low_last + (high_last - low_last) * chance[:, index, 1], second)
        first = torch.where(last, left - 2 * second, first)
        own = index < number
        values[:, index] = torch.where(own[:, None], torch.stack((first, second), 1), values[:, index])
        left = torch.where(own, left - first - 2 * second, left)
    return values


def _odds(determinants: Tensor, number: Tensor) -> Tensor:
    own = torch.arange(MOST_MAPS, device=number.device) < number[:, None]
    weights = determinants.abs().clamp(min=LEAST_DETERMINANT) * own
    return weights / weights.sum(1, keepdim=True)


def _turn(angles: Tensor) -> Tensor:
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)


def _stretch(matrices: Tensor) -> Tensor:
    """Return the largest singular value of matrices (..., 2, 2)."""
    square = matrices.square().sum((-2, -1))
    determinant = matrices[..., 0, 0] * matrices[..., 1, 1] - matrices[..., 0, 1] * matrices[..., 1, 0]
    return ((square + (square.square() - 4 * determinant.square()).clamp(min=0).sqrt()) / 2).sqrt()

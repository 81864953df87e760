"""Dead leaves: figures of all sizes fall on each other, and hide what lies below.

``deadleaves``
    Baradad et al., Learning to see by looking at noise, NeurIPS 2021: discs, squares and triangles, or all of them, of
    radii from 0.03 of the side on, as many as r^-3 says, in colours by chance. There pictures have no labels; here a
    class is its mixture of sizes and of figures, how long and how aligned they are, its range of colours, and how
    grained they are. An instance is what fell.
``deadleaves-he``
    The same in colours of real stains: each leaf takes up amounts of haematoxylin and eosin (or DAB).

Leaves of an octave of radii are squares of one size, laid all at once: at each pixel the topmost stays.
"""

import math

import torch
from torch import Tensor

from features.formulas.chance import between, normal, uniform, whole
from features.formulas.colours import stains, transmitted
from features.formulas.noise import smooth_noise
from features.formulas.spec import Formula, FormulaSpec
from features.formulas.splat import Topmost, boxes

SMALLEST_RADIUS = 0.03
OCTAVES = 4
COVER = 0.55
"""Of the picture, by the leaves of one octave if all lie there."""
MEAN_AREA = 3.9
"""Of a leaf of an octave, in squares of its smallest radius: r^-3 between 1 and 2, mean of the three figures."""
GROUNDS = 4
"""Colours of what no leaf covers: two lines part it."""
DEPTH_BITS, LEAF_BITS = 19, 12
NUMBERS = [round(COVER / (MEAN_AREA * (SMALLEST_RADIUS * 2**octave) ** 2)) for octave in range(OCTAVES)]
LEAVES = sum(NUMBERS)
NORMALS = (
    ((2**0.5, 0.0), (-(2**0.5), 0.0), (0.0, 2**0.5), (0.0, -(2**0.5))),
    ((0.0, -2.0), (3**0.5, 1.0), (-(3**0.5), 1.0), (0.0, -2.0)),
)
"""Sides of a square and of a triangle: normal x place is at most the radius."""


class DeadLeaves(Formula):
    """Leaves in colours by chance."""

    pixels_together = 1 << 17

    def _pictures(self, class_ids: Tensor, instance_keys: Tensor, size_px: int) -> Tensor:
        class_keys = self._class_keys(class_ids)
        top = self._fallen(class_keys, instance_keys, size_px)
        leaf = torch.where(top > 0, (top & ((1 << LEAF_BITS) - 1)).long(), LEAVES + _ground(instance_keys, size_px))
        grain = smooth_noise(instance_keys, "grain", size_px, max(4, size_px // 4)).sub_(0.5)
        grain.mul_(between(class_keys, "grain", 0, 0.5).float()[:, None, None])
        return self._coloured(leaf, grain, class_keys, instance_keys)

    def _fallen(self, class_keys: Tensor, instance_keys: Tensor, size_px: int) -> Tensor:
        """Return what lies on top, int32 (n, s, s): its depth, and in the lowest bits its number; 0: nothing."""
        top = Topmost(len(class_keys), size_px, class_keys.device)
        lying = uniform(instance_keys, "lying", LEAVES) < between(
            class_keys, "lying", 0.2, 1, OCTAVES
        ).repeat_interleave(torch.tensor(NUMBERS, device=class_keys.device), 1)
        depth = whole(instance_keys, "depth", 1, (1 << DEPTH_BITS) - 1, LEAVES) << LEAF_BITS
        number = (depth + torch.arange(LEAVES, device=depth.device)) * lying
        turns = between(class_keys, "turn", 0, math.pi)[:, None] + between(class_keys, "aligned", 0, math.pi)[
            :, None
        ] * between(instance_keys, "turns", -1, 1, LEAVES)
        length = between(class_keys, "length", 1, 3)[:, None]
        only = whole(class_keys, "figure", 0, 3)[:, None]
        figure = torch.where(only == 3, whole(instance_keys, "figures", 0, 2, LEAVES), only)
        start = 0
        for octave, leaves in enumerate(NUMBERS):
            own = slice(start, start + leaves)
            start += leaves
            smallest = SMALLEST_RADIUS * 2**octave
            centres = between(instance_keys, f"centres {octave}", -smallest, 1 + smallest, leaves, 2) * size_px
            corners, away = boxes(centres, math.ceil(4 * smallest * size_px) + 1)
            radius = smallest * size_px * (1 - 0.75 * uniform(instance_keys, f"radii {octave}", leaves)).rsqrt()
            left, right = _spans(away[:, :, 0], turns[:, own], radius, length, figure[:, own])
            columns = away[:, :, 1, None]
            inside = (columns >= left[..., None]).logical_and_(columns <= right[..., None])
            top.lay(corners, torch.where(inside, number[:, own, None, None].int(), 0))
        return top.values()

    def _coloured(self, leaf: Tensor, grain: Tensor, class_keys: Tensor, instance_keys: Tensor) -> Tensor:
        """Return RGB (n, 3, s, s): each leaf's colour round its class's."""
        middle, spread = uniform(class_keys, "colour", 3), between(class_keys, "colours", 0.1, 0.4, 3)
        colours = middle[:, :, None] + spread[:, :, None] * normal(instance_keys, "colours", 3, LEAVES + GROUNDS)
        return _looked_up(colours, leaf).add_(grain[:, None]).clamp_(0, 1)


class StainedLeaves(DeadLeaves):
    """Leaves that take up stain."""

    def _coloured(self, leaf: Tensor, grain: Tensor, class_keys: Tensor, instance_keys: Tensor) -> Tensor:
        middle, spread = between(class_keys, "amount", 0.1, 1.2, 2), between(class_keys, "amounts", 0.1, 0.6, 2)
        amounts = middle[:, :, None] + spread[:, :, None] * normal(instance_keys, "amounts", 2, LEAVES + GROUNDS)
        taken = _looked_up(amounts, leaf).clamp_(min=0).mul_(grain[:, None] + 1)
        return transmitted(taken, stains(instance_keys, uniform(instance_keys, "dab") < 0.25), instance_keys)


def _spans(rows_nmb: Tensor, turn: Tensor, radius: Tensor, length: Tensor, figure: Tensor) -> tuple[Tensor, Tensor]:
    """Return from where to where each row of pixels lies inside a figure, both (n, m, b), in pixels from its centre.

    ``turn``, ``radius`` (round its corners), ``length`` (how much longer than wide), ``figure`` (0 disc, 1 square, 2
    triangle): (n, m).
    """
    cos, sin, radius, length = (v.float()[..., None] for v in (turn.cos(), turn.sin(), radius, length))
    a, b, c = cos**2 + (length * sin) ** 2, cos * sin * (1 - length**2), sin**2 + (length * cos) ** 2
    middle = -b * rows_nmb / a
    square = middle * middle - (c * rows_nmb * rows_nmb - radius * radius) / a
    half = torch.where(square < 0, -1.0, square.clamp(min=0).sqrt())  # -1: from right to left lies nothing
    normals = torch.tensor(NORMALS, device=figure.device)[(figure - 1).clamp(min=0)]
    along, across = normals.unbind(-1)
    slope = (along * cos - across * sin * length)[..., None]
    fall = (along * sin + across * cos * length)[..., None]
    reach = (radius[..., None] - rows_nmb[:, :, None] * fall) / slope
    left = torch.where(slope < 0, reach, -torch.inf).amax(2)
    right = torch.where(slope > 0, reach, torch.inf).amin(2)
    round_ = (figure == 0)[..., None]
    return torch.where(round_, middle - half, left), torch.where(round_, middle + half, right)


def _ground(keys_n: Tensor, size_px: int) -> Tensor:
    """Return 0 to 3, int64 (n, s, s): on which side of two lines a pixel lies."""
    place = torch.arange(size_px, device=keys_n.device) / size_px - 0.5
    angle, offset = between(keys_n, "line", 0, 2 * math.pi, 2), between(keys_n, "offset", -0.4, 0.4, 2)
    across, down = angle.cos()[..., None] * place, angle.sin()[..., None] * place
    sides = (across[:, :, None] + down[..., None]) > offset[..., None, None]
    return sides[:, 0].long() + 2 * sides[:, 1].long()


def _looked_up(table_ncM: Tensor, index_nss: Tensor) -> Tensor:
    """Return the table's entries, float32 (n, c, s, s)."""
    index = index_nss.flatten(1)[:, None].expand(-1, table_ncM.shape[1], -1)
    return table_ncM.float().gather(2, index).unflatten(2, index_nss.shape[1:])


_PARAMETERS = {
    "class": "how many leaves of each octave of radii (0.03 to 0.48), figure, length, alignment, grain, colours",
    "instance": "places, turns, order and colours of all leaves",
}
FAMILIES = {
    "deadleaves": FormulaSpec(
        "Baradad et al., Learning to see by looking at noise, NeurIPS 2021",
        "discs, squares and triangles that hide each other",
        _PARAMETERS,
        DeadLeaves,
    ),
    "deadleaves-he": FormulaSpec(
        "Baradad et al., NeurIPS 2021; colours: Ruifrok & Johnston 2001, Macenko et al. 2009",
        "the same in haematoxylin and eosin, or DAB",
        {**_PARAMETERS, "instance": _PARAMETERS["instance"] + "; stain vectors, light"},
        StainedLeaves,
    ),
}

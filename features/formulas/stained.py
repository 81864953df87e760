"""Stained tissue by formula: nuclei, fibres, glands and fat, in haematoxylin and eosin or DAB.

``stained``
    This project's own. A class is an architecture: how many nuclei, how large, long, dense and grained they are and how
    they lie along the fibres; how strong and wavy the fibres are; how many glands there are, how wide, how wide their
    lumen; how much fat. An instance is where all that lies, what was stained with (eosin, or DAB in nuclei or
    cytoplasm), how strongly, and in which shades of the stains (`features.formulas.colours`). So what tells classes
    apart is structure, and colour does not.

Lengths are parts of the picture's side; amounts as Macenko's reference has them, up to about 2 and 1.
"""

import math

import torch
from torch import Tensor

from features.formulas.chance import between, normal, uniform, whole
from features.formulas.colours import stains, transmitted
from features.formulas.noise import octaves, smooth_noise
from features.formulas.spec import Formula, FormulaSpec
from features.formulas.splat import Topmost, boxes

NUCLEI = 160
GLANDS = 4
LARGEST_NUCLEUS = 0.062
"""Half the longer axis."""
STEPS = 1 << 9
"""Of an amount of haematoxylin in a nucleus, while the darker one is looked for; the lowest bit: is DAB there."""
DAB_SHARE = 0.35
"""Of pictures."""


class Stained(Formula):
    """Tissue."""

    pixels_together = 1 << 17

    def _pictures(self, class_ids: Tensor, instance_keys: Tensor, size_px: int) -> Tensor:
        kinds = self._class_keys(class_ids)
        wobble = smooth_noise(instance_keys, "wobble", size_px, 8).sub_(0.5)
        gland, lumen = _glands(kinds, instance_keys, size_px, wobble)
        fat = _step(octaves(instance_keys, "fat", size_px, 5, 1) - _column(between(kinds, "fat", 0.6, 1.2)), 0.04)
        dark, marked = _nuclei(kinds, instance_keys, size_px)
        fibres = _fibres(kinds, instance_keys, size_px, wobble)
        grain = smooth_noise(instance_keys, "grain", size_px, max(4, size_px // 3))
        dark *= 1 + _column(between(kinds, "chromatin", 0, 1.2)) * (grain - 0.5)
        clear = (1 - lumen) * (1 - fat * (1 - gland))
        first = (dark + _column(between(kinds, "ground", 0.02, 0.2))) * clear
        tissue = (fibres * (1 - gland) + gland * _column(between(kinds, "cytoplasm", 0.2, 0.7))) * clear
        dab = uniform(instance_keys, "dab") < DAB_SHARE
        in_cells = (uniform(instance_keys, "in cells") < 0.5)[:, None, None]
        brown = torch.where(in_cells, gland * clear * grain, marked) * 1.2 + 0.04 * clear
        second = torch.where(dab[:, None, None], brown, tissue * (1 - 0.6 * dark.clamp(max=1)))
        strength = between(instance_keys, "strength", 0.6, 1.5, 2).float()[..., None, None]
        amounts = torch.stack((first, second), 1).clamp_(min=0).mul_(strength)
        return transmitted(amounts, stains(instance_keys, dab), instance_keys)


def _column(values_n: Tensor) -> Tensor:
    return values_n.float()[:, None, None]


def _step(values: Tensor, width: float) -> Tensor:
    """Return 0 below and 1 above zero, smooth over twice the width."""
    at = values.div_(2 * width).add_(0.5).clamp_(0, 1)
    return at * at * (3 - 2 * at)


def _gland_places(kinds: Tensor, instance_keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres (n, GLANDS, 2) and radii (n, GLANDS), 0 where there is none."""
    centres = between(instance_keys, "glands", 0, 1, GLANDS, 2)
    there = uniform(instance_keys, "there", GLANDS) < between(kinds, "glands", -0.4, 1)[:, None]
    radii = between(kinds, "gland", 0.1, 0.28)[:, None] * between(instance_keys, "gland", 0.7, 1.2, GLANDS)
    return centres, radii * there


def _glands(kinds: Tensor, instance_keys: Tensor, size_px: int, wobble: Tensor) -> tuple[Tensor, Tensor]:
    """Return where epithelium and where lumen is, 0 to 1, (n, s, s)."""
    centres, radii = _gland_places(kinds, instance_keys)
    place = ((torch.arange(size_px, device=kinds.device) + 0.5) / size_px).float()
    inside = torch.full_like(wobble, -1.0)
    for index in range(GLANDS):
        dy, dx = (place - centres[:, index, axis, None].float() for axis in range(2))
        away = (dy.square()[:, :, None] + dx.square()[:, None]).sqrt_()
        inside = torch.maximum(inside, _column(radii[:, index]) - away)
    there = _column((radii > 0).any(1))
    inside = inside.add_(wobble, alpha=0.08)
    thickness = _column(between(kinds, "epithelium", 0.03, 0.12))
    return _step(inside.clone(), 0.01) * there, _step(inside - thickness, 0.01) * there


def _fibres(kinds: Tensor, instance_keys: Tensor, size_px: int, wobble: Tensor) -> Tensor:
    """Return amounts of eosin in stroma, (n, s, s): bent waves along a direction, strong here and weak there."""
    place = (torch.arange(size_px, device=kinds.device) / size_px).float()
    angle = between(instance_keys, "direction", 0, 2 * math.pi).float()
    across = (angle.cos()[:, None] * place)[:, None] + (angle.sin()[:, None] * place)[..., None]
    periods = _column(between(kinds, "periods", 6, 24))
    bent = across.addcmul_(wobble, _column(between(kinds, "bent", 0.05, 0.35)))
    bent.add_(smooth_noise(instance_keys, "frayed", size_px, 24), alpha=0.06)
    waves = bent.mul_(2 * math.pi * periods).sin_()
    strength = octaves(instance_keys, "stroma", size_px, 6, 2)
    contrast = _column(between(kinds, "fibres", 0.1, 1))
    return strength.mul_(waves.mul_(contrast).add_(1)).mul_(_column(between(kinds, "stroma", 0.3, 1.1)))


def _nuclei(kinds: Tensor, instance_keys: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """Return amounts of haematoxylin and of DAB in nuclei, (n, s, s)."""
    centres, turns = _nuclear_places(kinds, instance_keys)
    corners, away = boxes(centres * size_px, math.ceil(2 * LARGEST_NUCLEUS * size_px) + 1)
    long_ = between(kinds, "longer", 1, 2.4)[:, None] * between(instance_keys, "longer", 0.9, 1.15, NUCLEI)
    size = between(kinds, "size", 0.016, 0.036)[:, None] * (
        1 + between(kinds, "sizes", 0, 0.35)[:, None] * normal(instance_keys, "size", NUCLEI)
    )
    half = (size * long_.sqrt()).clamp(0.006, LARGEST_NUCLEUS) * size_px
    thin = half / long_
    cos, sin = turns.cos()[..., None], turns.sin()[..., None]
    dy, dx = away.unbind(2)
    along = (dx * cos / half[..., None]).float()[:, :, None] + (dy * sin / half[..., None]).float()[..., None]
    across = (dy * cos / thin[..., None]).float()[..., None] - (dx * sin / thin[..., None]).float()[:, :, None]
    inside = 1 - along.square_().addcmul_(across, across)  # 1 in the middle, 0 on the edge
    edge = (inside * (half / 3).clamp(min=1).float()[..., None, None]).clamp_(0, 1)
    there = uniform(instance_keys, "nuclei", NUCLEI) < between(kinds, "nuclei", 0.15, 1)[:, None]
    amount = between(kinds, "dark", 0.5, 1)[:, None] * between(instance_keys, "dark", 0.7, 1, NUCLEI) * there
    rim = 1 - between(kinds, "vesicular", 0, 0.5).float()[:, None, None, None] * inside
    steps = edge.mul_(rim).mul_((amount * STEPS).float()[..., None, None]).int()
    positive = (uniform(instance_keys, "positive", NUCLEI) < uniform(instance_keys, "positives")[:, None]).int()
    top = Topmost(len(kinds), size_px, kinds.device)
    top.lay(corners, steps.mul_(2).add_(positive[..., None, None]))
    dark = (top.values() >> 1).float().mul_(1.6 / STEPS)
    return dark, dark * (top.values() & 1)


def _nuclear_places(kinds: Tensor, instance_keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres (n, NUCLEI, 2) and turns (n, NUCLEI): anywhere along the fibres, or round a gland, radially."""
    anywhere = between(instance_keys, "places", -0.02, 1.02, NUCLEI, 2)
    direction = between(instance_keys, "direction", 0, 2 * math.pi)[:, None] + math.pi / 2
    turns = direction + between(kinds, "aligned", 0, math.pi / 2)[:, None] * between(
        instance_keys, "turns", -1, 1, NUCLEI
    )
    glands, radii = _gland_places(kinds, instance_keys)
    chosen = whole(instance_keys, "whose", 0, GLANDS - 1, NUCLEI)
    angle = between(instance_keys, "round", 0, 2 * math.pi, NUCLEI)
    depth = between(kinds, "depth", 0.01, 0.05)[:, None] * between(instance_keys, "depth", 0.5, 1.5, NUCLEI)
    radius = radii.gather(1, chosen)
    centre = glands.gather(1, chosen[..., None].expand(-1, -1, 2))
    ring = centre + (radius - depth)[..., None] * torch.stack((angle.sin(), angle.cos()), 2)
    lining = (radius > 0) & (uniform(instance_keys, "lining", NUCLEI) < 0.6)
    return torch.where(lining[..., None], ring, anywhere), torch.where(lining, angle, turns)


FAMILIES = {
    "stained": FormulaSpec(
        "this project; colours: Ruifrok & Johnston 2001, Macenko et al. 2009",
        "nuclei, fibres, glands and fat in haematoxylin and eosin, or DAB",
        {
            "class": "nuclei (number, size, length, darkness, chromatin, alignment), fibres, glands, lumen, fat",
            "instance": f"places; eosin or (of {DAB_SHARE:.0%}) DAB, in nuclei or cytoplasm; strength, shades of stain",
        },
        Stained,
    ),
}

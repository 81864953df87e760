"""Closed contours round a centre, one outside the other.

``rcdb``
    Radial Contour DataBase: Kataoka et al., Replacing labeled real-image datasets with auto-generated contours, CVPR
    2022. Polygons of 3 to 502 vertices, 1 to 50 of them, moved by noise, each contour by its own.
``visualatom``
    Takashima et al., Visual atoms: pre-training vision transformers with sinusoidal waves, CVPR 2023. Orbits of 200 to
    1000 vertices whose radius follows the sum of two waves of 0 to 20 periods, the same for all orbits, and a little
    noise. The paper draws up to 200 orbits on 512 pixels; here it is up to 64, at any size.

A class is the contour's parameters; an instance is its noise, how it is turned, where it lies and how bright it is.

A point's coordinates are sums, over a few shapes, of a number of its line times a number of its place on the line: all
points of a picture are one product of two small matrices. Noise has few such shapes (`SHAPES`), weighted anew for each
line.
Legend: n pictures, L lines, P places along a line. Lengths are parts of the picture's side until they are drawn.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from features.formulas.chance import between, normal, uniform, whole
from features.formulas.spec import Formula, FormulaSpec
from features.formulas.splat import Canvas, stamped

PLACES_A_PIXEL = 4.5
"""Places along a line to a pixel of the picture's side: the longest smooth contour has no gaps."""
SHAPES = 4
MOST_KNOTS = 48
OUTERMOST = 0.47
"""Of any point from the centre."""
MOST_SHIFT = 0.06
OVAL = 2.0
"""Most that a contour is longer than wide."""


@dataclass(frozen=True, slots=True)
class _Lines:
    """What the contours of n pictures are, (n,) each."""

    number: Tensor
    vertices: Tensor
    radius: Tensor
    """Of the outermost line."""
    band: Tensor
    """Part of the radius over which lines lie."""
    noise: Tensor
    """Standard deviation, in radii."""
    knots: Tensor
    """Of the noise, round a line."""
    waves_n2: Tensor
    """Amplitudes, in radii."""
    periods_n2: Tensor
    oval_n2: Tensor
    """Factors of y and x."""
    width_px: Tensor
    """1 to 3."""


class Contours(Formula):
    """Contours; what they are says each family."""

    most_lines: int

    def _pictures(self, class_ids: Tensor, instance_keys: Tensor, size_px: int) -> Tensor:
        lines = self._lines(self._class_keys(class_ids))
        places = int(PLACES_A_PIXEL * size_px)
        weights_nLS = self._weights(lines, instance_keys)
        canvas = Canvas(len(class_ids), size_px, class_ids.device)
        y, x = (
            product(weights_nLS, self._shapes(lines, instance_keys, places, axis)).mul_(size_px).flatten(1)
            for axis in range(2)
        )
        canvas.add(y, x)
        side = torch.arange(3, device=class_ids.device)
        reaches = torch.where(lines.width_px[:, None] > 1, side >= 1, side == 1) | (lines.width_px[:, None] > 2)
        drawn = stamped(canvas.counts() > 0, reaches[:, :, None] & reaches[:, None])
        return drawn.float().mul_(between(instance_keys, "grey", 0.4, 1).float()[:, None, None])[:, None]

    def _lines(self, class_keys: Tensor) -> _Lines:
        raise NotImplementedError

    def _weights(self, lines: _Lines, instance_keys: Tensor) -> Tensor:
        """Return (n, L, 3 + SHAPES): of the centre, the line's radius, the wave, and the noise's shapes.

        Lines beyond a picture's own lie far outside.
        """
        index = torch.arange(self.most_lines, device=instance_keys.device)
        own = index < lines.number[:, None]
        radius = lines.radius[:, None] * (1 - lines.band[:, None] * index / lines.number[:, None])
        noise = (
            normal(instance_keys, "noise of lines", self.most_lines, SHAPES)
            * (lines.noise * lines.radius)[:, None, None]
        )
        ones = torch.ones_like(radius)
        fixed = torch.stack((torch.where(own, ones, -9.0), radius, ones * lines.radius[:, None]), 2)
        return torch.cat((fixed, noise * SHAPES**-0.5), 2).float()

    def _shapes(self, lines: _Lines, instance_keys: Tensor, places: int, axis: int) -> Tensor:
        """Return (n, 3 + SHAPES, P) for y (axis 0) or x: the centre, the unit polygon, wave and noise on it."""
        along = (
            torch.arange(places, device=instance_keys.device, dtype=torch.float64) / places * lines.vertices[:, None]
        )
        turn = uniform(instance_keys, "turn")[:, None]
        centre = between(instance_keys, "centre", -MOST_SHIFT, MOST_SHIFT, 2)[:, axis, None, None] + 0.5
        oval = lines.oval_n2[:, axis, None]
        shapes = torch.zeros(len(instance_keys), 2 + SHAPES, places, dtype=torch.float64, device=along.device)
        for vertex, share in ((along.floor(), 1 - along.frac()), (along.floor() + 1, along.frac())):
            round_ = vertex / lines.vertices[:, None]
            angle = 2 * math.pi * (round_ + turn)
            direction = (angle.sin() if axis == 0 else angle.cos()) * oval * share
            wave = (2 * math.pi * round_[:, None] * lines.periods_n2[..., None]).sin() * lines.waves_n2[..., None]
            noise = _round_noise(instance_keys, lines.knots, round_)
            shapes += direction[:, None] * torch.cat(
                (torch.ones_like(round_)[:, None], wave.sum(1, keepdim=True), noise), 1
            )
        return torch.cat((centre.expand(-1, 1, places), shapes), 1).float()


class RadialContours(Contours):
    """RCDB: polygons moved by noise."""

    most_lines = 50

    def _lines(self, class_keys: Tensor) -> _Lines:
        none = torch.zeros(len(class_keys), 2, dtype=torch.float64, device=class_keys.device)
        few = uniform(class_keys, "few") < 0.5
        vertices = torch.where(few, whole(class_keys, "few vertices", 3, 20), whole(class_keys, "vertices", 3, 502))
        return _Lines(
            number=whole(class_keys, "lines", 1, self.most_lines),
            vertices=vertices,
            radius=between(class_keys, "radius", 0.2, 0.4),
            band=between(class_keys, "band", 0.3, 1),
            noise=between(class_keys, "noise", 0, 0.2),
            knots=torch.minimum(vertices, whole(class_keys, "knots", 3, MOST_KNOTS)),
            waves_n2=none,
            periods_n2=none,
            oval_n2=_ovals(class_keys),
            width_px=whole(class_keys, "width", 1, 2),
        )


class VisualAtoms(Contours):
    """VisualAtom: orbits that two waves shape."""

    most_lines = 64

    def _lines(self, class_keys: Tensor) -> _Lines:
        waves = between(class_keys, "waves", 0, 0.4, 2)
        return _Lines(
            number=whole(class_keys, "lines", 1, self.most_lines),
            vertices=whole(class_keys, "vertices", 200, 1000),
            radius=between(class_keys, "radius", 0.5, 1) * (OUTERMOST - MOST_SHIFT) / (1 + waves.sum(1)),
            band=between(class_keys, "band", 0.2, 1),
            noise=between(class_keys, "noise", 0, 0.04),
            knots=whole(class_keys, "knots", 8, MOST_KNOTS),
            waves_n2=waves,
            periods_n2=whole(class_keys, "periods", 0, 20, 2).double(),
            oval_n2=_ovals(class_keys),
            width_px=whole(class_keys, "width", 1, 2),
        )


def product(left_nLS: Tensor, right_nSP: Tensor) -> Tensor:
    """Return the matrix products, (n, L, P).

    On a GPU shape by shape, because there the order in which a product sums depends on how many pictures there are.
    """
    if not left_nLS.is_cuda:
        return left_nLS @ right_nSP
    total = left_nLS[:, :, :1] * right_nSP[:, :1]
    for shape in range(1, left_nLS.shape[2]):
        total.addcmul_(left_nLS[:, :, shape, None], right_nSP[:, shape, None])
    return total


def _ovals(class_keys: Tensor) -> Tensor:
    """Return factors of y and x: at most 1, and one of them is."""
    ratio = between(class_keys, "oval", 1 / OVAL, 1)
    tall = uniform(class_keys, "tall") < 0.5
    return torch.stack((torch.where(tall, 1.0, ratio), torch.where(tall, ratio, 1.0)), 1)


def _round_noise(keys_n: Tensor, knots_n: Tensor, round_nP: Tensor) -> Tensor:
    """Return smooth noise that closes on itself, (n, SHAPES, P), at parts of the round: value noise in [-1, 1]."""
    table = uniform(keys_n, "noise", SHAPES, MOST_KNOTS).mul_(2).sub_(1)
    at = round_nP * knots_n[:, None]
    low, share = at.floor().long(), at.frac()
    share = (share * share * (3 - 2 * share))[:, None]
    left, right = (
        table.gather(2, ((low + step) % knots_n[:, None])[:, None].expand(-1, SHAPES, -1)) for step in range(2)
    )
    return left + share * (right - left)


FAMILIES = {
    "rcdb": FormulaSpec(
        "Kataoka et al., Replacing labeled real-image datasets with auto-generated contours, CVPR 2022",
        "polygons round a centre, moved by noise",
        {
            "class": f"1 to {RadialContours.most_lines} lines, 3 to 502 vertices, radius, spacing, noise, ovality",
            "instance": "noise, turn, place, brightness",
        },
        RadialContours,
    ),
    "visualatom": FormulaSpec(
        "Takashima et al., Visual atoms: pre-training vision transformers with sinusoidal waves, CVPR 2023",
        "orbits shaped by two waves",
        {
            "class": f"1 to {VisualAtoms.most_lines} orbits, 200 to 1000 vertices, 2 waves of 0 to 20 periods, ovality",
            "instance": "noise, turn, place, brightness",
        },
        VisualAtoms,
    ),
}

"""Iterated function systems: a few affine maps, drawn one after another by chance, lead a point over their attractor.

``fractaldb``
    Kataoka et al., Pre-training without natural images, ACCV 2020, IJCV 2022: 2 to 8 maps of the plane, the next one
    drawn in proportion to its determinant. An instance multiplies one of the six parameters of all maps by 0.8 to 1.2,
    mirrors the picture, and stamps a 3 x 3 patch by chance where the fractal's points fall. Maps are drawn by their
    singular values (Anderson & Farrell, Improving fractal pre-training, WACV 2022), which takes the place of
    FractalDB's search for systems that fill enough of a picture.
``exfractaldb``
    Kataoka et al., Replacing labeled real-image datasets with auto-generated contours, CVPR 2022, on Yamada et al.,
    MV-FractalDB, IROS 2021: maps of space; an instance is a viewpoint. A class must spread along all three axes
    (variance of at least 0.05 in the cube from -1 to 1).
``ofdb``
    Nakamura et al., Pre-training vision transformers with very limited synthesized images, ICCV 2023: one fractal a
    class. Instances differ by its two augmentations alone: the patch, and a texture in the place of one grey.
``1p-frac``
    Nakamura et al., Scaling backwards: minimal synthetic pre-training?, ECCV 2024: one fractal (sigma-factor 4). Each
    class moves all its parameters by up to half of Delta = 0.1, up or down; instances differ in the patch.
"""

import torch
from torch import Tensor

from features.formulas.chance import between, uniform, whole
from features.formulas.maps import Maps, candidates, plane_maps, rotations, space_maps
from features.formulas.noise import smooth_noise
from features.formulas.spec import Formula, FormulaSpec
from features.formulas.splat import stamped
from features.formulas.walk import SMALLEST_SPAN, SPREADING, Walk, counts, extent

POINTS_A_PIXEL = 1
STEPS = 32
"""Walkers of a picture make so many steps that are drawn."""
GREY = 127 / 255
"""Of points, on black."""
NUMBERS = (2, 8)
WEIGHTS = (0.8, 0.9, 1.0, 1.1, 1.2)
LEAST_VARIANCE = 0.05
CANDIDATES = 8
"""Systems of space from which a class takes the first that spreads enough, or the one that spreads most."""
SEARCH_WALKERS = LEAST_WALKERS = 256
SIGMA_FACTOR = 4.0
DELTA = 0.1
TEXTURE_KNOTS = 28


class FractalDB(Formula):
    """Fractals of the plane: a class is a system of maps, an instance weights one of its parameters."""

    def _pictures(self, class_ids: Tensor, instance_keys: Tensor, size_px: int) -> Tensor:
        maps = self._instances(self._classes(class_ids), instance_keys)
        walkers = max(LEAST_WALKERS, POINTS_A_PIXEL * size_px**2 // STEPS)
        found = counts(maps, instance_keys, size_px, walkers, STEPS, same_scale=maps.shifts.shape[-1] > 2)
        return self._drawn(found > 0, instance_keys)[:, None]

    def _classes(self, class_ids: Tensor) -> Maps:
        return plane_maps(self._class_keys(class_ids), NUMBERS)

    def _instances(self, maps: Maps, instance_keys: Tensor) -> Maps:
        """Weight one of the six parameters, and mirror: both change the maps alone."""
        weights = maps.odds.new_tensor(WEIGHTS)[whole(instance_keys, "weight", 0, len(WEIGHTS) - 1)]
        chosen = torch.arange(6, device=weights.device) == whole(instance_keys, "parameter", 0, 5)[:, None]
        factors = torch.where(chosen, weights[:, None], 1.0)
        flips = 1.0 - 2 * whole(instance_keys, "flips", 0, 1, 2)
        matrices = maps.matrices * factors[:, :4].view(-1, 1, 2, 2) * (flips[:, :, None] * flips[:, None])[:, None]
        return maps.changed(matrices, maps.shifts * (factors[:, 4:] * flips)[:, None])

    def _drawn(self, points_nss: Tensor, instance_keys: Tensor) -> Tensor:
        patches = uniform(instance_keys, "patch", 3, 3) < 0.5
        patches[:, 1, 1] = True
        return stamped(points_nss, patches).float().mul_(GREY)


class ExFractalDB(FractalDB):
    """Fractals of space: a class is a system of maps, an instance the place from which it is seen."""

    def __init__(self, name: str, classes: int, seed: int) -> None:
        super().__init__(name, classes, seed)
        self._found: dict[torch.device, Maps] = {}

    def _classes(self, class_ids: Tensor) -> Maps:
        if class_ids.device not in self._found:
            self._found[class_ids.device] = self._search().to(class_ids.device)
        return self._found[class_ids.device][class_ids]

    def _search(self) -> Maps:
        """Find each class's system: on the CPU, so that all devices have the same."""
        options = candidates(self._class_keys(torch.arange(self.classes)), CANDIDATES)
        spreads = torch.stack([_least_variance(space_maps(column, NUMBERS), column) for column in options.unbind(1)], 1)
        enough = spreads >= LEAST_VARIANCE
        best = torch.where(enough.any(1), enough.int().argmax(1), spreads.argmax(1))
        return space_maps(options.gather(1, best[:, None])[:, 0], NUMBERS)

    def _instances(self, maps: Maps, instance_keys: Tensor) -> Maps:
        """Turn the space: the picture is what lies along its first two axes then."""
        view = rotations(instance_keys, "view", 1)
        return Maps(view @ maps.matrices @ view.mT, (view @ maps.shifts[..., None])[..., 0], maps.odds)

    def _drawn(self, points_nss: Tensor, instance_keys: Tensor) -> Tensor:
        return points_nss.float().mul_(GREY)


class OneInstance(FractalDB):
    """OFDB: one fractal a class, in changing patches and textures."""

    def _instances(self, maps: Maps, instance_keys: Tensor) -> Maps:
        return maps

    def _drawn(self, points_nss: Tensor, instance_keys: Tensor) -> Tensor:
        texture = smooth_noise(instance_keys, "texture", points_nss.shape[1], TEXTURE_KNOTS)
        flat = uniform(instance_keys, "textured")[:, None, None] < 0.5
        grey = torch.where(flat, torch.full_like(texture, GREY), texture.mul_(0.8).add_(0.2))
        return super()._drawn(points_nss, instance_keys).gt(0).float().mul_(grey)


class OneFractal(OneInstance):
    """1p-frac: one fractal; a class is a small move of its parameters."""

    def _classes(self, class_ids: Tensor) -> Maps:
        one = plane_maps(self._class_keys(torch.zeros_like(class_ids)), (2, 2), (SIGMA_FACTOR, SIGMA_FACTOR))
        moves = between(self._class_keys(class_ids), "moves", -DELTA / 2, DELTA / 2, one.shifts.shape[1], 6)
        return one.changed(one.matrices + moves[..., :4].unflatten(2, (2, 2)), one.shifts + moves[..., 4:])

    def _drawn(self, points_nss: Tensor, instance_keys: Tensor) -> Tensor:
        return FractalDB._drawn(self, points_nss, instance_keys)


def _least_variance(maps: Maps, keys_n: Tensor) -> Tensor:
    """Return the least of the variances along the axes, of the attractor in the cube from -1 to 1: (n,)."""
    low, high = (edge[..., None] for edge in extent(maps, keys_n))
    walk = Walk(maps, keys_n, SEARCH_WALKERS)
    for _ in range(SPREADING):
        points = torch.stack(walk.step(), 1)
    return (2 * (points - low) / (high - low).clamp(min=SMALLEST_SPAN) - 1).var(2, correction=0).amin(1)


FAMILIES = {
    "exfractaldb": FormulaSpec(
        "Kataoka et al., Replacing labeled real-image datasets with auto-generated contours, CVPR 2022",
        "a fractal of space, seen from a direction by chance",
        {
            "class": f"{NUMBERS[0]} to {NUMBERS[1]} maps of space; variance along each axis at least {LEAST_VARIANCE}",
            "instance": "viewpoint",
        },
        ExFractalDB,
    ),
    "fractaldb": FormulaSpec(
        "Kataoka et al., Pre-training without natural images, ACCV 2020; maps: Anderson & Farrell, WACV 2022",
        "a fractal of the plane",
        {
            "class": f"{NUMBERS[0]} to {NUMBERS[1]} maps of the plane; sigma-factor (5 + N) / 2 to (6 + N) / 2",
            "instance": f"one of six parameters times {WEIGHTS[0]} to {WEIGHTS[-1]}; mirrored or not; 3 x 3 patch",
        },
        FractalDB,
    ),
    "ofdb": FormulaSpec(
        "Nakamura et al., Pre-training vision transformers with very limited synthesized images, ICCV 2023",
        "one fractal a class",
        {"class": "as fractaldb", "instance": "3 x 3 patch; grey or a texture"},
        OneInstance,
    ),
    "1p-frac": FormulaSpec(
        "Nakamura et al., Scaling backwards: minimal synthetic pre-training?, ECCV 2024",
        "the same fractal, moved a little",
        {
            "class": f"all parameters moved by up to {DELTA / 2} up or down; sigma-factor {SIGMA_FACTOR}",
            "instance": "3 x 3 patch",
        },
        OneFractal,
    ),
}

"""Colours of a slide brought to those of a reference, before the encoder: on the device, fitted once for each slide.

``background``
    Each channel divided by the slide's own background, which then is white.
``reinhard``
    Mean and deviation of the tissue in CIE L*a*b* moved to the reference's. Source: Reinhard et al., Color Transfer
    between Images, IEEE CG&A 2001; in L*a*b* (D65) as the field does, in place of its l-alpha-beta.
``macenko``
    Two stains are found as the extreme directions of the tissue's optical density, and replaced by the reference's.
    Source: Macenko et al., A method for normalizing histology slides, ISBI 2009, with its constants.

Slides are fitted on a sample of their own listed tiles, evenly spread, which depends on nothing but the store. Where a
fit makes no sense (hardly any tissue, one colour) the slide stays as it is, and the bag's provenance says so.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsi.arrays import Floats
from wsi.store.tile_store import TileStore

STAINS = ("none", "background", "reinhard", "macenko")
SAMPLE_TILES = 32
STRIDE_PX = 4
"""Every so many pixels of a sampled tile, both ways, are looked at."""
LEAST_PIXELS = 500
"""Of tissue, for a fit."""
WHITE = 240.0
"""Macenko's white."""
LEAST_DENSITY = 0.15
"""Optical density from which a pixel counts as stained; Macenko's beta."""
PERCENTILE = 1.0
"""Macenko's alpha: extremes of the angles."""
REFERENCE_STAINS_32 = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
REFERENCE_MOST_2 = np.array([1.9705, 1.0308])
"""Macenko's reference: columns haematoxylin and eosin, and the 99th percentile of each one's amount."""
REFERENCE_LAB_MEAN = (41.79, 29.24, -14.47)
REFERENCE_LAB_STD = (16.13, 11.87, 9.18)
"""Tissue of OpenSlide's CMU-1-Small-Region (Aperio, H&E, CC0)."""

RGB_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
"""sRGB primaries, D65."""
WHITE_XYZ = np.array([0.95047, 1.0, 1.08883])
LAB_BREAK, LAB_SLOPE, LAB_SHIFT = 0.008856, 7.787, 16 / 116
"""CIE 1976: below the break the cube root is a line."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What is done to a slide's pixels: three numbers or a matrix, as lists of JSON values."""

    kind: str
    scale: tuple[float, ...] = ()
    """Of RGB (background), of L*a*b* (reinhard), or a 3 x 3 matrix on optical density, row by row (macenko)."""
    shift: tuple[float, ...] = ()
    """Added to L*a*b* (reinhard)."""
    reason: str = ""
    """Why the slide stays as it is, where the kind is ``none``."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values for the provenance."""
        if self.kind == "none":
            return {"stain": f"none: {self.reason}"}
        numbers = {
            name: [round(v, 6) for v in getattr(self, name)] for name in ("scale", "shift") if getattr(self, name)
        }
        return {"stain": {"kind": self.kind, **numbers}}

    def apply(self, tiles_NCHW: Tensor) -> Tensor:
        """Return uint8 tiles (n, 3, T, T) in the reference's colours, on the same device; each pixel by itself."""
        if self.kind == "none":
            return tiles_NCHW
        pixels = tiles_NCHW.float()
        if self.kind == "background":
            result = pixels * pixels.new_tensor(self.scale).view(1, 3, 1, 1)
        elif self.kind == "macenko":
            density = -torch.log((pixels + 1) / WHITE)
            matrix = pixels.new_tensor(self.scale).view(3, 3)
            result = WHITE * torch.exp(-torch.einsum("ij,njhw->nihw", matrix, density))
        else:
            lab = _to_lab(pixels / 255)
            scale, shift = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (self.scale, self.shift))
            result = 255 * _from_lab(lab * scale + shift)
        return result.round_().clamp_(0, 255).to(torch.uint8)


def fit_stain(kind: str, store: TileStore) -> Fit:
    """Fit a slide; the same for every process that asks.

    Raises
    ------
    StoreError
        The sampled tiles cannot be read.
    """
    if kind == "none":
        return Fit("none", reason="not asked for")
    tissue = store.provenance.get("tissue", {})
    if tissue.get("dark_background"):
        return Fit("none", reason="a dark background: not transmitted light")
    if kind == "background":
        background = tissue.get("background")
        if not background or min(background) < 1:
            return Fit("none", reason="the store does not tell the background's colour")
        return Fit("background", tuple(255 / float(value) for value in background))
    if store.n_tiles == 0:
        return Fit("none", reason="no tiles")
    rows = np.unique(np.linspace(0, store.n_tiles - 1, min(SAMPLE_TILES, store.n_tiles)).round().astype(np.int64))
    tiles = store.read_tiles(rows)[:, :, ::STRIDE_PX, ::STRIDE_PX]
    pixels_P3 = tiles.transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
    return fit_pixels(kind, pixels_P3)


def fit_pixels(kind: str, pixels_P3: Floats) -> Fit:
    """Fit ``reinhard`` or ``macenko`` to RGB pixels (P, 3) in 0 to 255; background among them is left out."""
    density_P3 = -np.log((pixels_P3 + 1) / WHITE)
    stained_P = (density_P3 >= LEAST_DENSITY).all(axis=1)
    if stained_P.sum() < LEAST_PIXELS:
        return Fit("none", reason=f"{int(stained_P.sum())} stained pixels among the sampled, expected {LEAST_PIXELS}")
    return _macenko(density_P3[stained_P]) if kind == "macenko" else _reinhard(pixels_P3[stained_P])


def _macenko(density_P3: Floats) -> Fit:
    _, vectors = np.linalg.eigh(np.cov(density_P3.T))
    plane_32 = vectors[:, [2, 1]]
    plane_32 = plane_32 * np.where(plane_32.sum(axis=0) < 0, -1.0, 1.0)
    angles_P = np.arctan2(*(density_P3 @ plane_32).T[::-1])
    first, second = (
        plane_32 @ np.array([np.cos(angle), np.sin(angle)])
        for angle in np.percentile(angles_P, [PERCENTILE, 100 - PERCENTILE])
    )
    stains_32 = np.stack([first, second] if first[0] > second[0] else [second, first], axis=1)
    if np.linalg.cond(stains_32) > 100 or (stains_32 < -0.1).any():
        return Fit("none", reason="no two stains can be told apart")
    unmix_23 = np.linalg.pinv(stains_32)
    most_2 = np.percentile(density_P3 @ unmix_23.T, 99, axis=0)
    if (most_2 <= 0).any():
        return Fit("none", reason="no two stains can be told apart")
    matrix_33 = REFERENCE_STAINS_32 @ np.diag(REFERENCE_MOST_2 / most_2) @ unmix_23
    return Fit("macenko", tuple(matrix_33.ravel().tolist()))


def _reinhard(pixels_P3: Floats) -> Fit:
    lab = _to_lab(torch.from_numpy(pixels_P3.T[None, :, :, None] / 255))[0, :, :, 0].numpy()
    mean, std = lab.mean(axis=1), lab.std(axis=1)
    if (std < 1e-3).any():
        return Fit("none", reason="all stained pixels have one colour")
    scale = np.array(REFERENCE_LAB_STD) / std
    return Fit("reinhard", tuple(scale.tolist()), tuple((np.array(REFERENCE_LAB_MEAN) - mean * scale).tolist()))


def _to_lab(rgb_N3HW: Tensor) -> Tensor:
    linear = torch.where(rgb_N3HW > 0.04045, ((rgb_N3HW + 0.055) / 1.055) ** 2.4, rgb_N3HW / 12.92)
    matrix = linear.new_tensor(RGB_TO_XYZ / WHITE_XYZ[:, None])
    xyz = torch.einsum("ij,njhw->nihw", matrix, linear)
    f = torch.where(xyz > LAB_BREAK, xyz.clamp(min=1e-8) ** (1 / 3), LAB_SLOPE * xyz + LAB_SHIFT)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def _from_lab(lab_N3HW: Tensor) -> Tensor:
    y = (lab_N3HW[:, 0] + 16) / 116
    f = torch.stack([y + lab_N3HW[:, 1] / 500, y, y - lab_N3HW[:, 2] / 200], dim=1)
    xyz = torch.where(f > LAB_BREAK ** (1 / 3), f**3, (f - LAB_SHIFT) / LAB_SLOPE)
    matrix = xyz.new_tensor(np.linalg.inv(RGB_TO_XYZ) * WHITE_XYZ)
    linear = torch.einsum("ij,njhw->nihw", matrix, xyz).clamp(min=0)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055, 12.92 * linear)

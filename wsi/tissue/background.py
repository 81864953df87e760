"""What an empty slide looks like: the colour of its glass, and how its brightness changes over the field."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB, Bools, FloatImage, Floats
from wsi.pixels.channels import largest, smallest

DARK = 64
"""A background of which no channel reaches this is dark: fluorescence."""
UNSCANNED = 254
"""All channels at or above: the scanner never visited."""
_BRIGHT = 160
_SAMPLED = 100_000
"""Pixels that are enough to find a colour."""
_BACKGROUND_PIXELS = 150_000
"""About as many, evenly spread, are looked at for the background's colour."""
_FLAT = 12
"""Grey levels within 3 x 3 pixels."""
_NEAR = 15
"""Pixels around structure in which glass is looked for first."""
_BRIGHTER = 8
"""Grey levels by which nothing beside the tissue should be brighter than glass."""
_STAINED = 0.02
"""Difference of optical density between channels."""
_FIELD_PX = 16
"""Side of the blocks to which uneven light is fitted."""
_FIELD_LEAST = 0.01
"""Optical density: light that is more even than this is left as it is."""


def estimate_background(overview: RGB, usable: Bools) -> tuple[tuple[int, int, int], bool]:
    """Return the colour of the empty slide, and whether it is dark.

    The commonest colour among flat pixels near structure, in 32 steps per channel, then the median of its
    neighbourhood: what was never scanned, white or grey, lies further away. Where much is brighter than that, tissue
    covers all: then the brightest pixels tell, taken as colourless. It is dark where most is, and hardly anything else
    is flat and bright.
    """
    step = max(1, round(math.sqrt(usable.size / _BACKGROUND_PIXELS)))
    overview, usable = np.ascontiguousarray(overview[::step, ::step]), usable[::step, ::step]
    if not usable.any():
        return (255, 255, 255), False
    most = largest(overview)
    flat = usable & (_local_range(overview) <= _FLAT)
    dark = usable & (most < DARK)
    glass = flat & (most >= _BRIGHT)
    count = np.count_nonzero
    if count(dark) > 0.5 * count(usable) and count(glass) < 0.2 * count(usable & ~dark):
        return _commonest(overview[dark]), True
    scanned = usable & (smallest(overview) < UNSCANNED)
    near = _near_structure(usable & ~flat)
    choices = (glass & scanned, glass, flat & scanned, usable)
    candidates = next((choice for choice in choices if _share(choice) > 0.02), usable)
    colour = _commonest(overview[candidates])
    if _share(candidates & near) > 0.02:
        beside = _commonest(overview[candidates & near])
        colour = colour if _is_stained(beside, colour) else beside
    around = overview[scanned & near] if _share(near) > 0.02 else overview[scanned]
    above = [around[:, i] > min(colour[i] + _BRIGHTER, 255) for i in range(3)]
    if len(around) and _share(above[0] & above[1] & above[2]) > 0.05:
        level = int(np.quantile(largest(around[:, None])[:, 0], 0.995))
        return (level, level, level), False
    return colour, max(colour) < DARK


def _share(found: Bools) -> float:
    return np.count_nonzero(found) / found.size


def _is_stained(colour: tuple[int, int, int], glass: tuple[int, int, int]) -> bool:
    """Tell whether a colour is the other one behind a stain: darker, and more so in some channel than in another."""
    density = [math.log10((empty + 1) / (value + 1)) for value, empty in zip(colour, glass, strict=True)]
    return max(density) - min(density) > _STAINED and max(density) > 0


def _near_structure(rough: Bools) -> Bools:
    """Return where areas of structure, not mere edges, are within reach."""
    areas = cv2.morphologyEx(rough.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    return np.asarray(cv2.dilate(areas, np.ones((2 * _NEAR + 1, 2 * _NEAR + 1), np.uint8)) > 0)


def _commonest(pixels: RGB) -> tuple[int, int, int]:
    channels = np.ascontiguousarray(pixels[:: max(1, len(pixels) // _SAMPLED)].T)
    codes = (channels >> 3).astype(np.int64)
    mode = int(np.bincount((codes[0] << 10) | (codes[1] << 5) | codes[2], minlength=1 << 15).argmax())
    centre = np.array([mode >> 10, (mode >> 5) & 31, mode & 31]) * 8 + 4
    low, high = np.maximum(centre - 12, 0).tolist(), np.minimum(centre + 12, 255).tolist()
    near = np.ones(channels.shape[1], bool)
    for channel, least, greatest in zip(channels, low, high, strict=True):
        near &= (channel >= least) & (channel <= greatest)
    red, green, blue = (_median(channel[near] if near.any() else channel) for channel in channels)
    return red, green, blue


def _median(values: NDArray[np.uint8]) -> int:
    """Return the whole part of the median, by counting: many times as fast as sorting."""
    below = np.cumsum(np.bincount(values, minlength=256))
    middle = np.searchsorted(below, [(len(values) - 1) // 2, len(values) // 2], side="right")
    return int(middle.sum()) // 2


def _local_range(rgb: RGB) -> NDArray[np.uint8]:
    kernel = np.ones((3, 3), np.uint8)
    return largest(np.asarray(cv2.dilate(rgb, kernel) - cv2.erode(rgb, kernel), np.uint8))


def uneven_light(overview: RGB, usable: Bools, background: tuple[int, int, int]) -> FloatImage | None:
    """Return how much denser than the background the glass itself is, float32 (h, w); None where the light is even.

    A low polynomial of the place is fitted to blocks that are flat and colourless, and again without those that lie
    above it: shadows and vignettes follow it, tissue does not.
    """
    height, width = usable.shape
    size = (max(1, width // _FIELD_PX), max(1, height // _FIELD_PX))
    sampled = np.ascontiguousarray(overview[::2, ::2])
    small = np.asarray(cv2.resize(sampled, size, interpolation=cv2.INTER_AREA), np.uint8)
    even = (_local_range(sampled) <= _FLAT).astype(np.float32)
    flat = cv2.resize(even, size, interpolation=cv2.INTER_AREA)
    whole = cv2.resize(usable[::2, ::2].astype(np.float32), size, interpolation=cv2.INTER_AREA)
    signed = np.log10((np.array(background, np.float32) + 1) / (small.astype(np.float32) + 1))
    level, colour = signed.mean(axis=2), signed.max(axis=2) - signed.min(axis=2)
    glass = (flat > 0.9) & (whole > 0.99) & (colour < 0.015) & (np.abs(level) < 0.3) & (smallest(small) < UNSCANNED)
    if glass.sum() < 40 or glass.mean() < 0.15:
        return None
    basis = _basis(size[1], size[0])
    spread = 0.1
    for _ in range(6):
        fitted = basis @ np.linalg.lstsq(basis[glass], level[glass], rcond=None)[0]
        off = level - fitted
        spread = max(0.002, 1.4826 * float(np.median(np.abs(off[glass]))))
        kept = glass & (off < 2 * spread) & (off > -4 * spread)
        if kept.sum() < 40:
            break
        glass = kept
    low, high = np.quantile(level[glass], (0.005, 0.995))
    if high - low < _FIELD_LEAST:
        return None
    fitted = np.clip(fitted, low, high).astype(np.float32)
    return np.asarray(cv2.resize(fitted, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _basis(rows: int, columns: int) -> Floats:
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    return np.stack([np.ones_like(y), y, x, y * y, x * y, x * x, (y * y + x * x) ** 2], axis=2)

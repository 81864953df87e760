"""Where the tissue is: each slide's own background is estimated, then what absorbs light against it is found.

Works in optical density relative to the background (Ruifrok and Johnston 2001), so that grey glass and green slides
need no setting. Pure-white areas that the scanner never visited are neither background nor tissue. Where nothing is
found, the threshold is relaxed step by step and the result says so. A dark background (fluorescence) is recognised.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.slide import RGB

Mask = NDArray[np.uint8]
"""uint8 (h, w), 1 = tissue, in the overview's frame."""

MIN_AREA_UM2 = 20_000.0
"""Pieces smaller than this (a circle of 160 um) are dust, unless nothing else is found."""
_UNSCANNED = 254
"""All channels at or above: the scanner never visited."""
_DARK = 64
"""A background of which no channel reaches this is dark: fluorescence."""
_LADDER = ((1.0, 1.0), (0.7, 0.5), (0.5, 0.1), (0.35, 0.02))
"""Factors on the threshold and on the least area, tried in turn until tissue is found."""
_OTSU_BOUNDS = (0.06, 0.20)
"""Optical density: the least contrast called tissue, and the most that is asked for."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """A tissue mask and how it was found."""

    mask: Mask
    background: tuple[int, int, int]
    """Estimated colour of the empty slide."""
    dark_background: bool
    threshold: float
    """Optical density (or, on a dark background, intensity share) from which a pixel counts as tissue."""
    ladder_step: int
    """0: found with the normal threshold; above: relaxed that many times."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful user should know."""
        notes = []
        if not self.mask.any():
            notes.append("no tissue found")
        elif self.ladder_step:
            notes.append(f"tissue found only after relaxing the threshold {self.ladder_step} times")
        if self.dark_background:
            notes.append("dark background: treated as fluorescence")
        return tuple(notes)


def find_tissue(overview: RGB, um_per_px: float, damaged: Mask | None = None) -> Tissue:
    """Find the tissue on an overview.

    Parameters
    ----------
    overview
        uint8 (h, w, 3).
    um_per_px
        Its um/px, for sizes in micrometres.
    damaged
        uint8 (h, w), 1 where pixels are not to be believed: never tissue.
    """
    usable = np.ones(overview.shape[:2], bool) if damaged is None else damaged == 0
    background, dark = estimate_background(overview, usable)
    signal = _intensity(overview, background) if dark else optical_density(overview, background)
    signal = np.asarray(cv2.GaussianBlur(signal, (0, 0), max(0.5, 8.0 / um_per_px)), np.float32)
    signal[~usable] = 0
    threshold = _threshold(signal[usable], background_noise(signal, usable))
    least = MIN_AREA_UM2 / um_per_px**2
    step, weaker, mask = 0, 1.0, np.zeros_like(usable, np.uint8)
    for step, (weaker, smaller) in enumerate(_LADDER):  # noqa: B007
        mask = clean((signal > threshold * weaker).astype(np.uint8), least * smaller)
        mask[~usable] = 0
        if mask.any():
            break
    return Tissue(mask, background, dark, threshold * weaker, step)


def estimate_background(overview: RGB, usable: NDArray[np.bool_]) -> tuple[tuple[int, int, int], bool]:
    """Return the colour of the empty slide, and whether it is dark.

    The commonest colour among flat pixels, in 32 steps per channel, then the median of its neighbourhood. Pure white
    counts only where there is hardly anything else that is bright. Where that colour is so strong that it may be tissue
    that fills the picture, the brightest common colour takes its place.
    """
    flat = usable & (_local_range(overview) <= 12)
    scanned = flat & (overview.min(axis=2) < _UNSCANNED)
    bright = scanned & (overview.max(axis=2) >= 160)
    chosen = next(
        (m for m in (bright, flat & (overview.max(axis=2) >= 160), scanned, usable) if m.mean() > 0.02), usable
    )
    pixels = overview[chosen] if chosen.any() else overview.reshape(-1, 3)
    if not len(pixels):
        return (255, 255, 255), False
    dark_share = float((overview[usable].max(axis=1) < _DARK).mean()) if usable.any() else 0.0
    if dark_share > 0.5:
        pixels = overview[usable & (overview.max(axis=2) < _DARK)]
    colour = _commonest(pixels)
    return colour, max(colour) < _DARK


def _commonest(pixels: RGB) -> tuple[int, int, int]:
    codes = (pixels >> 3).astype(np.int32)
    flat = (codes[:, 0] << 10) | (codes[:, 1] << 5) | codes[:, 2]
    mode = int(np.bincount(flat, minlength=1 << 15).argmax())
    centre = np.array([mode >> 10, (mode >> 5) & 31, mode & 31]) * 8 + 4
    near = pixels[(np.abs(pixels.astype(np.int16) - centre) <= 12).all(axis=1)]
    red, green, blue = np.median(near if len(near) else pixels, axis=0)
    return int(red), int(green), int(blue)


def _local_range(rgb: RGB) -> NDArray[np.uint8]:
    kernel = np.ones((3, 3), np.uint8)
    return np.asarray((cv2.dilate(rgb, kernel) - cv2.erode(rgb, kernel)).max(axis=2), np.uint8)


def optical_density(rgb: RGB, background: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return how strongly each pixel absorbs against the background: the largest of the channels, float32 (h, w)."""
    tables = [np.log10((b + 1.0) / (np.arange(256) + 1.0)).astype(np.float32) for b in background]
    density = tables[0][rgb[..., 0]]
    for channel in (1, 2):
        np.maximum(density, tables[channel][rgb[..., channel]], out=density)
    return np.maximum(density, 0)


def _intensity(rgb: RGB, background: tuple[int, int, int]) -> NDArray[np.float32]:
    brighter = (rgb.astype(np.float32) - np.array(background, np.float32)).max(axis=2) / 255
    return np.maximum(brighter, 0).astype(np.float32)


def background_noise(signal: NDArray[np.float32], usable: NDArray[np.bool_]) -> float:
    """Return the spread of the signal where it is weak: 1.4826 times the median of its lower half."""
    weak = signal[usable & (signal < 0.05)]
    return 1.4826 * float(np.median(weak)) if weak.size else 0.0


def _threshold(signal: NDArray[np.float32], noise: float) -> float:
    low, high = _OTSU_BOUNDS
    scaled = np.clip(signal * 255, 0, 255).astype(np.uint8).reshape(-1, 1)
    otsu = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] / 255 if scaled.size else high
    return float(np.clip(otsu / 2, max(low, 4 * noise if 4 * noise < high else low), high))


def clean(mask: Mask, least_px: float) -> Mask:
    """Drop pieces of fewer than ``least_px`` pixels and fill holes smaller than that."""
    for value in (1, 0):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)
        if count > 1:
            small = stats[:, cv2.CC_STAT_AREA] < least_px
            small[0] = False
            mask = np.where(small[labels], 1 - value, mask).astype(np.uint8)
    return mask

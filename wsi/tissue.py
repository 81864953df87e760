"""Where the tissue is: each slide's own background is estimated, then what absorbs light against it is found.

Works in optical density relative to the background (Ruifrok and Johnston 2001), so that grey glass and green slides
need no setting, and in the texture of that density: faint tissue has structure, glass and shadows have none. Pure-white
and pure-black areas that the scanner never visited are neither background nor tissue. Where nothing is found, the
threshold is relaxed step by step and the result says so. A dark background (fluorescence) is recognised.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.channels import largest, smallest
from wsi.density import largest_density
from wsi.slide import RGB

Mask = NDArray[np.uint8]
"""uint8 (h, w), 1 = tissue, in the overview's frame."""

MIN_AREA_UM2 = 20_000.0
"""Pieces smaller than this (a circle of 160 um) are dust, unless nothing else is found."""
_PIECE_SHARE = 0.1
"""Smaller pieces count, too, where they have this share of the largest one: a slide of small fragments."""
_UNSCANNED = 254
"""All channels at or above: the scanner never visited."""
_PADDED = 6
"""All channels at or below, and flat, on a bright slide: padding around what was scanned."""
_SAMPLED = 200_000
"""Pixels that are enough to find a colour."""
_BACKGROUND_PIXELS = 400_000
"""About as many, evenly spread, are looked at for the background's colour."""
_DARK = 64
"""A background of which no channel reaches this is dark: fluorescence."""
_LADDER = ((1.0, 1.0), (0.7, 0.5), (0.5, 0.1), (0.35, 0.02))
"""Factors on the threshold and on the least area, tried in turn until tissue is found."""
_OTSU_BOUNDS = (0.06, 0.20)
"""Optical density: the least contrast called tissue, and the most that is asked for."""
_SMOOTH_UM, _SMOOTH_DARK_UM = 8.0, 20.0
"""Gaussian sigma before the threshold; on a dark background nuclei shine alone and are joined to tissue."""
_TEXTURE_UM = 24.0
"""Side of the window in which texture is judged."""
_FAINT = 0.45
"""Textured pixels count from this part of the threshold."""
_SMOOTH_PIECE = 1.8
"""Pieces of less than this many times the threshold must have texture."""


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
    if not dark:
        usable &= ~_padding(overview, um_per_px)
    signal, structure = _signal(overview, usable, background, um_per_px, dark=dark)
    threshold = _threshold(signal[usable], background_noise(signal, usable))
    rough = structure > _roughness(structure, signal, usable, threshold)
    del structure
    least = MIN_AREA_UM2 / um_per_px**2
    step, weaker, mask = 0, 1.0, np.zeros_like(usable, np.uint8)
    for step, (weaker, smaller) in enumerate(_LADDER):  # noqa: B007
        found = (signal > threshold * weaker) | (rough & (signal > threshold * weaker * _FAINT))
        if not dark:
            found = _without_smooth(found & usable, rough, signal, threshold * weaker)
        mask = clean((found & usable).astype(np.uint8), least * smaller)
        mask[~usable] = 0
        if mask.any():
            break
    return Tissue(mask, background, dark, threshold * weaker, step)


def _signal(
    overview: RGB, usable: NDArray[np.bool_], background: tuple[int, int, int], um_per_px: float, *, dark: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how much a pixel differs from the background, smoothed, and how much that varies, float32 (h, w) each."""
    raw = _intensity(overview, background) if dark else largest_density(overview, background)
    raw[~usable] = 0
    sigma = max(0.5, (_SMOOTH_DARK_UM if dark else _SMOOTH_UM) / um_per_px)
    signal = np.asarray(cv2.GaussianBlur(raw, (0, 0), sigma), np.float32)
    signal[~usable] = 0
    return signal, texture(raw, um_per_px)


def texture(signal: NDArray[np.float32], um_per_px: float) -> NDArray[np.float32]:
    """Return how much a signal varies in a window around each pixel (standard deviation), float32 (h, w)."""
    side = 2 * max(1, round(_TEXTURE_UM / um_per_px / 2)) + 1
    mean = np.asarray(cv2.blur(signal, (side, side)), np.float32)
    spread = np.asarray(cv2.sqrBoxFilter(signal, cv2.CV_32F, (side, side)), np.float32)
    spread -= np.square(mean, out=mean)
    return np.sqrt(np.maximum(spread, 0, out=spread), out=spread)


def _roughness(
    structure: NDArray[np.float32], signal: NDArray[np.float32], usable: NDArray[np.bool_], threshold: float
) -> float:
    """Return the texture that the empty slide never reaches: its median and eight times the spread, at least 0.012."""
    empty = structure[usable & (signal < threshold * _FAINT)]
    if not empty.size:
        return 0.012
    middle = float(np.median(empty))
    return max(0.012, middle + 8 * 1.4826 * float(np.median(np.abs(empty - middle))))


def _without_smooth(
    found: NDArray[np.bool_], rough: NDArray[np.bool_], signal: NDArray[np.float32], threshold: float
) -> NDArray[np.bool_]:
    """Drop pieces that are both faint and smooth within: grey glass, shadows, smears out of focus."""
    count, labels = cv2.connectedComponents(found.astype(np.uint8), connectivity=8)
    if count == 1:
        return found
    inner = cv2.erode(found.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1)[found] > 0
    piece, rough_inside = labels[found], rough[found] & inner
    size = np.maximum(np.bincount(piece, minlength=count), 1)
    deep = np.maximum(np.bincount(piece[inner], minlength=count), 1e-9)
    strength = np.bincount(piece, signal[found], minlength=count) / size
    share = np.bincount(piece[rough_inside], minlength=count) / deep
    smooth = (strength < _SMOOTH_PIECE * threshold) & (share < 0.1) & (deep > 0.3 * size)
    smooth[0] = False
    return found & ~smooth[labels]


def _padding(overview: RGB, um_per_px: float) -> NDArray[np.bool_]:
    """Return where the picture is flat, pure black over more than any tissue fold or stroke, bool (h, w)."""
    black = (largest(overview) <= _PADDED).astype(np.uint8)
    side = 2 * max(1, round(150 / um_per_px)) + 1
    core = cv2.erode(black, np.ones((side, side), np.uint8), borderValue=1)
    return np.asarray(cv2.dilate(core, np.ones((side + 4, side + 4), np.uint8)) > 0)


def estimate_background(overview: RGB, usable: NDArray[np.bool_]) -> tuple[tuple[int, int, int], bool]:
    """Return the colour of the empty slide, and whether it is dark.

    The commonest colour among flat pixels, in 32 steps per channel, then the median of its neighbourhood. Pure white
    counts only where there is hardly anything else that is bright.
    """
    step = max(1, round(math.sqrt(usable.size / _BACKGROUND_PIXELS)))
    overview, usable = np.ascontiguousarray(overview[::step, ::step]), usable[::step, ::step]
    flat, most = usable & (_local_range(overview) <= 12), largest(overview)
    scanned = flat & (smallest(overview) < _UNSCANNED)
    bright = scanned & (most >= 160)
    chosen = next((m for m in (bright, flat & (most >= 160), scanned, usable) if m.mean() > 0.02), usable)
    pixels = overview[chosen] if chosen.any() else overview.reshape(-1, 3)
    if not len(pixels):
        return (255, 255, 255), False
    dark_share = float((most[usable] < _DARK).mean()) if usable.any() else 0.0
    if dark_share > 0.5:
        pixels = overview[usable & (most < _DARK)]
    colour = _commonest(pixels)
    return colour, max(colour) < _DARK


def _commonest(pixels: RGB) -> tuple[int, int, int]:
    pixels = pixels[:: max(1, len(pixels) // _SAMPLED)]
    codes = (pixels >> 3).astype(np.int32)
    flat = (codes[:, 0] << 10) | (codes[:, 1] << 5) | codes[:, 2]
    mode = int(np.bincount(flat, minlength=1 << 15).argmax())
    centre = np.array([mode >> 10, (mode >> 5) & 31, mode & 31]) * 8 + 4
    near = pixels[(np.abs(pixels.astype(np.int16) - centre) <= 12).all(axis=1)]
    red, green, blue = np.median(near if len(near) else pixels, axis=0)
    return int(red), int(green), int(blue)


def _local_range(rgb: RGB) -> NDArray[np.uint8]:
    kernel = np.ones((3, 3), np.uint8)
    return largest(np.asarray(cv2.dilate(rgb, kernel) - cv2.erode(rgb, kernel), np.uint8))


def _intensity(rgb: RGB, background: tuple[int, int, int]) -> NDArray[np.float32]:
    brighter = largest(rgb.astype(np.float32) - np.array(background, np.float32)) / 255
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
    """Fill holes of fewer than ``least_px`` pixels and drop pieces smaller than that.

    Smaller pieces stay where they have a tenth of the largest one, and the largest reaches ``least_px``.
    """
    for value in (1, 0):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((mask == value).astype(np.uint8), connectivity=8)
        if count > 1:
            area = stats[:, cv2.CC_STAT_AREA]
            largest = area[1:].max()
            enough = least_px if value == 0 or largest < least_px else min(least_px, _PIECE_SHARE * largest)
            small = area < enough
            small[0] = False
            mask = np.where(small[labels], 1 - value, mask).astype(np.uint8)
    return mask


def fill_holes(mask: Mask) -> Mask:
    """Fill every hole, whatever its size; what touches the picture's edge is no hole."""
    padded = np.pad(mask, 1)
    outside = padded.copy()
    cv2.floodFill(outside, None, (0, 0), 1)
    return np.asarray(((padded == 1) | (outside == 0))[1:-1, 1:-1], np.uint8)

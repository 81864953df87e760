"""Scores of single tiles, from their own pixels: how sharp, how textured.

Both come from a few cheap sums. Averaging 2 x 2 pixels splits the variance of a picture exactly into what the
average keeps and what it loses (the Haar wavelet's bands), so the energy of each scale is a difference of variances.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB

TILE_SCORES = ("focus", "texture")
"""What `tile_scores` returns."""

FINE_UM = 0.5
"""Structures of one to two times this size tell whether a tile is sharp; tiles finer than this are averaged first."""
BLURRED = 0.04
"""At about 0.5 um/px, tiles of less focus are blurred by more than 1.5 um."""
_BANDS = 4
_EXACT = (1 << 24) // 255
"""Pixels of 8 bits whose sum float32 holds exactly."""
_NOISE = 4.0
"""Variance, in grey levels squared, below which a coarse band is noise."""


def tile_scores(tile_rgb: RGB, mpp: float) -> dict[str, float]:
    """Score one tile.

    Parameters
    ----------
    tile_rgb
        uint8 (T, T, 3).
    mpp
        um/px of the tile.

    Returns
    -------
    dict
        ``focus``: energy of structures of 0.5 to 1 um over the energy of those of 2 to 8 um. At 0.5 um/px sharp tissue
        has 0.06 to 0.3, tissue blurred by 1.5 um less than 0.04. At a coarser ``mpp`` the ratio starts at the pixel:
        compare tiles of one resolution only.
        ``texture``: standard deviation of brightness within 8 um, 0 to 1.

    Notes
    -----
    About 0.15 ms for 256 px on one core. Focus is a ratio of bands (as the power-spectrum slope of Field 1987): unlike
    the variance of the Laplacian it knows neither the strength of the stain nor how much of the tile is empty.
    """
    lost = _bands(cv2.cvtColor(tile_rgb, cv2.COLOR_RGB2GRAY), mpp)
    coarse = sum(lost[2:])
    return {
        "focus": lost[0] / (coarse + _NOISE),
        "texture": float(np.sqrt(sum(lost))) / 255,
    }


def focus_notes(focus: NDArray[np.float32] | None, mpp: float) -> list[str]:
    """Return a warning where most tiles look blurred; only near the resolution for which the bound is known."""
    if focus is None or not len(focus) or not 0.3 <= mpp <= 0.7 or float(np.median(focus)) >= BLURRED:
        return []
    return [f"most tiles look blurred (median focus {float(np.median(focus)):.3f}, sharp from {BLURRED})"]


def _bands(grey: NDArray[np.uint8], mpp: float) -> list[float]:
    """Return the variance that each of four halvings loses, finest first, grey levels squared."""
    pixels = grey.astype(np.float32)
    pixels -= _mean(grey)
    while mpp * 1.5 < FINE_UM:
        pixels, mpp = _half(pixels), mpp * 2
    lost, energy = [], -1.0
    for _ in range(_BANDS):
        cut = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
        before = energy if energy >= 0 and cut.shape == pixels.shape else _energy(cut)
        pixels = _half(cut) if min(cut.shape) > 2 else cut
        energy = _energy(pixels)
        lost.append(max(0.0, before - energy))
    return lost


def _mean(grey: NDArray[np.uint8]) -> np.float32:
    """Return the mean as float32 arithmetic has it; where its sums are exact in any order, the quickest is taken."""
    if grey.size <= _EXACT:
        return np.float32(cv2.sumElems(grey)[0]) / np.float32(grey.size)
    return np.float32(grey.astype(np.float32).mean())


def _half(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    size = (pixels.shape[1] // 2, pixels.shape[0] // 2)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32)


def _energy(pixels: NDArray[np.float32]) -> float:
    return float(np.vdot(pixels, pixels)) / max(1, pixels.size)

"""Pen marks on an overview: ink that no stain looks like.

Haematoxylin and eosin, alone or mixed, absorb green light the most (Ruifrok and Johnston 2001), red blood cells and
eosin hardly absorb red. So in optical density against the slide's own background:

=====  ================================================================================================
ink    rule
=====  ================================================================================================
blue   absorbs red clearly more than green
green  the same; both inks may lie over pink tissue, which lifts green and not red
red    hardly absorbs red and absorbs green and blue alike, far more than any layer of red blood cells
black  absorbs all three alike, nearly everything, without the structure of a tissue fold
=====  ================================================================================================

The rules hold for H&E. Blue and green stains (trichrome, Alcian blue, Giemsa) break the first, so the result is a
score of each tile, and nothing is left out unless it is asked for.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.channels import largest
from wsi.density import Density, densities
from wsi.slide import RGB

Mask = NDArray[np.uint8]
"""uint8 (h, w), 1 = ink, in the overview's frame."""

STROKE_UM = 80.0
"""Strokes thinner than this are no pen's; a felt tip draws 300 um and more."""
MIN_AREA_UM2 = 60_000.0
"""Smaller spots are pigment, dust or a stain's crystals."""
_REACH_UM = 240.0
"""How far the faint border of a stroke may reach beyond its strong part."""
_DARK_BACKGROUND = 64
_UNSCANNED_BLACK = 6


def pen_mask(overview: RGB, um_per_px: float, background: tuple[int, int, int]) -> Mask:
    """Find pen marks.

    Parameters
    ----------
    overview
        uint8 (h, w, 3).
    um_per_px
        Its um/px.
    background
        Colour of the empty slide; where it is dark (fluorescence) there is no ink to be seen.

    Returns
    -------
    uint8 (h, w), 1 where ink lies.
    """
    if max(background) < _DARK_BACKGROUND:
        return np.zeros(overview.shape[:2], np.uint8)
    smooth = np.asarray(cv2.GaussianBlur(overview, (0, 0), max(0.4, 6.0 / um_per_px)), np.uint8)
    inks = densities(smooth, background)
    scanned = (largest(overview) > _UNSCANNED_BLACK).astype(np.uint8)
    mask = np.zeros(overview.shape[:2], np.uint8)
    for strong, weak in (_blue_or_green(*inks), _red(*inks), _black(*inks)):
        mask |= _strokes(strong.astype(np.uint8) & scanned, weak.astype(np.uint8) & scanned, um_per_px)
    return mask


_Pair = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Where an ink surely is, and where it may be if it surely is nearby."""


def _blue_or_green(red: Density, green: Density, blue: Density) -> _Pair:
    excess = red - green
    # A dark violet-blue marker absorbs green like red, but lets blue through as no dense nuclei do.
    violet = (red > 0.65) & (red > 0.95 * green) & (blue < 0.38 * red)
    violet |= (red > 1.0) & (red > 0.85 * green) & (blue < 0.38 * red)
    strong = ((excess > 0.15) & (red > 0.3) & (excess > 0.15 * red)) | violet
    return strong, (excess > 0.06) & (red > 0.12)


def _red(red: Density, green: Density, blue: Density) -> _Pair:
    clear = red < 0.3 * green
    # Stain under the ink adds to green, hardly to blue.
    strong = clear & (green > 0.75) & (blue > 0.75) & (blue > 0.6 * green)
    return strong, clear & (green > 0.2) & (blue > 0.7 * green)


def _black(red: Density, green: Density, blue: Density) -> _Pair:
    least = np.minimum(np.minimum(red, green), blue)
    most = np.maximum(np.maximum(red, green), blue)
    # Over tissue, its stain comes on top; no stain alone absorbs so much of each channel.
    strong = ((least > 0.7) & (most - least < 0.3)) | ((least > 0.85) & (most - least < 0.8))
    return strong, (least > 0.4) & (most - least < 0.25)


def _strokes(strong: Mask, weak: Mask, um_per_px: float) -> Mask:
    """Keep strong parts as broad as a stroke, grown into the weak part around them; drop small spots."""
    width = max(1, round(STROKE_UM / um_per_px))
    seeds = cv2.morphologyEx(strong, cv2.MORPH_OPEN, _disk(width)) if width > 1 else strong
    if not seeds.any():
        return np.zeros_like(strong)
    reach = cv2.dilate(seeds, _disk(2 * max(1, round(_REACH_UM / um_per_px)) + 1))
    grown = ((weak | strong) & reach) | seeds
    count, labels, stats, _ = cv2.connectedComponentsWithStats(grown, connectivity=8)
    kept = np.zeros(count, bool)
    kept[np.unique(labels[seeds > 0])] = True
    kept &= stats[:, cv2.CC_STAT_AREA] * um_per_px**2 >= MIN_AREA_UM2
    kept[0] = False
    return np.asarray(kept[labels], np.uint8)


def _disk(width: int) -> Mask:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)), np.uint8)

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

The rules hold for H&E. Blue and green stains (trichrome, Alcian blue, Giemsa) have the first hue, too, but not what ink
has besides: it is even within a stroke, or at least without gaps, and it is not the colour of most of what is on the
slide. The result is a score of each tile, and nothing is left out by it unless it is asked for; only ink on glass,
which is even, is never taken for tissue (`flat_ink`).
"""

import cv2
import numpy as np

from wsi.arrays import RGB, Bools, FloatImage, Mask
from wsi.pixels.channels import largest
from wsi.tissue.density import Inks, densities, largest_density, least, most, texture
from wsi.tissue.pieces import disk, holding, of_pieces, pieces

STROKE_UM = 80.0
"""Strokes thinner than this are no pen's; a felt tip draws 300 um and more."""
MIN_AREA_UM2 = 60_000.0
"""Smaller spots are pigment, dust or a stain's crystals."""
_LEAST_STROKE_UM2 = 6_000.0
"""Smaller spots of even ink are dust: too small to be tissue, too."""
_LEAST_INK = 0.2
"""Optical density."""
_EVENNESS = (0.1, 0.08, 0.05)
"""Of black, of blue or green, and of red ink: deviation within a stroke, as a part of its density."""
_SURELY_EVEN, _EVENLY_INKED = 0.06, 0.55
"""Deviation as a part of the density, and part of a mark that varies less, where ink's hue is that of most."""
_SOLID, _GAP_UM, _SOMEWHAT_EVEN = 0.8, 30.0, 0.2
"""Where it has not: part of a mark without gaps of this size, and part that varies less."""
_USUAL_SHARE, _FAINT_STAIN = 0.45, 0.1
"""A hue of this part of all that is denser than this is the slide's stain."""
_EVEN_SHARE = 0.35
"""The inside of a stroke of five pixels is three of them."""
_BLUR_UM = 80.0
"""How far an even stroke's edge is blurred."""
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
    blue, *others = (
        _strokes(strong.astype(np.uint8) & scanned, weak.astype(np.uint8) & scanned, um_per_px)
        for strong, weak in (_blue_or_green(*inks), _red(*inks), _black(*inks))
    )
    if blue.any():
        plain = largest_density(overview, background)
        even = texture(plain, 3) < _SURELY_EVEN * plain
        blue = _unlike_stain(blue, _blue_or_green(*inks)[0], even, inks, um_per_px)
    return blue | others[0] | others[1]


def _unlike_stain(strokes: Mask, strong: Bools, even: Bools, inks: Inks, um_per_px: float) -> Mask:
    """Keep strokes that are even, and those without gaps unless most of what absorbs on the slide has their hue."""
    if not strokes.any():
        return strokes
    _, labels = cv2.connectedComponents(strokes, connectivity=8)
    gaps = cv2.morphologyEx(strong.astype(np.uint8), cv2.MORPH_CLOSE, disk(2 * max(1, round(_GAP_UM / um_per_px)) + 1))
    area, inked, closed, evenly = (
        np.bincount(labels[part], minlength=labels.max() + 1) for part in (strokes > 0, strong, gaps > 0, strong & even)
    )
    usual = float(strong.sum()) > _USUAL_SHARE * float((most(inks) > _FAINT_STAIN).sum())
    kept = evenly > _EVENLY_INKED * area
    if not usual:
        kept |= (inked > _SOLID * closed) & (evenly > _SOMEWHAT_EVEN * area)
    return of_pieces(labels, kept).astype(np.uint8)


def flat_ink(inks: Inks, unevenness: FloatImage, usable: Bools, um_per_px: float) -> Bools:
    """Find ink that lies on glass: even within a stroke, as no tissue is, however thin the stroke.

    Parameters
    ----------
    inks
        Density of red, green and blue, float32 (h, w) each, their noise taken out.
    unevenness
        Deviation of the density in the next surroundings of each pixel, float32 (h, w).
    usable
        Where to look, bool (h, w).
    um_per_px
        Of all.

    Returns
    -------
    bool (h, w). Ink over tissue, which shows the tissue through, is not among it.
    """
    strongest = most(inks)
    found = np.zeros(strongest.shape, bool)
    dense = strongest > _LEAST_INK
    dense &= usable
    absorbing = _hues(*(channel[dense] for channel in inks), strong=True)
    usual = _USUAL_SHARE * float((strongest > _FAINT_STAIN).sum())
    for number, (strong, evenness) in enumerate(zip(absorbing, _EVENNESS, strict=True)):
        if strong.sum() * um_per_px**2 < _LEAST_STROKE_UM2:
            continue
        hue = np.zeros(strongest.shape, bool)
        hue[dense] = strong
        share = _EVEN_SHARE if strong.sum() < usual else 1.4 * _EVEN_SHARE
        strokes = _even_strokes(hue, unevenness < evenness * strongest, share, um_per_px)
        if strokes.any():
            found |= _grown(strokes, _hues(*inks, strong=False)[number], _BLUR_UM, um_per_px) & usable
    return found


def _hues(red: FloatImage, green: FloatImage, blue: FloatImage, *, strong: bool) -> tuple[Bools, ...]:
    """Tell which pixels have the hue of black, blue or green, and red ink: at full strength, or at a stroke's edge."""
    inks, bluer = (red, green, blue), red - green > 0.15 * red
    strongest, weakest = most(inks), least(inks)
    colourless = strongest - weakest < 0.1 * strongest + 0.02
    if not strong:
        redder = (red < 0.3 * green) & (blue > 0.65 * green) & (green > 0.03)
        return colourless & (weakest > 0.02), bluer & (red > 0.03), redder
    deep_blue = (red > 0.9) & (red > 1.05 * green) & (blue < 0.5 * red)
    redder = (red < 0.15 * green) & (blue > 0.7 * green) & (green > 0.6)
    return colourless & (weakest > _LEAST_INK), (bluer & (red > 0.35)) | deep_blue, redder


def _grown(seeds: Bools, weak: Bools, reach_um: float, um_per_px: float) -> Bools:
    """Return the seeds with a pixel around them, and what is weak and connected to them within reach."""
    near = cv2.dilate(seeds.astype(np.uint8), disk(2 * max(1, round(reach_um / um_per_px)) + 1))
    close = cv2.dilate(seeds.astype(np.uint8), disk(3)) > 0
    return holding(seeds, (weak & (near > 0)) | close)


def _even_strokes(hue: Bools, even: Bools, least_share: float, um_per_px: float) -> Bools:
    """Return the pieces of a hue that are even for a good part: all but their edges."""
    if not hue.any():
        return hue
    labels, area = pieces(hue)
    share = np.bincount(labels[hue & even], minlength=len(area)) / np.maximum(area, 1)
    return of_pieces(labels, (share > least_share) & (area * um_per_px**2 >= _LEAST_STROKE_UM2))


_Pair = tuple[Bools, Bools]
"""Where an ink surely is, and where it may be if it surely is nearby."""


def _blue_or_green(red: FloatImage, green: FloatImage, blue: FloatImage) -> _Pair:
    excess = red - green
    strong = (excess > 0.15) & (red > 0.3) & (excess > 0.15 * red)
    deep = red > 0.65
    if deep.any():
        # A dark violet-blue marker absorbs green like red, but lets blue through as no dense nuclei do.
        deep &= blue < 0.38 * red
        strong |= deep & ((red > 0.95 * green) | ((red > 1.0) & (red > 0.85 * green)))
    return strong, (excess > 0.06) & (red > 0.12)


def _red(red: FloatImage, green: FloatImage, blue: FloatImage) -> _Pair:
    clear = red < 0.3 * green
    # Stain under the ink adds to green, hardly to blue.
    strong = clear & (green > 0.75) & (blue > 0.75) & (blue > 0.6 * green)
    return strong, clear & (green > 0.2) & (blue > 0.7 * green)


def _black(red: FloatImage, green: FloatImage, blue: FloatImage) -> _Pair:
    weakest = least((red, green, blue))
    spread = most((red, green, blue)) - weakest
    # Over tissue, its stain comes on top; no stain alone absorbs so much of each channel.
    strong = ((weakest > 0.7) & (spread < 0.3)) | ((weakest > 0.85) & (spread < 0.8))
    return strong, (weakest > 0.4) & (spread < 0.25)


def _strokes(strong: Mask, weak: Mask, um_per_px: float) -> Mask:
    """Keep strong parts as broad as a stroke, grown into the weak part around them; drop small spots."""
    if not strong.any():
        return np.zeros_like(strong)
    width = max(1, round(STROKE_UM / um_per_px))
    seeds = cv2.morphologyEx(strong, cv2.MORPH_OPEN, disk(width)) if width > 1 else strong
    if not seeds.any():
        return np.zeros_like(strong)
    reach = cv2.dilate(seeds, disk(2 * max(1, round(_REACH_UM / um_per_px)) + 1))
    grown = ((weak | strong) & reach) | seeds
    labels, area = pieces(grown)
    kept = np.bincount(labels[seeds > 0], minlength=len(area)) > 0
    return of_pieces(labels, kept & (area * um_per_px**2 >= MIN_AREA_UM2)).astype(np.uint8)

"""Where the tissue is: each slide's own background is estimated, then what absorbs light against it is found.

Works in optical density relative to the background (Ruifrok and Johnston 2001), less the unevenness of its light. The
threshold comes from the background's noise, never from the strongest stain, so that pale tissue beside a dark control,
ink or a strong marker is not lost. What is faint must have structure: glass, seams and shadows have none. What is dark,
flat and colourless is no tissue: fill around the scanned area (`wsi.tissue.borders`), ink (`wsi.tissue.pen`), edges of
cover slips. What is left out is noted. Where nothing is found, the threshold is relaxed step by step and the result
says so. A dark background (fluorescence) is recognised.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from wsi.arrays import RGB, Bools, FloatImage, Mask
from wsi.pixels.channels import largest, smallest
from wsi.tissue.background import UNSCANNED, estimate_background, uneven_light
from wsi.tissue.borders import border_mask, border_widths
from wsi.tissue.density import Inks, densities, largest_density, least, most, texture
from wsi.tissue.pen import flat_ink
from wsi.tissue.pieces import as_mask, disk, odd, of_pieces, pieces

MIN_AREA_UM2 = 20_000.0
"""Pieces smaller than this (a circle of 160 um) are dust, unless nothing else is found."""
_PIECE_SHARE = 0.1
"""Smaller pieces count, too, where they have this share of the largest one: a slide of small fragments."""
_LADDER = ((1.0, 1.0), (0.7, 0.5), (0.5, 0.1), (0.35, 0.02))
"""Factors on the threshold and on the least area, tried in turn until tissue is found."""
_NOISES, _THRESHOLDS = 6.0, (0.05, 0.08)
"""The threshold in deviations of the background, and its bounds in optical density."""
_DARK_THRESHOLDS = (0.08, 0.12)
"""Its bounds on a dark background, as a share of full light."""
_FAINT_NOISES, _FAINT_THRESHOLDS = 3.0, (0.014, 0.035)
"""The same for pixels in areas of structure."""
_PLAIN_NOISES = 7.0
"""And where the noise is not taken out of them."""
_SMOOTH_DARK_UM = 20.0
"""Gaussian sigma before the threshold on a dark background: nuclei shine alone and are joined to tissue."""
_TEXTURE_UM = 24.0
"""Side of the window in which texture is judged."""
_AREA_UM = 100.0
"""Side of the window of which nearly half must have texture: broader than an edge or a seam."""
_CLOSED_UM = 80.0
"""Gaps in tissue that are closed."""
_SMOOTH_PIECE = 2.0
"""Pieces of less than this many times the threshold must have texture."""
_SURROUNDINGS_UM = 400.0
"""Side of the window in which ink may have tissue on most sides."""
_LINE_UM, _LINE_LENGTH_UM = 56.0, 480.0
"""Colourless lines thinner and longer than this are edges of cover slips and scratches."""
_THIRD = np.s_[::3, ::3]
"""Pixels that are enough for what is said of the whole slide."""
_TOLD_SHARE = 0.002
"""What is left out is noted from this share of the picture."""


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
    left_out: tuple[str, ...] = ()
    """What was taken for something else, in words."""

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
        return (*notes, *self.left_out)


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
    seen = (_seen_in_the_dark if dark else _seen)(overview, usable, background, um_per_px)
    least = MIN_AREA_UM2 / um_per_px**2
    step, weaker, mask = 0, 1.0, np.zeros_like(usable, np.uint8)
    for step, (weaker, smaller) in enumerate(_LADDER):  # noqa: B007
        found = seen.signal > seen.threshold * weaker
        found |= seen.structured & ((seen.signal > seen.faint * weaker) | (seen.plain > seen.faint_plain * weaker))
        found &= seen.usable
        found = found if dark else _without_smooth(found, seen, seen.threshold * weaker)
        mask = clean(_closed(found, um_per_px), least * smaller)
        mask[~seen.usable] = 0
        if mask.any():
            break
    return Tissue(mask, background, dark, seen.threshold * weaker, step, seen.left_out)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the thresholds are applied to."""

    signal: FloatImage
    """How much a pixel differs from the background, its noise taken out, float32 (h, w)."""
    plain: FloatImage
    """The same of the pixel alone: walls of fat are as thin as that."""
    rough: Bools
    """Where it varies more than empty glass does."""
    structured: Bools
    """Where that holds for most of the surroundings."""
    usable: Bools
    """Where tissue may be."""
    threshold: float
    faint: float
    faint_plain: float
    """For ``signal`` and ``plain`` in structured areas."""
    left_out: tuple[str, ...] = ()


def _seen(overview: RGB, usable: Bools, background: tuple[int, int, int], um_per_px: float) -> _Seen:
    """Return what is seen on a bright background: density, without what is no tissue for sure."""
    border = border_mask(overview, um_per_px, background)
    usable = usable & ~border
    # The median keeps edges where they are: a blur would widen dark pieces by its own width.
    inks = densities(np.asarray(cv2.medianBlur(overview, 3), np.uint8), background)
    light = uneven_light(overview, usable, background)
    signal, plain = _less(most(inks), light, usable), _less(largest_density(overview, background), light, usable)
    structure = texture(plain, odd(_TEXTURE_UM / um_per_px))
    scanned = usable[_THIRD] & (smallest(np.ascontiguousarray(overview[_THIRD])) < UNSCANNED)
    noise = background_noise(signal, structure, scanned)
    threshold, faint = _bounded(_NOISES * noise, _THRESHOLDS), _bounded(_FAINT_NOISES * noise, _FAINT_THRESHOLDS)
    faint_plain = max(faint, _PLAIN_NOISES * noise)
    ink, line = _ink_and_lines(inks, signal, plain, usable, threshold, faint, um_per_px)
    usable &= ~(ink | line)
    rough = structure > _roughness(structure, signal, usable, faint)
    areas, left_out = _areas(rough, um_per_px), _left_out(border, ink, line, um_per_px)
    return _Seen(signal, plain, rough, areas, usable, threshold, faint, faint_plain, left_out)


def _ink_and_lines(
    inks: Inks,
    signal: FloatImage,
    plain: FloatImage,
    usable: Bools,
    threshold: float,
    faint: float,
    um_per_px: float,
) -> tuple[Bools, Bools]:
    """Return where ink lies on glass, and where colourless lines run; every other pixel is looked at, each way."""
    half = np.s_[::2, ::2]
    unevenness = texture(plain, 3)[half]
    red, green, blue = (np.ascontiguousarray(ink[half]) for ink in inks)
    coarse: Inks = (red, green, blue)
    strongest, inside = np.ascontiguousarray(signal[half]), usable[half]
    ink = flat_ink(coarse, unevenness, inside, 2 * um_per_px)
    ink &= ~_amid_tissue(ink, (strongest > faint) & inside, 2 * um_per_px)
    line = _lines((strongest > threshold) & inside & ~ink, coarse, 2 * um_per_px)
    size = usable.shape[::-1]
    both = (cv2.resize(part.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for part in (ink, line))
    return next(both) & usable, next(both) & usable


def _less(density: FloatImage, light: FloatImage | None, usable: Bools) -> FloatImage:
    """Return a density less that of unevenly lit glass, 0 where it is not usable."""
    if light is not None:
        density -= light
    if not usable.all():
        density[~usable] = 0
    return density


def _seen_in_the_dark(overview: RGB, usable: Bools, background: tuple[int, int, int], um_per_px: float) -> _Seen:
    """Return what is seen on a dark background: light."""
    raw = _intensity(overview, background)
    raw[~usable] = 0
    signal = np.asarray(cv2.GaussianBlur(raw, (0, 0), max(0.5, _SMOOTH_DARK_UM / um_per_px)), np.float32)
    signal[~usable] = 0
    structure = texture(raw, odd(_TEXTURE_UM / um_per_px))
    threshold = _bounded(_NOISES * background_noise(signal, structure, usable[_THIRD]), _DARK_THRESHOLDS)
    rough = structure > _roughness(structure, signal, usable, threshold / 2)
    return _Seen(signal, signal, rough, rough, usable, threshold, threshold / 2, threshold / 2)


def _bounded(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _roughness(structure: FloatImage, signal: FloatImage, usable: Bools, faint: float) -> float:
    """Return the texture that the empty slide hardly reaches: its median and six times the spread."""
    empty = structure[_THIRD][usable[_THIRD] & (signal[_THIRD] < faint)]
    if not empty.size:
        return 0.006
    middle = float(np.median(empty))
    return _bounded(middle + 6 * 1.4826 * float(np.median(np.abs(empty - middle))), (0.006, 0.02))


def _areas(rough: Bools, um_per_px: float) -> Bools:
    """Return the rough areas that are broader than an edge."""
    side = odd(_AREA_UM / um_per_px)
    share = np.asarray(cv2.boxFilter(as_mask(rough), cv2.CV_32F, (side, side)), np.float32)
    return np.asarray(cv2.dilate((share > 0.45).astype(np.uint8), np.ones((side // 2 + 1,) * 2, np.uint8)) > 0)


def _amid_tissue(ink: Bools, found: Bools, um_per_px: float) -> Bools:
    """Return what looks like ink and has tissue on most sides: a strong marker, or ink over tissue."""
    if not ink.any():
        return ink
    side = odd(_SURROUNDINGS_UM / um_per_px)
    clear, tissue = (cv2.blur(part.astype(np.float32), (side, side)) for part in (~ink, found & ~ink))
    amid = ink & (tissue > 0.4 * clear) & (clear > 0.1)
    count, labels = cv2.connectedComponents(ink.astype(np.uint8), connectivity=8)
    around = np.asarray(cv2.dilate(labels.astype(np.float32), np.ones((5, 5), np.uint8)), np.int32)
    around[ink] = 0
    ring = np.bincount(around.ravel(), minlength=count)
    enclosed = np.bincount(around[found], minlength=count) > 0.6 * np.maximum(ring, 1)
    return np.asarray(amid | of_pieces(labels, enclosed))


def _lines(found: Bools, inks: Inks, um_per_px: float) -> Bools:
    """Return long, thin, colourless lines."""
    strongest = most(inks)
    grey = (found & (strongest - least(inks) < 0.15 * strongest)).astype(np.uint8)
    if not grey.any():
        return grey > 0
    side = odd(_LINE_UM / um_per_px)
    thin = grey & ~cv2.morphologyEx(grey, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(thin, connectivity=8)
    length = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    kept = (length * um_per_px >= _LINE_LENGTH_UM) & (stats[:, cv2.CC_STAT_AREA] < 0.3 * length * length)
    return np.asarray(cv2.dilate(of_pieces(labels, kept).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)


def _left_out(border: Bools, ink: Bools, line: Bools, um_per_px: float) -> tuple[str, ...]:
    notes, share = [], np.count_nonzero(border) / border.size
    if share > _TOLD_SHARE:
        width = border_widths(border) * um_per_px / 1000
        wide = f"up to {width:.1f} mm wide, " if width >= 0.05 else ""  # else it covers part of each side
        notes.append(f"a border ({wide}{share:.0%} of the slide) was left out")
    share = np.count_nonzero(ink | line) / ink.size
    if share > _TOLD_SHARE:
        notes.append(f"pen marks or edges of a cover slip ({share:.1%} of the slide) were left out")
    return tuple(notes)


def _without_smooth(found: Bools, seen: _Seen, threshold: float) -> Bools:
    """Drop pieces that are both faint and smooth within: grey glass, shadows, smears out of focus."""
    count, labels = cv2.connectedComponents(as_mask(found), connectivity=8)
    if count == 1:
        return found
    places = np.flatnonzero(found)
    piece, signal = labels.ravel()[places], seen.signal.ravel()[places]
    size = np.maximum(np.bincount(piece, minlength=count), 1)
    faint = np.bincount(piece, signal, minlength=count) / size < _SMOOTH_PIECE * threshold
    if not faint[1:].any():
        return found
    places = places[faint[piece]]
    eroded = cv2.erode(as_mask(found), np.ones((5, 5), np.uint8), borderValue=1)
    piece, inner = labels.ravel()[places], eroded.ravel()[places] > 0
    rough_inside = seen.rough.ravel()[places] & inner
    deep = np.maximum(np.bincount(piece[inner], minlength=count), 1e-9)
    share = np.bincount(piece[rough_inside], minlength=count) / deep
    smooth = faint & (share < 0.1) & (deep > 0.3 * size)
    return found & ~of_pieces(labels, smooth)


def _closed(found: Bools, um_per_px: float) -> Mask:
    """Close narrow gaps; the picture's edge is no gap."""
    shape = disk(odd(_CLOSED_UM / um_per_px))
    return np.asarray(cv2.morphologyEx(as_mask(found), cv2.MORPH_CLOSE, shape), np.uint8)


def _intensity(rgb: RGB, background: tuple[int, int, int]) -> FloatImage:
    brighter = largest(rgb.astype(np.float32) - np.array(background, np.float32)) / 255
    return np.maximum(brighter, 0).astype(np.float32)


def background_noise(signal: FloatImage, structure: FloatImage, scanned: Bools) -> float:
    """Return how much single pixels of the empty slide vary: the usual texture where the signal is weak.

    Every third pixel, each way, is looked at; ``scanned`` has these alone.
    """
    weak = structure[_THIRD][scanned & (signal[_THIRD] < 0.05)]
    return float(np.quantile(weak, 0.6)) if weak.size else 0.0


def clean(mask: Mask, least_px: float) -> Mask:
    """Fill holes of fewer than ``least_px`` pixels and drop pieces smaller than that.

    Smaller pieces stay where they have a tenth of the largest one, and the largest reaches ``least_px``.
    """
    for value in (1, 0):
        labels, area = pieces(mask == value)
        largest = area[1:].max(initial=0)
        enough = least_px if value == 0 or largest < least_px else min(least_px, _PIECE_SHARE * largest)
        mask = mask ^ as_mask(of_pieces(labels, area < enough))
    return mask


def fill_holes(mask: Mask) -> Mask:
    """Fill every hole, whatever its size; what touches the picture's edge is no hole."""
    padded = np.pad(mask, 1)
    outside = padded.copy()
    cv2.floodFill(outside, None, (0, 0), 1)
    return np.asarray(((padded == 1) | (outside == 0))[1:-1, 1:-1], np.uint8)

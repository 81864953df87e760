"""What lies around the scanned area: black, grey or noisy fill, flat and colourless, along the picture's edge."""

import cv2
import numpy as np

from wsi.arrays import RGB, Bools, FloatImage
from wsi.pixels.channels import largest, smallest
from wsi.tissue.pieces import holding, of_pieces, pieces

_CELL = 4
"""Pixels that are averaged before flatness is judged, along each side: noise of the fill goes."""
_REACH = 6
"""Cells over which a soft edge may reach."""
_GREYNESS = 10
"""Grey levels between the channels, beyond those of the glass."""
_NO_COLOURS = 0.998
"""Share of a picture from which on it is grey throughout: a grey slide, not one with grey fill."""
_LEAST_SHARE = 0.002
"""Smaller fills are left to the other rules."""
_PALE, _ONE_LEVEL = 0.4, 0.012
"""Optical density below which a fill must be of one level, and how much that may vary."""
_BLACK = 6
"""All channels at or below, and flat, anywhere: padding."""


def border_mask(overview: RGB, um_per_px: float, background: tuple[int, int, int]) -> Bools:
    """Return what is fill around the scanned area, bool (h, w).

    Parameters
    ----------
    overview
        uint8 (h, w, 3), on a bright background.
    um_per_px
        Its um/px.
    background
        Colour of the empty slide.
    """
    padding = _padding(overview, um_per_px)
    height, width = padding.shape
    size = (max(1, width // _CELL), max(1, height // _CELL))
    small = np.asarray(cv2.resize(overview, size, interpolation=cv2.INTER_AREA), np.uint8)
    depth, grey = _depth_and_greyness(small, background)
    kernel = np.ones((3, 3), np.uint8)
    level = smallest(small)
    varied = np.asarray(cv2.dilate(level, kernel), np.int16) - np.asarray(cv2.erode(level, kernel), np.int16)
    dark = depth > 0.18
    # In a picture without colours tissue is as colourless as fill: what is not quite flat may be tissue.
    rough = 5 if grey.mean() > _NO_COLOURS else 14
    fill = grey & ((dark & (varied <= rough)) | (~dark & (depth > 0.04) & (varied <= 5)))
    fill = _reaching_the_edge(fill, depth)
    if not fill.any():
        return padding
    near = cv2.dilate(fill.astype(np.uint8), np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8))
    near = cv2.resize(near, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    whole = cv2.resize(fill.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    smooth = np.asarray(cv2.blur(overview, (3, 3)), np.uint8)
    depth, grey = _depth_and_greyness(smooth, background)
    return np.asarray(padding | whole | holding(whole, whole | (near & grey & (depth > 0.012)), 4))


def border_widths(border: Bools) -> int:
    """Return how far the fill reaches into the picture, px: the most over the four sides."""
    if not border.any():
        return 0
    rows, columns = border.mean(axis=1) > 0.6, border.mean(axis=0) > 0.6
    runs = [line.argmin() if not line.all() else len(line) for line in (rows, rows[::-1], columns, columns[::-1])]
    return int(max(runs))


def _depth_and_greyness(rgb: RGB, background: tuple[int, int, int]) -> tuple[FloatImage, Bools]:
    """Return the density of the least absorbing channel, and whether a pixel is as colourless as the glass is."""
    tables = [np.arange(256) * (max(background) / max(1, empty)) for empty in background]
    even = np.stack([np.clip(t, 0, 255) for t in tables], axis=1).astype(np.uint8)
    balanced = np.asarray(cv2.LUT(rgb, even[None]), np.uint8)
    # Fill that is grey by itself stands beside tinted glass, too.
    spread = np.minimum(largest(balanced) - smallest(balanced), largest(rgb) - smallest(rgb))
    depth = np.log10((max(background) + 1.0) / (np.arange(256) + 1.0)).astype(np.float32)
    return np.asarray(cv2.LUT(largest(balanced), depth), np.float32), spread <= _GREYNESS


def _reaching_the_edge(fill: Bools, depth: FloatImage) -> Bools:
    """Keep large pieces along the picture's edge; pale ones only if they are of one level, as no vignette is."""
    labels, area = pieces(fill, 4)
    count = len(area)
    kept = np.zeros(count, bool)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        found = np.bincount(line, minlength=count)
        kept |= found >= max(2, 0.04 * len(line))
    sums = (np.bincount(labels.ravel(), (depth**k).ravel(), minlength=count) for k in (1, 2))
    mean, square = (own / np.maximum(area, 1) for own in sums)  # all may be fill: then nothing is without
    kept &= (area >= _LEAST_SHARE * fill.size) & ((mean > _PALE) | (square - mean * mean < _ONE_LEVEL**2))
    return of_pieces(labels, kept)


def _padding(overview: RGB, um_per_px: float) -> Bools:
    """Return where the picture is flat, pure black over more than any tissue fold or stroke, bool (h, w)."""
    black = np.asarray(cv2.inRange(overview, (0, 0, 0), (_BLACK, _BLACK, _BLACK)), np.uint8)
    if not black.any():
        return black > 0
    side = 2 * max(1, round(150 / um_per_px)) + 1
    core = cv2.erode(black, np.ones((side, side), np.uint8), borderValue=1)
    return np.asarray(cv2.dilate(core, np.ones((side + 4, side + 4), np.uint8)) > 0)

"""Whether a pyramid level holds all that the slide holds: scans were seen whose coarse levels miss a part."""

from collections.abc import Sequence

import cv2
import numpy as np

from wsi.arrays import Bools
from wsi.units import YX, Box

_SIDE, _MOST_POINTS = 64, 2048
"""Pixels of the slide between two points that are looked at, at least, and points along a side, at most."""


def covers(places: Sequence[Box], factor: int, first: Sequence[Box], shape: YX) -> bool:
    """Tell whether a level has pixels wherever the finest level has them, to within its own rounding.

    Parameters
    ----------
    places, factor
        Rectangles of the level, in its pixels, and the slide's pixels for each.
    first, shape
        Rectangles of the finest level, and its size.
    """
    side = max(_SIDE, 2 * factor, max(shape) // _MOST_POINTS)
    n_points = YX(*(max(1, (length - factor + side // 2) // side) for length in shape))
    wanted = cv2.erode(_at_points(first, 1, side, n_points).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return not (wanted & ~_at_points(places, factor, side, n_points)).any()


def _at_points(places: Sequence[Box], factor: int, side: int, n_points: YX) -> Bools:
    """Return which points, ``side`` apart and half of it from the corner, lie in any of the rectangles."""
    there = np.zeros(n_points, bool)
    for place in places:
        y0, x0, y1, x1 = (max(0, -(-(edge * factor - side // 2) // side)) for edge in place)
        there[y0:y1, x0:x1] = True
    return there

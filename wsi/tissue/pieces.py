"""Connected pieces of a mask: which of them are kept; and the shapes that masks are grown by."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import Bools, Mask

_FEW = 8
"""Pieces that are compared with one after the other."""


def pieces(
    mask: NDArray[Any], connectivity: int = 8, counted: Bools | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the number of each pixel's piece, int32 (h, w), 0 outside, and the pieces' areas in pixels, int64 (n,).

    Of the areas only what is ``counted`` counts, bool (h, w), if given. Counting the pixels of each label takes a
    quarter of the time that OpenCV takes to gather all that it tells of pieces.
    """
    count, labels = cv2.connectedComponents(as_mask(mask), connectivity=connectivity)
    if count > _FEW:
        return labels, np.bincount(labels.ravel() if counted is None else labels[counted], minlength=count)
    whole = (labels == number for number in range(count))
    return labels, np.array([np.count_nonzero(own if counted is None else own & counted) for own in whole], np.int64)


def of_pieces(labels: NDArray[np.int32], chosen: Bools) -> Bools:
    """Return where the chosen pieces lie, bool (h, w); what is outside of all is none of them."""
    wanted = np.flatnonzero(chosen[1:]) + 1
    if len(wanted) <= _FEW:  # comparing is many times as fast as looking each pixel's label up
        return _any_of(labels, wanted)
    others = np.flatnonzero(~chosen[1:]) + 1
    if len(others) <= _FEW:
        return np.asarray((labels > 0) & ~_any_of(labels, others))
    return np.asarray(np.concatenate([[False], chosen[1:]])[labels])


def _any_of(labels: NDArray[np.int32], numbers: NDArray[np.int64]) -> Bools:
    found = np.zeros(labels.shape, bool)
    for number in numbers.tolist():
        found |= labels == number
    return found


def as_mask(found: NDArray[Any]) -> Mask:
    """Return a mask as OpenCV takes it; of a mask or bool picture the same memory."""
    return found.view(np.uint8) if found.dtype == bool else found.astype(np.uint8, copy=False)


def holding(seeds: Bools, mask: NDArray[Any], connectivity: int = 8) -> Bools:
    """Return the pieces of a mask that hold a seed, bool (h, w)."""
    count, labels = cv2.connectedComponents(as_mask(mask), connectivity=connectivity)
    return of_pieces(labels, np.bincount(labels[seeds], minlength=count) > 0)


def disk(width: int) -> Mask:
    """Return a disk to grow by, of an odd width in pixels."""
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)), np.uint8)


def odd(length_px: float) -> int:
    """Return the odd number next to a length, at least 3."""
    return 2 * max(1, round(length_px / 2)) + 1

"""The largest and the smallest of three channels, several times faster than numpy reduces a short last axis."""

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


def largest(picture: NDArray[Number]) -> NDArray[Number]:
    """Return the largest channel of (..., 3) as (...)."""
    first, second, third = _channels(picture)
    found = np.maximum(first, second)
    return np.maximum(found, third, out=found)


def smallest(picture: NDArray[Number]) -> NDArray[Number]:
    """Return the smallest channel of (..., 3) as (...)."""
    first, second, third = _channels(picture)
    found = np.minimum(first, second)
    return np.minimum(found, third, out=found)


def _channels(picture: NDArray[Number]) -> Sequence[NDArray[Number]]:
    """Return the channels, side by side in memory where the picture is: as they lie, each third value is taken."""
    if picture.ndim == 3 and picture.size and picture.flags.c_contiguous:
        return [np.asarray(channel) for channel in cv2.split(picture)]
    return [picture[..., channel] for channel in range(3)]

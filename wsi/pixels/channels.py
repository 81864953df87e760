"""The largest and the smallest of three channels, several times faster than numpy reduces a short last axis."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


def largest(picture: NDArray[Number]) -> NDArray[Number]:
    """Return the largest channel of (..., 3) as (...)."""
    return np.maximum(np.maximum(picture[..., 0], picture[..., 1]), picture[..., 2])


def smallest(picture: NDArray[Number]) -> NDArray[Number]:
    """Return the smallest channel of (..., 3) as (...)."""
    return np.minimum(np.minimum(picture[..., 0], picture[..., 1]), picture[..., 2])

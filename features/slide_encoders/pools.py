"""Pools that learn nothing: the mean of the tiles' features, the mean beside the deviation, the maximum."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from features.bags.bag import BagHeader, feature_rows, measured
from features.bags.moments import Moments
from features.slide_encoders.spec import SlideSpec
from wsi.arrays import Floats

if TYPE_CHECKING:
    import torch


def _moments(header: BagHeader) -> Moments:
    """Return the features' moments, as the bag carries them; another tool's bag is read for them."""
    found = header.moments or measured(header).moments
    assert found is not None, "a bag that was measured has moments"
    return found


def mean(header: BagHeader) -> Floats:
    """Return the mean of each feature over the tiles: (D,)."""
    return _moments(header).mean_D


def mean_std(header: BagHeader) -> Floats:
    """Return the means, then the standard deviations over the tiles (of the population: divided by n): (2 D,)."""
    moments = _moments(header)
    return np.concatenate([moments.mean_D, np.sqrt(moments.spread_around(moments.mean_D))])


def largest(header: BagHeader) -> Floats:
    """Return the maximum of each feature over the tiles: (D,)."""
    return np.asarray(feature_rows(header.path).max(axis=0), np.float64)


POOLS: Mapping[str, tuple[Callable[[BagHeader], Floats], int, str]] = {
    "mean": (mean, 1, "mean of the tiles' features"),
    "mean-std": (mean_std, 2, "mean of the tiles' features beside their standard deviation"),
    "max": (largest, 1, "maximum of the tiles' features"),
}
"""By name: the function, how many values it makes of a feature, and what it is."""


class Pool:
    """One of `POOLS` as a slide encoder."""

    def __init__(self, name: str) -> None:
        self._pool, self._times, told = POOLS[name]
        self.spec = SlideSpec(name=name, trained=False, licence="", description=told)

    def check(self, header: BagHeader, *, off_recipe: bool) -> None:
        self.spec.check(header, off_recipe=off_recipe)

    def to(self, device: "torch.device") -> None:
        """Do nothing: a pool has no tensors."""

    def encode(self, header: BagHeader) -> Floats:
        return self._pool(header)

    def width(self, tiles_dim: int) -> int:
        return self._times * tiles_dim

"""Optical density against the empty slide: how strongly each pixel absorbs (Ruifrok and Johnston 2001)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB, FloatImage


def density_tables(background: tuple[int, int, int]) -> list[NDArray[np.float32]]:
    """Return for each channel the density of every grey value, float32 (256,) each; 0 for brighter than empty."""
    grey = np.arange(256) + 1.0
    return [np.maximum(np.log10((empty + 1.0) / grey), 0).astype(np.float32) for empty in background]


Inks = tuple[FloatImage, FloatImage, FloatImage]
"""Density of red, green and blue, float32 (h, w) each."""


def densities(rgb: RGB, background: tuple[int, int, int]) -> Inks:
    """Return the density of red, green and blue, float32 (h, w) each."""
    red, green, blue = (_channel(rgb, i, table) for i, table in enumerate(density_tables(background)))
    return red, green, blue


def most(inks: Inks) -> FloatImage:
    """Return the density of the channel that absorbs most."""
    found = np.maximum(inks[0], inks[1])
    return np.maximum(found, inks[2], out=found)


def least(inks: Inks) -> FloatImage:
    """Return the density of the channel that absorbs least."""
    found = np.minimum(inks[0], inks[1])
    return np.minimum(found, inks[2], out=found)


def _channel(rgb: RGB, channel: int, table: NDArray[np.float32]) -> FloatImage:
    """Look up one channel; numpy's indexing would make a copy of eight bytes per pixel on the way."""
    return np.asarray(cv2.LUT(cv2.extractChannel(rgb, channel), table), np.float32)


def largest_density(rgb: RGB, background: tuple[int, int, int]) -> FloatImage:
    """Return the density of the channel that absorbs most, float32 (h, w)."""
    tables = density_tables(background)
    found = _channel(rgb, 0, tables[0])
    for channel in (1, 2):
        np.maximum(found, _channel(rgb, channel, tables[channel]), out=found)
    return found


def mean_density(rgb: RGB, background: tuple[int, int, int]) -> FloatImage:
    """Return the mean density of the channels, float32 (h, w)."""
    return mean(densities(rgb, background))


def mean(inks: Inks) -> FloatImage:
    """Return the mean density of the channels."""
    total = inks[0] + inks[1]
    total += inks[2]
    total /= 3
    return total


def texture(signal: FloatImage, side: int) -> FloatImage:
    """Return how much a signal varies in a window around each pixel (standard deviation), float32 (h, w)."""
    mean = np.asarray(cv2.blur(signal, (side, side)), np.float32)
    spread = np.asarray(cv2.sqrBoxFilter(signal, cv2.CV_32F, (side, side)), np.float32)
    spread -= np.square(mean, out=mean)
    return np.sqrt(np.maximum(spread, 0, out=spread), out=spread)

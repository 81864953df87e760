"""Area averaging: each output pixel is the mean of the input area that it covers."""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.units import YX, Box

_NOWHERE = YX(0, 0)
_PERIOD = 128
_DOWN = (np.random.RandomState(0).permutation(_PERIOD**2) % 2).astype(np.uint8).reshape(_PERIOD, _PERIOD)
"""Which means that end in one half go down, by place: whatever runs through a slide, it does not meet this pattern."""
_BLOCK = 64
"""Output rows per matrix product: small enough that few weights are zero, large enough for BLAS."""


def source_box(out: Box, scale: float) -> Box:
    """Return the input pixels that the output box touches, ``scale`` input pixels per output pixel."""
    if float(scale).is_integer():
        n = int(scale)
        return Box(out.y0 * n, out.x0 * n, out.y1 * n, out.x1 * n)
    slack = 1 if scale < 1 else 0
    return Box(
        int(np.floor(out.y0 * scale)) - slack,
        int(np.floor(out.x0 * scale)) - slack,
        int(np.ceil(out.y1 * scale - 1e-9)) + slack,
        int(np.ceil(out.x1 * scale - 1e-9)) + slack,
    )


def area_average(pixels: RGB, origin: YX, out: Box, scale: float) -> RGB:
    """Average ``pixels`` (whose corner lies at ``origin``) into the output box.

    Exact at every scale and without seams: two neighbouring boxes give the same pixels as one large box.

    Parameters
    ----------
    pixels
        uint8 (h, w, c); must cover `source_box` of ``out``.
    origin
        Input frame position of ``pixels[0, 0]``.
    out
        Box in the output frame.
    scale
        Input pixels per output pixel. Below 1 the input is interpolated linearly.

    Returns
    -------
    uint8 (out height, out width, c)
    """
    if scale == 1:
        return pixels
    if scale == 2:
        return halve(pixels, YX(out.y0, out.x0))
    if float(scale).is_integer():
        return np.asarray(cv2.resize(pixels, (out.shape.x, out.shape.y), interpolation=cv2.INTER_AREA), np.uint8)
    rows = _along_first(pixels, origin.y, out.y0, out.y1, scale)
    columns = _along_first(np.ascontiguousarray(rows.transpose(1, 0, 2)), origin.x, out.x0, out.x1, scale)
    return np.rint(columns.transpose(1, 0, 2)).astype(np.uint8)


def _along_first(values: NDArray[Any], origin: int, start: int, stop: int, scale: float) -> NDArray[np.float32]:
    flat = values.reshape(len(values), -1)
    out = np.empty((stop - start, flat.shape[1]), np.float32)
    for block in range(start, stop, _BLOCK):
        first, weights = _weights(block, min(block + _BLOCK, stop), scale)
        low = first - origin
        rows = flat[max(low, 0) : low + weights.shape[1]].astype(np.float32, copy=False)
        cut = weights[:, max(-low, 0) : max(-low, 0) + len(rows)]
        out[block - start : block - start + len(weights)] = cut @ rows
    return out.reshape(stop - start, *values.shape[1:])


@lru_cache(maxsize=4096)
def _weights(start: int, stop: int, scale: float) -> tuple[int, NDArray[np.float32]]:
    """Return the first input index and the weights (outputs, inputs) of output pixels start..stop."""
    edges = np.arange(start, stop + 1) * scale
    if scale < 1:
        centres = (edges[:-1] + edges[1:]) / 2 - 0.5
        first = int(np.floor(centres[0]))
        inputs = np.arange(first, int(np.floor(centres[-1])) + 2)
        return first, np.maximum(0, 1 - np.abs(centres[:, None] - inputs)).astype(np.float32)
    first = int(np.floor(edges[0]))
    inputs = np.arange(first, int(np.ceil(edges[-1] - 1e-9)))
    overlap = np.minimum(edges[1:, None], inputs + 1) - np.maximum(edges[:-1, None], inputs)
    return first, (np.maximum(overlap, 0) / scale).astype(np.float32)


def halve(pixels: RGB, first: YX = _NOWHERE) -> RGB:
    """Average each 2 x 2 block; an odd last row or column is left out. uint8 (h, w, c) to (h // 2, w // 2, c).

    A mean that ends in one half goes up or down by a fixed pattern of no direction, in which ``first`` is the place of
    the first block: so eight levels of halving do not make a slide brighter. Half to even would: of values that are
    nearly alike it moves each half the same way.
    """
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    out = np.empty((height, width, *pixels.shape[2:]), np.uint8)
    y0, x0 = 2 * (first.y % _PERIOD), 2 * (first.x % _PERIOD)
    if width <= _PERIOD:
        falling = _falling_at(y0, x0, width, pixels.shape[2])
    else:
        falling = _falling((width + _PERIOD).bit_length(), pixels.shape[2])[y0:, x0 : x0 + 2 * width]
    for y in range(0, height if width else 0, _PERIOD):
        even = pixels[2 * y : 2 * min(y + _PERIOD, height), : 2 * width]
        rows = out[y : y + _PERIOD]
        # OpenCV lets one half go up; one less in a block of four makes it go down, and changes no other mean.
        if even.min():
            less = np.subtract(even, falling[: len(even)])
            cv2.resize(less, (width, len(rows)), dst=rows, interpolation=cv2.INTER_AREA)
        else:
            less = np.subtract(even.astype(np.int16), falling[: len(even)])
            rows[:] = cv2.resize(less, (width, len(rows)), interpolation=cv2.INTER_AREA).reshape(rows.shape)
    return out


@lru_cache(maxsize=8)
def _falling_at(y0: int, x0: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Return a part of `_falling` by itself: short rows that lie far apart take twice as long."""
    return np.ascontiguousarray(_falling((width + _PERIOD).bit_length(), channels)[y0:, x0 : x0 + 2 * width])


@lru_cache(maxsize=8)
def _falling(bits: int, channels: int) -> NDArray[np.uint8]:
    """Return uint8 (4 * _PERIOD, 2 * 2**bits, channels), 1 in one pixel of each 2 x 2 block whose half goes down."""
    y, x = np.ogrid[: 2 * _PERIOD, : 1 << bits]
    out = np.zeros((2 * len(y), 2 * x.size, channels), np.uint8)
    out[::2, ::2] = _DOWN[y % _PERIOD, x % _PERIOD, None]
    return out

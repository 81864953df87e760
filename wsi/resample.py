"""Area averaging: each output pixel is the mean of the input area that it covers."""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.slide import RGB
from wsi.units import YX, Box

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
        return halve(pixels, first=(out.y0 + out.x0) % 2)
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


def halve(pixels: RGB, first: int = 0) -> RGB:
    """Average each 2 x 2 block; an odd last row or column is left out. uint8 (h, w, c) to (h // 2, w // 2, c).

    A mean that ends in one half goes up and down by turns, like the squares of a chessboard, of which the first is
    ``first`` (0 goes up): so eight levels of halving do not make a slide brighter. Half to even would: of values that
    are nearly alike it moves each half the same way.
    """
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    if height == 0 or width == 0:
        return np.empty((height, width, *pixels.shape[2:]), np.uint8)
    even = pixels[: 2 * height, : 2 * width]
    up = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)  # OpenCV's own: one half goes up
    down = cv2.bitwise_not(cv2.resize(cv2.bitwise_not(even), (width, height), interpolation=cv2.INTER_AREA))
    cv2.copyTo(down, _chessboard(height, width, first), up)
    return np.asarray(up, np.uint8).reshape(height, width, *pixels.shape[2:])


@lru_cache(maxsize=16)
def _chessboard(height: int, width: int, first: int) -> NDArray[np.uint8]:
    """Return uint8 (height, width), 255 where the halves go down."""
    y, x = np.ogrid[:height, :width]
    return ((y + x + first) % 2 * 255).astype(np.uint8)

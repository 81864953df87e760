"""Grey, CMYK, YCbCr and transparent pixels to plain RGB."""

import numpy as np
from numpy.typing import NDArray

from wsi.slide import RGB


def cmyk_to_rgb(cmyk: NDArray[np.uint8]) -> RGB:
    """Convert uint8 (..., 4), 255 = full ink, to RGB as libtiff does: each colour's paper times what black leaves."""
    paper = 255 - cmyk[..., :3].astype(np.uint16)
    return (paper * (255 - cmyk[..., 3:].astype(np.uint16)) // 255).astype(np.uint8)


def grey_to_rgb(grey: NDArray[np.uint8], *, inverted: bool) -> RGB:
    """Repeat the first sample three times; ``inverted`` where 0 means white."""
    first = grey[..., :1]
    return np.repeat(255 - first if inverted else first, 3, axis=-1)


def rgba_to_rgb(rgba: NDArray[np.uint8], *, has_alpha: bool, premultiplied: bool) -> RGB:
    """Lay uint8 (..., 4) on white; transparent (0, 0, 0, 0) becomes white, never black "tissue"."""
    if not has_alpha:
        return rgba[..., :3]
    colour, alpha = rgba[..., :3].astype(np.float32), rgba[..., 3:].astype(np.float32) / 255
    laid = (colour if premultiplied else colour * alpha) + 255 * (1 - alpha)
    return np.clip(np.rint(laid), 0, 255).astype(np.uint8)


def ycbcr_to_rgb(ycbcr: NDArray[np.uint8]) -> RGB:
    """Convert full-range uint8 (..., 3) by the matrix of JFIF (ITU-R BT.601)."""
    y, cb, cr = (ycbcr[..., i].astype(np.float32) - (128 if i else 0) for i in range(3))
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)

"""ICC colour profiles: what a scanner's numbers mean as colours, and the way from them to sRGB.

Source: ICC.1:2022. The transform is Little CMS's, through Pillow, relative colorimetric.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from wsi.arrays import RGB
from wsi.errors import NotASlideError

MOST_BYTES = 8 << 20
"""A profile larger than this is none."""
SRGB = "srgb"
_SIGNATURE = slice(36, 40)


def checked_profile(data: Any) -> bytes:
    """Return a profile's bytes as they are; empty where there is none, or what is there is no profile."""
    raw = bytes(data) if isinstance(data, (bytes, bytearray, tuple, np.ndarray)) else b""
    whole = len(raw) >= 128 and raw[_SIGNATURE] == b"acsp"
    # The length that it gives itself: DICOM and some TIFF writers pad to an even one.
    size = int.from_bytes(raw[:4], "big") if whole else 0
    return raw[:size] if 128 <= size <= min(len(raw), MOST_BYTES) else b""


def describe_profile(profile: bytes) -> str:
    """Return a profile's own name in one line, for the screen: it may name the device, and is never kept."""
    from PIL import ImageCms

    try:
        text = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return "cannot be parsed"
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:120] or "without a name"


def to_srgb(profile: bytes) -> Callable[[RGB], RGB]:
    """Return the function that takes uint8 (h, w, 3) of a profile's colours to sRGB, within Little CMS's rounding.

    Raises
    ------
    NotASlideError
        The profile is broken, or not one of RGB colours.
    """
    from PIL import Image, ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(source, target, "RGB", "RGB", intent)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise NotASlideError(f"its ICC profile cannot be applied ({reason}): leave out --icc {SRGB}") from None

    def convert(pixels: RGB) -> RGB:
        if not pixels.size:
            return pixels
        picture = Image.fromarray(np.ascontiguousarray(pixels), "RGB")
        ImageCms.applyTransform(picture, transform, inPlace=True)
        return np.array(picture)

    return convert

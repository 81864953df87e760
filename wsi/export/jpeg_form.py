"""What a TIFF must say of JPEG tiles: their colour space and chroma subsampling, read from a JPEG file's header.

Sources: ITU-T T.81 annex B; Adobe TN 5116; the rules of libjpeg for files without an Adobe marker.
"""

from typing import NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi.pixels.colour import jpeg_space
from wsi.pixels.jpeg import ADOBE, JFIF, SCAN, SEQUENTIAL, jpeg_header, segments

_SUBSAMPLING = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}


class JpegForm(NamedTuple):
    """How a colour JPEG is encoded."""

    photometric: str
    """``rgb`` or ``ycbcr``."""
    subsampling: tuple[int, int]
    """Of the chroma, across and down."""

    def encode(self, tile: NDArray[np.uint8], quality: int) -> bytes:
        """Encode uint8 (h, w, 3) in this form, as a TIFF tile."""
        data = imagecodecs.jpeg8_encode(
            tile,
            quality,
            colorspace="RGB",
            outcolorspace="RGB" if self.photometric == "rgb" else "YCBCR",
            subsampling=_SUBSAMPLING[self.subsampling],
        )
        return self.as_tile(data)

    def as_tile(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return a JPEG file of this form as a TIFF tile; the coded pixels stay as they are.

        Where the chroma is not subsampled, Bio-Formats converts the colours itself if its JPEG decoder did not, but
        does not ask the decoder. So the decoder is given nothing to go by: JFIF and Adobe markers are taken out, as
        libtiff does, and the components are numbered 0, 1, 2. Others go by the TIFF's tag, or take YCbCr for granted.
        """
        whole = bytes(data)
        if self != ("ycbcr", (1, 1)):
            return whole
        parts, end = [whole[:2]], 2
        for marker, start, stop in segments(whole):
            if marker == SCAN:
                break
            segment = bytearray(whole[start:stop])
            if marker in SEQUENTIAL:
                segment[10:19:3] = b"\0\1\2"
            if marker not in {JFIF, ADOBE}:
                parts.append(bytes(segment))
            end = stop
        scan = bytearray(whole[end : end + 14])
        scan[5:11:2] = b"\0\1\2"
        return b"".join([*parts, scan, whole[end + 14 :]])


def jpeg_form(data: bytes | memoryview) -> JpegForm | None:
    """Return the form of a complete JPEG file, None where it is not a colour JPEG that a TIFF tile can hold."""
    try:
        header = jpeg_header(bytes(data[:4096]))
    except ValueError:
        return None
    if header.frame not in SEQUENTIAL or header.bits != 8 or (len(header.ids), header.scan_components) != (3, 3):
        return None
    luma, *chroma = header.sampling
    subsampling = (luma.x, luma.y)
    if any(factors != (1, 1) for factors in chroma) or subsampling not in _SUBSAMPLING:
        return None
    return JpegForm(jpeg_space(header, None).lower(), subsampling)

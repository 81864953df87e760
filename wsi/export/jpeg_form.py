"""What a TIFF must say of JPEG tiles: their colour space and chroma subsampling, read from a JPEG file's header.

Sources: ITU-T T.81 annex B; Adobe TN 5116; the rules of libjpeg for files without an Adobe marker.
"""

from collections.abc import Iterator
from typing import NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

_SCAN = 0xDA
_FRAMES = frozenset({0xC0, 0xC1})
"""Baseline and extended; a TIFF tile is not progressive."""
_ADOBE, _JFIF = 0xEE, 0xE0
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
        for marker, start, stop in _segments(whole):
            segment = bytearray(whole[start:stop])
            if marker in _FRAMES:
                segment[10:19:3] = b"\0\1\2"
            if marker not in {_JFIF, _ADOBE}:
                parts.append(bytes(segment))
            end = stop
        scan = bytearray(whole[end : end + 14])
        scan[5:11:2] = b"\0\1\2"
        return b"".join([*parts, scan, whole[end + 14 :]])


def jpeg_form(data: bytes | memoryview) -> JpegForm | None:
    """Return the form of a complete JPEG file, None where it is not a colour JPEG that a TIFF tile can hold."""
    head = bytes(data[:4096])
    transform, jfif, frame, end = None, False, b"", 2
    for marker, start, stop in _segments(head):
        body, end = head[start + 4 : stop], stop
        if marker == _ADOBE and body[:5] == b"Adobe" and len(body) >= 12:
            transform = body[11]
        elif marker == _JFIF and body[:4] == b"JFIF":
            jfif = True
        elif marker in _FRAMES:
            frame = body
    one_scan = head[end : end + 2] == bytes([0xFF, _SCAN]) and head[end + 4 : end + 5] == b"\3"
    return _form(frame, transform, jfif) if one_scan else None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, stop) of each segment before the scan."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _SCAN:
        stop = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        yield data[place + 1], place, stop
        place = stop


def _form(frame: bytes, transform: int | None, jfif: bool) -> JpegForm | None:
    if len(frame) < 15 or frame[5] != 3:
        return None
    (id0, s0), (id1, s1), (id2, s2) = ((frame[6 + 3 * i], frame[7 + 3 * i]) for i in range(3))
    subsampling = (s0 >> 4, s0 & 15)
    if (s1, s2) != (0x11, 0x11) or subsampling not in _SUBSAMPLING:
        return None
    unmarked_rgb = not jfif and bytes([id0, id1, id2]) == b"RGB"  # as libjpeg decides
    rgb = unmarked_rgb if transform is None else transform == 0
    return JpegForm("rgb" if rgb else "ycbcr", subsampling)

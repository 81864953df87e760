"""The one table of colours: what compressed pixels are, by tag, codestream and codec, and how they become plain RGB.

Reading, copying undecoded tiles, exporting and DICOM all ask here. docs/COLOUR.md shows the table with measured errors.
"""

import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.pixels.jpeg import JpegHeader
from wsi.pixels.jpeg2000 import COLOUR_SPACES, CONVERTED, Jpeg2000Header

Samples = NDArray[np.generic]

APERIO_YCBCR, APERIO_RGB = 33003, 33005
"""TIFF compressions by which Aperio's files name the colours of JPEG 2000; others write them for any colours."""
DICOM_SPACES = {
    "RGB": "RGB",
    "YBR_FULL": "YCBCR",
    "YBR_FULL_422": "YCBCR",
    "YBR_ICT": "RGB",
    "YBR_RCT": "RGB",
    "MONOCHROME1": "MINISWHITE",
    "MONOCHROME2": "MINISBLACK",
}
"""DICOM's photometric interpretations as the TIFF tag that says the same of decoded pixels."""
_ADOBE_SPACES = {0: "RGB", 1: "YCBCR", 2: "YCBCR"}


def jpeg_space(header: JpegHeader, tag: str | None) -> str:
    """Return what the three components of a JPEG are: ``RGB`` or ``YCBCR``.

    What the encoder wrote into the data goes before what a container says of them: JFIF, Adobe's marker, components
    named R, G, B, chroma with fewer samples; then the container's tag. Without a tag it is YCbCr, as libjpeg takes it.

    Parameters
    ----------
    header
        Of a JPEG with three components.
    tag
        The container's ``RGB`` or ``YCBCR``; None where there is none.
    """
    if header.jfif:
        return "YCBCR"
    if header.adobe in _ADOBE_SPACES:
        return _ADOBE_SPACES[header.adobe]
    if header.ids == b"RGB":
        return "RGB"
    if header.subsampled or tag is None:
        return "YCBCR"
    return tag


def jpeg_codec_spaces(header: JpegHeader, tag: str) -> tuple[str | None, str | None]:
    """Return the colour space inside a JPEG and the one wanted from it, as imagecodecs takes them."""
    if len(header.ids) == 3:
        return jpeg_space(header, tag), "RGB"
    return None, "CMYK" if tag == "SEPARATED" and len(header.ids) == 4 else None


def jpeg2000_space(header: Jpeg2000Header, tag: str, compression: int | None = None) -> str:
    """Return what imagecodecs hands over of a JPEG 2000 picture with three components: ``RGB`` or ``YCBCR``.

    Parameters
    ----------
    header
        Of the codestream.
    tag
        The container's ``RGB`` or ``YCBCR``, of decoded pixels.
    compression
        The TIFF tag in Aperio's own files, whose two values name the colours whatever the tag; None elsewhere.
    """
    if header.subsampled or header.enumerated in CONVERTED:
        return "RGB"  # the codec has converted it
    if header.enumerated in COLOUR_SPACES:
        return COLOUR_SPACES[header.enumerated]
    if compression in {APERIO_YCBCR, APERIO_RGB}:
        return "YCBCR" if compression == APERIO_YCBCR else "RGB"
    # As in JPEG, the tag may name what lies inside: the decoder has undone its own transform.
    return "YCBCR" if tag == "YCBCR" and not header.component_transform else "RGB"


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


def eight_bits(samples: Samples, bits: int = 16) -> NDArray[np.uint8]:
    """Scale samples of ``bits`` significant bits to uint8, rounded; uint8 stays as it is."""
    if samples.dtype == np.uint8:
        return samples.view(np.uint8)
    most = (1 << bits) - 1
    wide = samples.astype(np.uint32)
    scaled = (wide * 255 + most // 2) // most
    return (scaled if bits == 16 else np.minimum(scaled, 255)).astype(np.uint8)

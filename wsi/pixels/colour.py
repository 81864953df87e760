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
_LIBVIPS = 33004
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


def is_doubtful(header: Jpeg2000Header, tag: str, compression: int) -> bool:
    """Tell whether JPEG 2000 that is tagged RGB may be YCbCr: libvips writes that so, under a number of its own."""
    plain = not header.subsampled and header.enumerated not in COLOUR_SPACES and len(header.sampling) == 3
    return plain and header.component_transform and tag == "RGB" and compression == _LIBVIPS


def looks_ycbcr(pixels: NDArray[np.uint8]) -> bool:
    """Tell whether (rows, columns, 3) that is called RGB looks like luma with chroma: around the middle, and smoother.

    Neighbours of stained tissue differ 2 to 40 times as much in luma as in chroma, and in red 0.4 to 1.4 times as much
    as in green or blue.
    """
    steps = [
        sum(float(np.abs(np.diff(pixels[..., i].astype(np.int16), axis=a)).mean()) for a in (0, 1)) for i in range(3)
    ]
    centred = all(abs(float(pixels[..., i].mean()) - 128) < 48 for i in (1, 2))
    return centred and steps[0] > 1.75 * max(steps[1:])


def cmyk_to_rgb(cmyk: NDArray[np.uint8]) -> RGB:
    """Convert uint8 (..., 4), 255 = full ink, to RGB as libtiff does: each colour's paper times what black leaves."""
    paper = 255 - cmyk[..., :3].astype(np.uint16)
    return (paper * (255 - cmyk[..., 3:].astype(np.uint16)) // 255).astype(np.uint8)


def grey_to_rgb(grey: NDArray[np.uint8], *, inverted: bool) -> RGB:
    """Repeat the first sample three times; ``inverted`` where 0 means white."""
    first = grey[..., :1]
    return np.repeat(255 - first if inverted else first, 3, axis=-1)


def rgba_to_rgb(rgba: NDArray[np.uint8], alpha_kind: str) -> RGB:
    """Lay uint8 (..., 4) on white; transparent (0, 0, 0, 0) becomes white, never black "tissue".

    Parameters
    ----------
    rgba
        A tile.
    alpha_kind
        ``straight``, ``premultiplied``, ``unspecified`` (premultiplied, unless colours above it show that it is no
        alpha), or ``none``.
    """
    if alpha_kind == "none":
        return rgba[..., :3]
    colour, alpha = rgba[..., :3].astype(np.float32), rgba[..., 3:].astype(np.float32) / 255
    if alpha_kind == "unspecified" and (colour > 255 * alpha + 4).any(-1).mean() > 0.01:
        return rgba[..., :3]
    premultiplied = alpha_kind != "straight"
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

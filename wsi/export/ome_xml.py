"""OME-XML: the names, colours and micrometres of an exported image, as viewers read them.

Schema: http://www.openmicroscopy.org/Schemas/OME/2016-06. Nothing but the image id, sizes and um/px goes into it.
"""

from xml.sax.saxutils import quoteattr

from wsi.units import YX

_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_RGBA = {"Red": 0xFF0000FF, "Green": 0x00FF00FF, "Blue": 0x0000FFFF}
"""Colours as QuPath wants them to take an image for brightfield; written as signed 32-bit numbers."""


def ome_xml(image_id: str, shape: YX, mpp: float, *, interleaved: bool) -> str:
    """Return the OME-XML of one 8-bit RGB image.

    Parameters
    ----------
    shape
        Pixels of level 0.
    mpp
        um/px of level 0.
    interleaved
        True: one channel of three samples in the file's first IFD, as in an RGB TIFF. False: three channels Red, Green
        and Blue, pixels elsewhere, as in OME-Zarr.
    """
    if interleaved:
        channels = '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/>'
    else:
        channels = "".join(
            f'<Channel ID="Channel:0:{i}" Name="{name}" Color="{rgba - 2**32 if rgba >= 2**31 else rgba}" '
            'SamplesPerPixel="1"/>'
            for i, (name, rgba) in enumerate(_RGBA.items())
        )
        channels += "<MetadataOnly/>"
    order = "XYCZT"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="{_OME}" xmlns:xsi="{_XSI}" xsi:schemaLocation="{_OME} {_OME}/ome.xsd" Creator="gigamil">'
        f'<Image ID="Image:0" Name={quoteattr(image_id)}>'
        f'<Pixels ID="Pixels:0" DimensionOrder="{order}" Type="uint8" BigEndian="false" '
        f'Interleaved="{str(interleaved).lower()}" SignificantBits="8" '
        f'SizeX="{shape.x}" SizeY="{shape.y}" SizeC="3" SizeZ="1" SizeT="1" '
        f'PhysicalSizeX="{mpp!r}" PhysicalSizeXUnit="µm" PhysicalSizeY="{mpp!r}" PhysicalSizeYUnit="µm">'
        f"{channels}</Pixels></Image></OME>"
    )

"""What a TIFF says of its resolution, by vendor: Aperio, OME, Philips, ImageJ, and TIFF's own tags."""

import math
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage

from wsi.readers.protocol import MppClaim

_MICROMETRES = {2: 25_400.0, 3: 10_000.0}
"""um per TIFF ResolutionUnit: 2 inch, 3 centimetre."""
_UM_PER_OME_UNIT = {
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "nm": 1e-3,
    "Å": 1e-4,
    "in": 25_400.0,
}
_UM_PER_IMAGEJ_UNIT = _UM_PER_OME_UNIT | {"micron": 1.0, "microns": 1.0, "\\u00B5m": 1.0, "inch": 25_400.0}


def aperio_facts(page: TiffPage) -> dict[str, str]:
    """Return the ``key = value`` pairs of an Aperio description."""
    pairs = (part.partition("=") for part in page.description.split("|")[1:])
    return {key.strip(): value.strip() for key, _, value in pairs}


def positive(text: str | None) -> float | None:
    """Return the number that a text spells, with a decimal point or comma; None unless it is finite and above 0."""
    try:
        value = float(text.replace(",", ".")) if text else 0.0
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def mpp_claims(tiff: TiffFile, page: TiffPage, vendor: dict[str, str], scene: int) -> tuple[MppClaim, ...]:
    """Return every um/px that the file states, the vendor's own before TIFF's tags.

    Parameters
    ----------
    page
        The slide's level 0.
    vendor
        From `aperio_facts`, or Ventana's settings; empty for other files.
    scene
        Which of an OME-TIFF's images it is.
    """
    claims = []
    for key, source in (("MPP", "aperio.MPP"), ("ScanRes", "Ventana ScanRes")):
        if mpp := positive(vendor.get(key)):
            claims.append(MppClaim((mpp, mpp), source))
    if tiff.is_ome and (sizes := _ome_mpp(tiff.ome_metadata or "", page, scene)):
        claims.append(MppClaim(sizes, "OME PhysicalSize"))
    if tiff.is_philips and (sizes := _philips_mpp(tiff.philips_metadata or "")):
        claims.append(MppClaim(sizes, "Philips DICOM_PIXEL_SPACING"))
    unit = _UM_PER_IMAGEJ_UNIT.get(str((tiff.imagej_metadata or {}).get("unit"))) if tiff.is_imagej else None
    if unit and (sizes := _tag_mpp(page, um_per_unit=unit)):
        claims.append(MppClaim(sizes, "ImageJ unit"))
    if sizes := _tag_mpp(page):
        claims.append(MppClaim(sizes, "TIFF resolution"))
    return tuple(claims)


def _tag_mpp(page: TiffPage, um_per_unit: float | None = None) -> tuple[float, float] | None:
    if um_per_unit is None:
        unit = page.tags.valueof(296)
        um_per_unit = _MICROMETRES.get(int(unit) if unit is not None else 2)
    x, y = page.tags.valueof(282), page.tags.valueof(283)
    if um_per_unit is None or not x or not y or 0 in (*x, *y):
        return None
    return um_per_unit * y[1] / y[0], um_per_unit * x[1] / x[0]


def significant_bits(xml: str, page: TiffPage, scene: int) -> int | None:
    """Return how many bits of a sample carry the picture; None where these are as many as are stored.

    OME's SignificantBits of a scene, whose level 0 is given, else TIFF's MaxSampleValue where that is a whole number of
    bits (4095): any other is a statistic.
    """
    node = _pixels_of(xml, page, scene)
    bits = positive(node.get("SignificantBits")) if node is not None else None
    if bits is None:
        most = page.tags.valueof(281)
        limits = set(most if isinstance(most, tuple) else (most,))
        bits = next((float(n) for n in range(8, page.bitspersample) if limits == {2**n - 1}), None)
    return int(bits) if bits and 8 <= bits < page.bitspersample else None


def _pixels_of(xml: str, page: TiffPage, scene: int) -> ElementTree.Element | None:
    """Return the Pixels element of a scene: the one of its number if that has its size, else the first of its size."""
    pixels = ome_pixels(xml)
    size = (page.imagelength, page.imagewidth)
    fitting = [n for n in pixels if (positive(n.get("SizeY")), positive(n.get("SizeX"))) == size]
    if scene < len(pixels) and pixels[scene] in fitting:
        return pixels[scene]
    return fitting[0] if fitting else None


def ome_pixels(xml: str) -> list[ElementTree.Element]:
    """Return the Pixels elements of an OME-XML, in its order."""
    root = _parsed(xml)
    return [node for node in root.iter() if node.tag.endswith("}Pixels")] if root is not None else []


def _ome_mpp(xml: str, page: TiffPage, scene: int) -> tuple[float, float] | None:
    node = _pixels_of(xml, page, scene)
    if node is None:
        return None
    sizes = [positive(node.get(f"PhysicalSize{axis}")) for axis in "YX"]
    scales = [_UM_PER_OME_UNIT.get(node.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "YX"]
    um = [size * scale for size, scale in zip(sizes, scales, strict=True) if size and scale]
    return (um[0], um[1]) if len(um) == 2 else None


def _philips_mpp(xml: str) -> tuple[float, float] | None:
    """Return the spacing of the image that is the slide, not of the macro's or the label's."""
    root = _parsed(xml)
    if root is None:
        return None
    scanned = [node for node in root.iter("DataObject") if node.get("ObjectType") == "DPScannedImage"]
    slides = [node for node in scanned if _philips_value(node, "PIM_DP_IMAGE_TYPE") == "WSI"]
    for node in (slides[0] if slides else root).iter("Attribute"):
        if node.get("Name") == "DICOM_PIXEL_SPACING" and node.text:
            millimetres = [positive(part) for part in node.text.replace('"', " ").split()]
            if len(millimetres) == 2 and millimetres[0] and millimetres[1]:
                return millimetres[0] * 1e3, millimetres[1] * 1e3
    return None


def _philips_value(node: ElementTree.Element, name: str) -> str:
    return next((a.text or "" for a in node.findall("Attribute") if a.get("Name") == name), "").strip()


def _parsed(xml: str) -> ElementTree.Element | None:
    try:
        return ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None

"""Ventana BIF: whether its tiles join without overlap, and what it says of its resolution.

A BIF's tiles overlap by amounts that its XML tells joint by joint; placing those is left to OpenSlide. Where every
joint says 0 and all of the picture was scanned, the file is a plain TIFF pyramid. Source: OpenSlide's description of
the Ventana format, https://openslide.org/formats/ventana/.
"""

from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage

from wsi.units import YX, ceil_div

_XMP = 700
_LEVEL = "level="


def refusal(tiff: TiffFile) -> str:
    """Return why a BIF's tiles cannot be read as they lie, an empty text where they can."""
    pages = [page for page in tiff.pages if isinstance(page, TiffPage) and _LEVEL in page.description]
    if not pages or not pages[0].is_tiled:
        return "Ventana BIF without levels is left to OpenSlide"
    first = pages[0]
    root = _xml(first)
    if root is None:
        return "Ventana BIF without a description of its tiles is left to OpenSlide"
    if any(int(joint.get(f"Overlap{axis}", "1")) for joint in root.iter("TileJointInfo") for axis in "XY"):
        return "Ventana BIF with overlapping tiles is left to OpenSlide"
    tile = YX(first.tilelength, first.tilewidth)
    grid = YX(ceil_div(first.imagelength, tile.y), ceil_div(first.imagewidth, tile.x))
    scanned = [info for info in root.iter("ImageInfo") if info.get("AOIScanned") == "1"]
    sizes = [YX(int(info.get("NumRows", "0")), int(info.get("NumCols", "0"))) for info in scanned]
    return "" if sizes == [grid] else "Ventana BIF of several areas is left to OpenSlide"


def scan_facts(tiff: TiffFile) -> dict[str, str]:
    """Return the scanner's settings, such as ``ScanRes`` (um/px) and ``Magnification``."""
    for page in tiff.pages:
        root = _xml(page) if isinstance(page, TiffPage) else None
        node = next(root.iter("iScan"), None) if root is not None else None
        if node is not None:
            return dict(node.attrib)
    return {}


def _xml(page: TiffPage) -> ElementTree.Element | None:
    tag = page.tags.valueof(_XMP)
    try:
        return ElementTree.fromstring(bytes(tag).rstrip(b"\0").decode()) if tag else None
    except (ElementTree.ParseError, UnicodeDecodeError):
        return None

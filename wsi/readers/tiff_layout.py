"""What a TIFF file holds: parsed by tifffile, checked here, as plain facts that need no open file.

A file that cannot be read right is refused with the reason: silence is worse than a refusal. Sources: TIFF 6.0,
TIFF technical note 2 (JPEG in TIFF), BigTIFF, and the vendors' conventions as tifffile knows them.
"""

import logging
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tifffile import TiffFile, TiffFileError, TiffPage, TiffPageSeries

from wsi.errors import UnreadableSlideError
from wsi.slide import Level, MppClaim
from wsi.units import YX, ceil_div

MAX_TILE_BYTES = 1 << 30
"""A decoded tile or strip larger than this is refused: no scanner writes one, and a broken file may claim any size."""

_TILES_PER_READ = 1 << 22
_CHAIN_LIMIT = 100_000
_MICROMETRES = {2: 25_400.0, 3: 10_000.0}
"""um per TIFF ResolutionUnit: 2 inch, 3 centimetre."""
_OTHER_READERS = {"is_ndpi": "NDPI", "is_bif": "Ventana BIF", "is_scn": "Leica SCN"}

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it logs about broken files is checked below, and raised


@dataclass(frozen=True, slots=True)
class TiffLevel:
    """One level as it lies in the file."""

    page: TiffPage
    stored: YX
    """Pixels as stored, before the Orientation tag."""
    tile: YX
    """Size of a tile, or of a strip (rows per strip, width)."""
    grid: YX
    """Tiles down and across."""
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """A whole TIFF slide."""

    format: str
    stored_levels: tuple[TiffLevel, ...]
    levels: tuple[Level, ...]
    orientation: int
    """TIFF tag 274, 1 to 8."""
    mpp_claims: tuple[MppClaim, ...]
    objective_power: float | None
    notes: tuple[str, ...]
    missing: str
    """What of the file is not there, as a clause; empty where the file is whole."""


def read_layout(path: Path) -> TiffLayout:
    """Parse and check a TIFF file.

    Raises
    ------
    UnreadableSlideError
        Not a TIFF, broken beyond use, or of a kind that this reader cannot read right; the message says which.
    """
    try:
        with TiffFile(path) as tiff:
            return _layout(tiff)
    except UnreadableSlideError:
        raise
    except TiffFileError as error:
        raise UnreadableSlideError(
            "not a TIFF file" if "not a TIFF file" in str(error) else f"broken TIFF ({error})"
        ) from None
    except Exception as error:  # tifffile raises nearly anything on a broken file
        raise UnreadableSlideError(f"broken TIFF ({type(error).__name__}: {error})") from None


def _layout(tiff: TiffFile) -> TiffLayout:
    for flag, name in _OTHER_READERS.items():
        if getattr(tiff, flag):
            raise UnreadableSlideError(f"{name} is left to OpenSlide")
    series = _main_series(tiff)
    pages = _level_pages(series)
    stored = tuple(_stored_level(page) for page in pages)
    orientation = _orientation(pages[0])
    levels = tuple(_level(level, stored[0], orientation, philips=bool(tiff.is_philips)) for level in stored)
    keep = [i for i, level in enumerate(levels) if i == 0 or _same_shape(level, levels[0])]
    facts = _aperio(pages[0]) if tiff.is_svs else {}
    return TiffLayout(
        format=series.kind,
        stored_levels=tuple(stored[i] for i in keep),
        levels=tuple(levels[i] for i in keep),
        orientation=orientation,
        mpp_claims=_mpp_claims(tiff, pages[0], facts),
        objective_power=_positive(facts.get("AppMag")),
        notes=_notes(pages[0], orientation),
        missing=_missing(tiff, [stored[i] for i in keep]),
    )


def _main_series(tiff: TiffFile) -> TiffPageSeries:
    """Return the series of the slide itself: the one with the most pixels."""
    if not tiff.series:
        raise UnreadableSlideError("the TIFF holds no image")
    largest = max(tiff.series, key=lambda series: math.prod(series.shape))
    axes = largest.axes.replace("Q", "").replace("I", "")
    if len(largest.pages) > 1 or axes not in {"YXS", "YX", "SYX"}:
        raise UnreadableSlideError(
            f"holds {len(largest.pages)} images, {largest.axes} {largest.shape}: expected one RGB or grey image"
        )
    return largest


def _level_pages(series: TiffPageSeries) -> list[TiffPage]:
    pages = []
    for level in series.levels:
        page = level.keyframe if len(level.pages) != 1 else level.pages[0]
        pages.append(page if isinstance(page, TiffPage) else level.keyframe)
    return pages


def _stored_level(page: TiffPage) -> TiffLevel:
    stored = YX(page.imagelength, page.imagewidth)
    _refuse_unreadable(page, stored)
    tile = YX(page.tilelength, page.tilewidth) if page.is_tiled else YX(min(page.rowsperstrip, stored.y), stored.x)
    if min(tile) < 1 or tile.y * tile.x * page.samplesperpixel * ceil_div(page.bitspersample, 8) > MAX_TILE_BYTES:
        raise UnreadableSlideError(f"tiles of {tile.x} x {tile.y} px with {page.samplesperpixel} samples are too large")
    grid = YX(ceil_div(stored.y, tile.y), ceil_div(stored.x, tile.x))
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    expected = grid.y * grid.x * planes
    if len(page.dataoffsets) < expected or len(page.databytecounts) < expected:
        raise UnreadableSlideError(f"expected the places of {expected} tiles, found {len(page.dataoffsets)}")
    return TiffLevel(page, stored, tile, grid, tuple(page.dataoffsets), tuple(page.databytecounts))


def _refuse_unreadable(page: TiffPage, stored: YX) -> None:
    if min(stored) < 1:
        raise UnreadableSlideError("the image has no pixels")
    if page.imagedepth > 1 or page.samplesperpixel > 8:
        raise UnreadableSlideError(f"{page.imagedepth} planes of {page.samplesperpixel} samples: expected RGB or grey")
    kind = (page.photometric.name, page.samplesperpixel, page.bitspersample, page.sampleformat)
    if page.sampleformat != 1 or page.bitspersample not in {8, 16}:
        raise UnreadableSlideError(
            f"samples of {page.bitspersample} bits, format {page.sampleformat}: expected uint8 or uint16"
        )
    samples = {
        "RGB": (3, 4),
        "YCBCR": (3,),
        "MINISBLACK": (1, 2),
        "MINISWHITE": (1,),
        "PALETTE": (1,),
        "SEPARATED": (4,),
    }
    if page.samplesperpixel not in samples.get(kind[0], ()):
        raise UnreadableSlideError(
            f"{kind[0]} with {page.samplesperpixel} samples: expected RGB, grey, palette or CMYK"
        )
    if kind[0] == "YCBCR" and page.compression not in {6, 7, 33003, 50001, 34892}:
        raise UnreadableSlideError("YCbCr without JPEG is left to OpenSlide")
    if kind[0] == "PALETTE" and (page.colormap is None or page.bitspersample != 8):
        raise UnreadableSlideError("palette without an 8-bit colour map")
    if page.jpegtables is None and page.compression == 6:
        raise UnreadableSlideError("old-style JPEG (compression 6) is left to OpenSlide")


def _orientation(page: TiffPage) -> int:
    tag = page.tags.get(274)
    value = int(tag.value) if tag is not None else 1
    return value if 1 <= value <= 8 else 1


def _level(level: TiffLevel, first: TiffLevel, orientation: int, *, philips: bool) -> Level:
    swap = orientation >= 5
    shape, tile = (YX(p.x, p.y) if swap else p for p in (level.stored, level.tile))
    ratio = math.sqrt((first.stored.y / level.stored.y) * (first.stored.x / level.stored.x))
    # Philips pads every level to whole tiles, so sizes do not tell the factor; it is always a power of two.
    downsample = 2.0 ** round(math.log2(ratio)) if philips else _nominal(level.stored, first.stored, ratio)
    return Level(shape, downsample, tile)


def _nominal(size: YX, first: YX, ratio: float) -> float:
    """Undo the rounding of level sizes: 4.0003 is 4 when a level of a quarter has just that size."""
    nearest = max(1, round(ratio))
    exact = all(abs(b / nearest - a) <= 1 for a, b in zip(size, first, strict=True))
    return float(nearest) if exact else ratio


def _same_shape(level: Level, first: Level) -> bool:
    ratios = (first.shape.y / level.shape.y, first.shape.x / level.shape.x)
    slack = 0.02 + 2 / min(level.shape)
    return abs(ratios[0] / ratios[1] - 1) < slack or float(level.downsample).is_integer()


def _aperio(page: TiffPage) -> dict[str, str]:
    pairs = (part.partition("=") for part in page.description.split("|")[1:])
    return {key.strip(): value.strip() for key, _, value in pairs}


def _positive(text: str | None) -> float | None:
    try:
        value = float(text) if text else 0.0
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _mpp_claims(tiff: TiffFile, page: TiffPage, aperio: dict[str, str]) -> tuple[MppClaim, ...]:
    claims = []
    if mpp := _positive(aperio.get("MPP")):
        claims.append(MppClaim((mpp, mpp), "aperio.MPP"))
    if tiff.is_ome and (sizes := _ome_mpp(tiff.ome_metadata or "")):
        claims.append(MppClaim(sizes, "OME PhysicalSize"))
    if tiff.is_philips and (sizes := _philips_mpp(tiff.philips_metadata or "")):
        claims.append(MppClaim(sizes, "Philips DICOM_PIXEL_SPACING"))
    if tag := _tag_mpp(page):
        claims.append(MppClaim(tag, "TIFF resolution"))
    return tuple(claims)


def _tag_mpp(page: TiffPage) -> tuple[float, float] | None:
    unit = page.tags.valueof(296)
    per_unit = _MICROMETRES.get(int(unit) if unit is not None else 2)
    x, y = page.tags.valueof(282), page.tags.valueof(283)
    if per_unit is None or not x or not y or 0 in (*x, *y):
        return None
    return per_unit * y[1] / y[0], per_unit * x[1] / x[0]


def _ome_mpp(xml: str) -> tuple[float, float] | None:
    from xml.etree import ElementTree

    in_um = {"µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "nm": 1e-3}
    pixels = [node for node in ElementTree.fromstring(xml).iter() if node.tag.endswith("}Pixels")]
    if not pixels:
        return None
    node: Any = max(pixels, key=lambda n: int(n.get("SizeX", 0)) * int(n.get("SizeY", 0)))
    sizes = [_positive(node.get(f"PhysicalSize{axis}")) for axis in "YX"]
    scales = [in_um.get(node.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "YX"]
    if None in (*sizes, *scales):
        return None
    return sizes[0] * scales[0], sizes[1] * scales[1]  # type: ignore[operator]


def _philips_mpp(xml: str) -> tuple[float, float] | None:
    from xml.etree import ElementTree

    for node in ElementTree.fromstring(xml).iter("Attribute"):
        if node.get("Name") == "DICOM_PIXEL_SPACING" and node.text:
            millimetres = [_positive(part.strip('"')) for part in node.text.split()]
            if len(millimetres) == 2 and millimetres[0] and millimetres[1]:
                return millimetres[0] * 1e3, millimetres[1] * 1e3
    return None


def _notes(page: TiffPage, orientation: int) -> tuple[str, ...]:
    notes = []
    if page.bitspersample == 16:
        notes.append("16-bit samples scaled to 8 bits: round(value / 257)")
    if page.samplesperpixel == 4 and page.photometric.name == "RGB":
        notes.append("alpha channel laid on white" if page.extrasamples else "fourth sample ignored")
    if page.photometric.name in {"SEPARATED", "PALETTE", "MINISBLACK", "MINISWHITE"}:
        notes.append(f"{page.photometric.name} converted to RGB")
    if orientation != 1:
        notes.append(f"Orientation {orientation} applied")
    return tuple(notes)


def _missing(tiff: TiffFile, levels: list[TiffLevel]) -> str:
    """Say what the file declares and does not hold: tiles past its end, or a directory chain that leaves it."""
    size = tiff.filehandle.size
    for index, level in enumerate(levels):
        past = sum(o + n > size for o, n in zip(level.offsets, level.byte_counts, strict=False) if n)
        if past:
            return f"{past} of {len(level.offsets)} tiles of level {index} lie past the end of the file ({size} bytes)"
    with Path(tiff.filehandle.path).open("rb") as file:
        lost = _broken_chain(file, size)
    return f"the file is cut short: a directory is declared at byte {lost}, the file has {size}" if lost else ""


def _broken_chain(file: BinaryIO, size: int) -> int:
    """Walk the chain of directories; return the offset of the first that lies outside the file, or 0."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(f"{order}H", head[2:4])[0] == 43
    count_format, entry, offset_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    offset = struct.unpack(f"{order}{offset_format}", head[8:16] if big else head[4:8])[0]
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < _CHAIN_LIMIT:
        seen.add(offset)
        if offset + 2 > size:
            return int(offset)
        file.seek(offset)
        count = struct.unpack(f"{order}{count_format}", file.read(struct.calcsize(count_format)))[0]
        file.seek(count * entry, 1)
        tail = file.read(struct.calcsize(offset_format))
        if len(tail) < struct.calcsize(offset_format):
            return int(offset)
        offset = struct.unpack(f"{order}{offset_format}", tail)[0]
    return 0

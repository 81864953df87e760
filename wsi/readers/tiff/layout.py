"""What a TIFF file holds: parsed by tifffile, checked here, as plain facts that need no open file.

A file that cannot be read right is refused with the reason: silence is worse than a refusal. Sources: TIFF 6.0,
TIFF technical note 2 (JPEG in TIFF), BigTIFF, and the vendors' conventions as tifffile knows them.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tifffile import TiffFile, TiffFileError, TiffPage

from wsi.errors import NotASlideError, UnreadableSlideError, told_as
from wsi.pages import plural
from wsi.readers.protocol import Level, MppClaim, Scene, level_downsample
from wsi.readers.scenes import choose_scene, scene_notes, tiff_scenes
from wsi.readers.tiff.bif import refusal, scan_facts
from wsi.readers.tiff.decode import BYTE_STREAMS, LERC_PARAMETERS, READABLE, YCBCR_READABLE, alpha_kind
from wsi.readers.tiff.directories import lost_directory
from wsi.readers.tiff.metadata import aperio_facts, mpp_claims, positive, significant_bits
from wsi.readers.tiles import MAX_TILE_BYTES
from wsi.units import YX, ceil_div

BAND_BYTES = 1 << 20
"""Uncompressed strips are read in bands of rows of about this size: some files are one single strip."""
_SAMPLES = {1: "", 2: ", with a sign", 3: ", floating point", 5: ", complex", 6: ", complex"}
_OTHER_READERS = {"is_ndpi": "NDPI (rename it to *.ndpi for its own reader)", "is_scn": "Leica SCN"}

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
    significant_bits: int | None
    """Bits of a sample that carry the picture, where these are fewer than are stored."""
    icc: Any
    """TIFF tag 34675 as stored, None where there is none."""
    scenes: tuple[Scene, ...]
    scene: Scene
    """The one that this is the layout of."""
    mpp_claims: tuple[MppClaim, ...]
    objective_power: float | None
    notes: tuple[str, ...]
    missing: str
    """What of the file is not there, as a clause; empty where the file is whole."""


def read_layout(path: Path, scene: int | None = None) -> TiffLayout:
    """Parse and check a TIFF file, or one scene of several; None: the largest.

    Raises
    ------
    UnreadableSlideError
        Not a TIFF, broken beyond use, or of a kind that this reader cannot read right; the message says which.
    """
    with told_as(UnreadableSlideError, "broken TIFF"):
        lost = lost_directory(path)
        try:
            tiff = TiffFile(path)
        except TiffFileError as error:
            if "not a TIFF file" in str(error):
                raise UnreadableSlideError("not a TIFF file") from None
            raise
        with tiff:
            return _layout(tiff, lost, scene)


def _layout(tiff: TiffFile, lost: int, wanted: int | None) -> TiffLayout:
    for flag, name in _OTHER_READERS.items():
        if getattr(tiff, flag):
            raise UnreadableSlideError(f"{name} is left to OpenSlide")
    if tiff.is_bif and (reason := refusal(tiff)):
        raise UnreadableSlideError(reason)
    found = tiff_scenes(tiff)
    scenes = tuple(each.scene for each in found)
    scene = choose_scene(scenes, wanted)
    chosen = next(each for each in found if each.scene is scene)
    pages = chosen.pages
    stored = tuple(_stored_level(page) for page in pages)
    orientation = _orientation(pages[0])
    levels = tuple(_level(level, stored[0], orientation, philips=bool(tiff.is_philips)) for level in stored)
    keep = [i for i, level in enumerate(levels) if i == 0 or _same_shape(level, levels[0])]
    bits = significant_bits(tiff.ome_metadata or "" if tiff.is_ome else "", pages[0], scene.index)
    facts = aperio_facts(pages[0]) if tiff.is_svs else scan_facts(tiff) if tiff.is_bif else {}
    return TiffLayout(
        format=chosen.kind,
        stored_levels=tuple(stored[i] for i in keep),
        levels=tuple(levels[i] for i in keep),
        orientation=orientation,
        significant_bits=bits,
        icc=pages[0].tags.valueof(34675),
        scenes=scenes,
        scene=scene,
        mpp_claims=mpp_claims(tiff, pages[0], facts, scene.index),
        objective_power=positive(facts.get("AppMag") or facts.get("Magnification")),
        notes=scene_notes(scenes, scene) + _notes(pages[0], orientation, bits),
        missing=_missing(tiff, [stored[i] for i in keep], lost),
    )


def _stored_level(page: TiffPage) -> TiffLevel:
    stored = YX(page.imagelength, page.imagewidth)
    _refuse_unreadable(page, stored)
    tile = YX(page.tilelength, page.tilewidth) if page.is_tiled else YX(min(page.rowsperstrip, stored.y), stored.x)
    if min(tile) < 1:
        raise UnreadableSlideError(f"tiles of {tile.x} x {tile.y} px")
    page.tags.valueof(LERC_PARAMETERS)  # tifffile keeps it, and the file is open now
    offsets, byte_counts = page.dataoffsets, page.databytecounts
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    expected = ceil_div(stored.y, tile.y) * ceil_div(stored.x, tile.x) * planes
    if len(offsets) < expected or len(byte_counts) < expected:
        raise UnreadableSlideError(f"expected the places of {expected} tiles, found {len(offsets)}")
    if page.compression == 1 and not page.is_tiled and planes == 1:
        tile, offsets, byte_counts = _bands(page, stored, tile, offsets[:expected], byte_counts[:expected])
    if tile.y * tile.x * page.samplesperpixel * ceil_div(page.bitspersample, 8) > MAX_TILE_BYTES:
        raise UnreadableSlideError(f"tiles of {tile.x} x {tile.y} px with {page.samplesperpixel} samples are too large")
    grid = YX(ceil_div(stored.y, tile.y), ceil_div(stored.x, tile.x))
    return TiffLevel(page, stored, tile, grid, tuple(offsets), tuple(byte_counts))


def _bands(
    page: TiffPage, stored: YX, strip: YX, offsets: Sequence[int], byte_counts: Sequence[int]
) -> tuple[YX, Sequence[int], Sequence[int]]:
    """Cut uncompressed strips that lie one behind the other into bands of rows, whatever the strips' own size."""
    row_bytes = stored.x * page.samplesperpixel * ceil_div(page.bitspersample, 8)
    starts = [offsets[0] + i * strip.y * row_bytes for i in range(len(offsets))]
    if list(offsets) != starts or sum(byte_counts) != stored.y * row_bytes:
        return strip, offsets, byte_counts
    rows = min(stored.y, max(1, BAND_BYTES // row_bytes))
    tops = range(0, stored.y, rows)
    counts = [min(rows, stored.y - top) * row_bytes for top in tops]
    return YX(rows, stored.x), [offsets[0] + top * row_bytes for top in tops], counts


def _refuse_unreadable(page: TiffPage, stored: YX) -> None:
    if min(stored) < 1:
        raise UnreadableSlideError("the image has no pixels")
    if page.imagedepth > 1 or page.samplesperpixel > 8:
        raise UnreadableSlideError(f"{page.imagedepth} planes of {page.samplesperpixel} samples: expected RGB or grey")
    kind = (page.photometric.name, page.samplesperpixel, page.bitspersample, page.sampleformat)
    if page.sampleformat != 1 or page.bitspersample not in {8, 16}:
        raise NotASlideError(
            f"samples of {plural(page.bitspersample, 'bit')}{_SAMPLES.get(page.sampleformat, ', of an unknown kind')}: "
            "expected whole numbers of 8 or 16 bits without a sign; convert the picture to 8 bits"
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
    if kind[0] == "YCBCR" and page.compression not in YCBCR_READABLE:
        raise UnreadableSlideError("YCbCr without JPEG is left to OpenSlide")
    if kind[0] == "PALETTE" and (page.colormap is None or page.bitspersample != 8):
        raise UnreadableSlideError("palette without an 8-bit colour map")
    if page.compression == 6:
        raise UnreadableSlideError("old-style JPEG (compression 6) is left to OpenSlide")
    if page.compression not in READABLE or (page.compression in BYTE_STREAMS and page.predictor not in {1, 2}):
        raise UnreadableSlideError(
            f"compression {page.compression!s} with predictor {page.predictor}: not read by this reader"
        )
    if kind[0] == "SEPARATED" and page.tags.valueof(332, 1) != 1:
        raise UnreadableSlideError("inks other than cyan, magenta, yellow and black")


def _orientation(page: TiffPage) -> int:
    tag = page.tags.get(274)
    value = int(tag.value) if tag is not None else 1
    return value if 1 <= value <= 8 else 1


def _level(level: TiffLevel, first: TiffLevel, orientation: int, *, philips: bool) -> Level:
    swap = orientation >= 5
    shape, tile = (YX(p.x, p.y) if swap else p for p in (level.stored, level.tile))
    ratio = math.sqrt((first.stored.y / level.stored.y) * (first.stored.x / level.stored.x))
    # Philips pads every level to whole tiles, so sizes do not tell the factor; it is always a power of two.
    downsample = 2.0 ** round(math.log2(ratio)) if philips else level_downsample(level.stored, first.stored, ratio)
    return Level(shape, downsample, tile)


def _same_shape(level: Level, first: Level) -> bool:
    ratios = (first.shape.y / level.shape.y, first.shape.x / level.shape.x)
    slack = 0.02 + 2 / min(level.shape)
    return abs(ratios[0] / ratios[1] - 1) < slack or float(level.downsample).is_integer()


def _notes(page: TiffPage, orientation: int, bits: int | None) -> tuple[str, ...]:
    notes = []
    if page.bitspersample == 16:
        most = 2 ** (bits or 16) - 1
        notes.append(f"{bits or 16}-bit samples scaled to 8 bits: round(value * 255 / {most})")
    if page.samplesperpixel == 4 and page.photometric.name == "RGB":
        kind = alpha_kind(page)
        notes.append("fourth sample ignored" if kind == "none" else f"alpha channel ({kind}) laid on white")
    if page.photometric.name in {"SEPARATED", "PALETTE", "MINISBLACK", "MINISWHITE"}:
        notes.append(f"{page.photometric.name} converted to RGB")
    if orientation != 1:
        notes.append(f"Orientation {orientation} applied")
    return tuple(notes)


def _missing(tiff: TiffFile, levels: list[TiffLevel], lost: int) -> str:
    """Say what the file declares and does not hold: tiles past its end, or a directory chain that leaves it."""
    size = tiff.filehandle.size
    for index, level in enumerate(levels):
        past = sum(o + n > size for o, n in zip(level.offsets, level.byte_counts, strict=False) if n)
        if past:
            return f"{past} of {len(level.offsets)} tiles of level {index} lie past the end of the file ({size} bytes)"
    return f"the file is cut short: a directory is declared at byte {lost}, the file has {size}" if lost else ""

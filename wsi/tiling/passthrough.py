"""JPEG tiles copied from slide to store without being decoded.

A TIFF keeps the JPEG tables in a tag and its tiles without them; `wsi.pixels.colour` tells their colours. Here tables
and an Adobe APP14 marker are spliced in, so that each chunk is a complete JPEG file which any decoder reads with the
right colours. Sources: ITU-T T.81 annex B, TIFF technical note 2, Adobe TN 5116.
"""

import struct

from wsi.errors import DamagedSlideError
from wsi.pixels.colour import jpeg_space
from wsi.pixels.jpeg import END, START, check_jpeg, jpeg_header, segments
from wsi.readers.protocol import Slide
from wsi.readers.tiff.layout import TiffLevel
from wsi.readers.tiff.reader import TiffReader
from wsi.store.grid import TASK_LEVELS, Grid
from wsi.tiling.scaling import Scaling

_JPEG = 7
_TRANSFORM = {"RGB": 0, "YCBCR": 1}
"""Adobe's colour transform byte by the colours of the data."""
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive Huffman frames."""
_KEPT = frozenset({0xDB, 0xC4, 0xDD}) | _FRAMES
"""Segments that decoding needs: tables, restart interval, frame. Application data and comments stay behind."""


def copied_levels(slide: Slide, scaling: Scaling, grid: Grid) -> tuple[int | None, ...]:
    """Return for each level that a task writes the slide's level whose tiles can be copied, None where there is none.

    That needs baseline colour JPEG tiles of the store's tile size, at just the store's scale, size and orientation.
    """
    if not isinstance(slide, TiffReader) or slide.orientation != 1:
        return (None,) * TASK_LEVELS
    wanted = list(enumerate(grid.levels()))[:TASK_LEVELS]
    found: list[int | None] = []
    for k, shape in wanted:
        scale = scaling.l0_per_s * 2**k
        fitting = (
            i
            for i, level in enumerate(slide.levels)
            if abs(level.downsample / scale - 1) < 1e-6
            and level.shape == shape
            and _copyable(slide.stored_levels[i], grid.tile_px)
        )
        found.append(next(fitting, None))
    return tuple(found)


def _copyable(level: TiffLevel, tile_px: int) -> bool:
    return is_colour_jpeg(level) and level.tile == (tile_px, tile_px)


def is_colour_jpeg(level: TiffLevel) -> bool:
    """Tell whether a level's tiles are 8-bit JPEG in RGB or YCbCr, which `complete_jpeg` takes."""
    page = level.page
    return (
        page.compression == _JPEG
        and page.is_tiled
        and (page.bitspersample, page.samplesperpixel, page.planarconfig) == (8, 3, 1)
        and page.photometric.name in _TRANSFORM
    )


def copy_tile(slide: TiffReader, level: int, row: int, column: int) -> bytes | None:
    """Return one tile as a complete JPEG file; None where the slide never wrote it.

    Raises
    ------
    DamagedSlideError
        The bytes are missing, or are not a JPEG of the tile's size.
    """
    layout = slide.stored_levels[level]
    if row >= layout.grid.y or column >= layout.grid.x:
        return None
    index = row * layout.grid.x + column
    try:
        payload = slide.payload(level, index)
        if not payload:
            return None
        page = layout.page
        whole = complete_jpeg(payload, page.jpegtables, page.photometric.name, layout.tile)
        check_jpeg(payload, layout.tile, page.jpegtables)
        return whole
    except (EOFError, ValueError, struct.error) as error:
        raise DamagedSlideError(
            f"{slide.path.name}: tile {index} of level {level} is damaged ({error}): "
            "copy the file again, or give --on-damage skip"
        ) from None


def complete_jpeg(payload: bytes, tables: bytes | None, tag: str, size: tuple[int, int]) -> bytes:
    """Splice the tables and an Adobe marker into a TIFF tile's JPEG data.

    Parameters
    ----------
    payload
        The tile as it lies in the file.
    tables
        The TIFF's JPEGTables tag, None where each tile carries its own.
    tag
        ``RGB`` or ``YCBCR``, what the TIFF says of the colours; the data themselves may say better.
    size
        Expected height and width.
    """
    end = payload.rfind(END)
    if payload[:2] != START or end < 0:
        raise ValueError("not a whole JPEG")
    header = jpeg_header(payload, tables)
    if header.frame not in _FRAMES or (header.bits, *header.size, len(header.ids)) != (8, *size, 3):
        found = f"{len(header.ids)} components of {header.bits} bits, {header.size.x} x {header.size.y}"
        raise ValueError(f"JPEG frame of {found}: expected 3 of 8 bits, {size[1]} x {size[0]}")
    if header.scan is None:
        raise ValueError("JPEG without a scan")
    adobe = b"\xff\xee" + struct.pack(">H5sHHHB", 14, b"Adobe", 100, 0, 0, _TRANSFORM[jpeg_space(header, tag)])
    kept = [
        source[each.start : each.stop]
        for source in (tables or b"", payload)
        for each in segments(source)
        if each.marker in _KEPT
    ]
    return b"".join([START, adobe, *kept, payload[header.scan.start : end + 2]])

"""JPEG tiles copied from slide to store without being decoded.

A TIFF keeps the JPEG tables in a tag and its tiles without them; the colour space stands in another tag. Here tables
and an Adobe APP14 marker are spliced in, so that each chunk is a complete JPEG file which any decoder reads with the
right colours. Sources: ITU-T T.81 annex B, TIFF technical note 2, Adobe TN 5116.
"""

import struct
from collections.abc import Iterator

from wsi.errors import DamagedSlideError
from wsi.grid import TASK_LEVELS, Grid
from wsi.readers.jpeg_checks import check_jpeg
from wsi.readers.tiff_layout import TiffLevel
from wsi.readers.tiff_reader import TiffReader
from wsi.scaling import Scaling
from wsi.slide import Slide

_JPEG = 7
_TRANSFORM = {"RGB": 0, "YCBCR": 1}
"""Adobe's colour transform byte by the TIFF's photometric tag."""
_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN = 0xDA
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
        if payload:
            check_jpeg(payload, layout.tile)
        return (
            complete_jpeg(payload, layout.page.jpegtables, layout.page.photometric.name, layout.tile)
            if payload
            else None
        )
    except (EOFError, ValueError, struct.error) as error:
        raise DamagedSlideError(
            f"{slide.path.name}: tile {index} of level {level} is damaged ({error}): "
            "copy the file again, or give --on-damage skip"
        ) from None


def complete_jpeg(payload: bytes, tables: bytes | None, photometric: str, size: tuple[int, int]) -> bytes:
    """Splice the tables and an Adobe marker into a TIFF tile's JPEG data.

    Parameters
    ----------
    payload
        The tile as it lies in the file.
    tables
        The TIFF's JPEGTables tag, None where each tile carries its own.
    photometric
        ``RGB`` or ``YCBCR``, the colour space inside the JPEG.
    size
        Expected height and width.
    """
    end = payload.rfind(_END)
    if payload[:2] != _START or end < 0:
        raise ValueError("not a whole JPEG")
    adobe = b"\xff\xee" + struct.pack(">H5sHHHB", 14, b"Adobe", 100, 0, 0, _TRANSFORM[photometric])
    parts = [_START, adobe]
    for source in (tables or b"", payload):
        for marker, start, stop in _segments(source):
            if marker in _FRAMES:
                _check_frame(source[start + 4 : start + 10], size)
            if marker == _SCAN:
                return b"".join([*parts, payload[start : end + 2]])
            if marker in _KEPT:
                parts.append(source[start:stop])
    raise ValueError("JPEG without a scan")


def _check_frame(header: bytes, size: tuple[int, int]) -> None:
    bits, height, width, components = struct.unpack(">BHHB", header)
    if (bits, height, width, components) != (8, *size, 3):
        found = f"{components} components of {bits} bits, {width} x {height}"
        raise ValueError(f"JPEG frame of {found}: expected 3 of 8 bits, {size[1]} x {size[0]}")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, stop) of each segment up to and with the first start of scan."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ValueError("JPEG marker expected")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _END[1]:
            return
        stop = position + 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
        yield marker, position, stop
        position = stop

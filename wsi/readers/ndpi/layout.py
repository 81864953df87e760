"""What an NDPI holds: one JPEG a level, far too large for its own header, and where its restart intervals start.

A restart interval is a piece of a JPEG that decodes by itself: a stripe one coded unit high. Hamamatsu's scanners cut
each row of units into such stripes of one width and list where they start (tag 65426, McuStarts; 65432 its high bytes).
Sources: tifffile's account of the format, openslide.org/formats/hamamatsu, ITU-T T.81.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from wsi.errors import UnreadableSlideError, told_as
from wsi.pixels.jpeg import END, SEQUENTIAL, START, JpegHeader, jpeg_header, segments
from wsi.readers.protocol import MppClaim
from wsi.readers.tiff.directories import lost_directory
from wsi.readers.tiles import MAX_TILE_BYTES
from wsi.units import YX, ceil_div

_LENS, _FOCAL_PLANE, _MCU_STARTS, _MCU_STARTS_HIGH = 65421, 65424, 65426, 65432
_STRIP_OFFSETS, _STRIP_BYTES = 273, 279
_JPEG, _CENTIMETRE = 7, 3
_MOST_HEAD = 1 << 16
_TAIL = 64
"""Bytes at the end of a level in which its end marker is looked for: some scanners pad."""
_TILE = YX(256, 1024)
"""Stripes are put together to tiles of at least about this size."""
_MOST_SIDE = 1 << 26


@dataclass(frozen=True, slots=True)
class NdpiLevel:
    """One level: a JPEG in stripes, and the tiles that are put together of them."""

    stored: YX
    """Pixels of the level."""
    stripe: YX
    stripes: YX
    """Stripes down and across."""
    starts: NDArray[np.int64]
    """Where each stripe starts in the file, and last where the JPEG's data end."""
    last_marked: bool
    """Whether the end marker stands where the data end."""
    head: bytes
    """What goes before the stripes of a tile: tables, a frame of the tile's size, start of scan."""
    group: YX
    """Stripes of a tile, down and across."""

    @property
    def tile(self) -> YX:
        """Pixels of a tile; those at the right and lower edge repeat the last stripe to be as large."""
        return YX(self.stripe.y * self.group.y, self.stripe.x * self.group.x)


@dataclass(frozen=True, slots=True)
class NdpiLayout:
    """A whole slide."""

    levels: tuple[NdpiLevel, ...]
    mpp_claims: tuple[MppClaim, ...]
    objective_power: float | None
    notes: tuple[str, ...]
    missing: str
    """What of the file is not there, as a clause; empty where the file is whole."""


def read_layout(path: Path) -> NdpiLayout:
    """Parse and check an NDPI.

    Raises
    ------
    UnreadableSlideError
        No NDPI, a broken one, or one whose stripes are not told: OpenSlide looks for them itself.
    """
    with told_as(UnreadableSlideError, "broken NDPI"):
        lost = lost_directory(path)
        with TiffFile(path) as tiff:
            if not tiff.is_ndpi:
                raise UnreadableSlideError("a TIFF, but no NDPI")
            pages = [page for page in tiff.pages if isinstance(page, TiffPage)]
            return _layout(tiff, [page for page in pages if _number(page, _LENS) > 0], lost)


def _number(page: TiffPage, tag: int) -> float:
    value = page.tags.valueof(tag)
    return float(value) if isinstance(value, int | float) else 0.0


def _layout(tiff: TiffFile, pages: list[TiffPage], lost: int) -> NdpiLayout:
    planes = [page for page in pages if _number(page, _FOCAL_PLANE) == 0]
    if not planes:
        raise UnreadableSlideError("holds no picture of the slide")
    widths = [page.imagewidth for page in planes]
    if widths != sorted(set(widths), reverse=True):
        raise UnreadableSlideError("its levels are not in the order of their size")
    levels = tuple(_level(tiff, page) for page in planes)
    others = len({_number(page, _FOCAL_PLANE) for page in pages}) - 1
    return NdpiLayout(
        levels=levels,
        mpp_claims=_mpp_claims(planes[0]),
        objective_power=_number(planes[0], _LENS),
        notes=(f"{others} focal planes beside the middle one are ignored",) if others else (),
        missing=_missing(levels, tiff.filehandle.size, lost),
    )


def _mpp_claims(page: TiffPage) -> tuple[MppClaim, ...]:
    x, y = page.tags.valueof(282), page.tags.valueof(283)
    if page.tags.valueof(296) != _CENTIMETRE or not x or not y or 0 in (*x, *y):
        return ()
    return (MppClaim((1e4 * y[1] / y[0], 1e4 * x[1] / x[0]), "hamamatsu mpp"),)


def _level(tiff: TiffFile, page: TiffPage) -> NdpiLevel:
    stored = YX(page.imagelength, page.imagewidth)
    if page.compression != _JPEG or (page.bitspersample, page.samplesperpixel) != (8, 3):
        raise UnreadableSlideError(f"{page.compression!s} of {page.samplesperpixel} samples is left to OpenSlide")
    if not 0 < min(stored) <= max(stored) <= _MOST_SIDE:
        raise UnreadableSlideError(f"a level of {stored.x} x {stored.y} px")
    (offset,), (count,) = page.tags.valueof(_STRIP_OFFSETS), page.tags.valueof(_STRIP_BYTES)
    tiff.filehandle.seek(offset)
    raw = tiff.filehandle.read(min(count, _MOST_HEAD))
    header = jpeg_header(_sized(raw, YX(8, 8)))
    if header.frame not in SEQUENTIAL or header.scan is None or header.scan_components != 3:
        raise UnreadableSlideError("a JPEG that is not in one scan of Huffman codes is left to OpenSlide")
    start = header.scan.stop
    stripe, inside = _stripes(page, header, stored, start)
    stripes = YX(stored.y // stripe.y, stored.x // stripe.x)
    end, marked = _end(tiff, offset, count)
    group = YX(min(stripes.y, ceil_div(_TILE.y, stripe.y)), min(stripes.x, max(1, _TILE.x // stripe.x)))
    tile = YX(group.y * stripe.y, group.x * stripe.x)
    if tile.y * tile.x * 3 > MAX_TILE_BYTES or max(tile) > 65_500:
        raise UnreadableSlideError(f"pieces of {tile.x} x {tile.y} px are too large")
    starts = np.append(offset + inside, end)
    if (np.diff(starts) <= 0).any():
        raise UnreadableSlideError("its restart intervals are not listed in their order")
    return NdpiLevel(stored, stripe, stripes, starts, marked, _sized(raw[:start], tile), group)


def _stripes(page: TiffPage, header: JpegHeader, stored: YX, start: int) -> tuple[YX, NDArray[np.int64]]:
    """Return the size of a stripe, and where each starts inside the JPEG; a JPEG without restarts is one stripe."""
    if not header.restart_interval:
        if header.units and max(stored) > 65_500:
            raise UnreadableSlideError("a level without restart markers is too large")
        return stored, np.array([start], np.int64)
    factors = [max(pair[i] for pair in header.sampling) for i in (0, 1)]
    stripe = YX(8 * factors[0], 8 * factors[1] * header.restart_interval)
    listed = page.tags.valueof(_MCU_STARTS)
    expected = (stored.y // stripe.y) * (stored.x // stripe.x)
    if stored.y % stripe.y or stored.x % stripe.x or listed is None or np.size(listed) != expected:
        raise UnreadableSlideError("restart intervals that are not listed are left to OpenSlide")
    inside = np.asarray(listed, np.int64).reshape(-1)
    high = page.tags.valueof(_MCU_STARTS_HIGH)
    if high is not None and np.size(high) == expected:
        inside += np.asarray(high, np.int64).reshape(-1) << 32
    if inside[0] != start:
        raise UnreadableSlideError(f"expected the first restart interval at {start}, it is listed at {inside[0]}")
    return stripe, inside


def _end(tiff: TiffFile, offset: int, count: int) -> tuple[int, bool]:
    """Return where a level's data end, before the end marker, and whether that is there."""
    first = max(0, count - _TAIL)
    tiff.filehandle.seek(min(offset + first, tiff.filehandle.size))
    found = tiff.filehandle.read(count - first).rfind(END)
    return (offset + first + found, True) if found >= 0 else (offset + count, False)


def _sized(head: bytes, size: YX) -> bytes:
    """Return the head of a JPEG with another size in its frame: of large levels it says 0, or what was room for."""
    if head[:2] != START:
        raise ValueError(f"no JPEG: starts with {head[:4].hex(' ')}")
    for each in segments(head):
        if 0xC0 <= each.marker <= 0xCF and each.marker not in (0xC4, 0xC8, 0xCC):
            return head[: each.start + 5] + struct.pack(">HH", *size) + head[each.start + 9 :]
    raise ValueError("a JPEG without a frame")


def _missing(levels: tuple[NdpiLevel, ...], size: int, lost: int) -> str:
    for index, level in enumerate(levels):
        past = int((level.starts[1:] > size).sum())
        if past:
            count = len(level.starts) - 1
            return f"{past} of {count} stripes of level {index} lie past the end of the file ({size} bytes)"
    return f"the file is cut short: a directory is declared at byte {lost}, the file has {size}" if lost else ""

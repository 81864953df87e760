"""What a Zeiss CZI holds: where its subblocks lie in the file and on the slide, level by level.

A subblock is a rectangle of pixels, at the slide's scale or (for a pyramid) smaller: it says which pixels of the slide
it covers, and how many are stored. Scans that are not fused overlap; the one with the larger mosaic index lies on top.
Source: the structures of libCZI (CziStructs.h) and its documents on coordinate systems.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wsi.errors import UnreadableSlideError, told_as
from wsi.files.regular import open_regular
from wsi.readers.czi.coverage import covers
from wsi.readers.czi.metadata import Facts, read_facts
from wsi.readers.protocol import Scene
from wsi.readers.scenes import choose_scene, scene_notes
from wsi.readers.tiles import MAX_TILE_BYTES
from wsi.units import YX, Box, ceil_div

MAGIC = b"ZISRAWFILE"
RAW, JPEG, JPEG_XR, ZSTD, ZSTD_PACKED = 0, 1, 4, 5, 6
GREY_8, GREY_16, BGR_24, BGR_48 = 0, 1, 3, 4
BYTES = {GREY_8: 1, GREY_16: 2, BGR_24: 3, BGR_48: 6}
"""Of a pixel, by its type."""
_COMPRESSIONS = frozenset((RAW, JPEG_XR, ZSTD, ZSTD_PACKED))
_HEADER, _DIRECTORY_HEADER, _ENTRY, _DIMENSION = 32, 128, struct.Struct("<2siqii6xi"), struct.Struct("<4siifi")
_MOST_ENTRIES = 1 << 22
_PLANES = {"C": "channels", "Z": "focal planes", "T": "points in time", "R": "rotations", "I": "illuminations"}
_PLANES |= {"H": "phases", "V": "views", "B": "blocks"}
_NO_MOSAIC_INDEX = -1


@dataclass(frozen=True, slots=True)
class Subblock:
    """One rectangle of pixels."""

    position: int
    """Where its segment begins in the file."""
    compression: int
    pixel_type: int
    l0_place: Box
    """In the file's own frame, which may begin anywhere."""
    stored: YX
    """Pixels of it that the file holds."""
    mosaic: int
    scene: int

    @property
    def factor(self) -> int:
        """Pixels of the slide for each that is stored, a whole number; of the longer side, whose rounding is least."""
        long = 0 if self.stored.y >= self.stored.x else 1
        return max(1, round(self.l0_place.shape[long] / max(1, self.stored[long])))


@dataclass(frozen=True, slots=True)
class CziLevel:
    """One resolution of a scene."""

    factor: int
    shape: YX
    blocks: tuple[Subblock, ...]
    """In the order in which they are laid on each other, the last on top."""
    places: tuple[Box, ...]
    """Of each, in pixels of this level; may reach beyond it."""
    exact: bool
    """Whether each lies on whole pixels of the level."""


@dataclass(frozen=True, slots=True)
class CziLayout:
    """One scene of a file."""

    levels: tuple[CziLevel, ...]
    pixel_type: int
    facts: Facts
    scenes: tuple[Scene, ...]
    scene: int
    notes: tuple[str, ...]


def read_layout(path: Path, wanted: int | None) -> CziLayout:
    """Parse a CZI and choose its scene.

    Raises
    ------
    UnreadableSlideError
        Broken, or of a kind that cannot be read right; the message says which.
    """
    with told_as(UnreadableSlideError, "broken CZI"), open_regular(path) as file:
        directory, metadata = _header(file)
        blocks = list(_directory(file, directory))
        facts = read_facts(file, metadata)
    bounds = _bounds(blocks)
    scenes = tuple(Scene(i, facts.names.get(i, ""), box.shape) for i, box in sorted(bounds.items()))
    chosen = choose_scene(scenes, wanted)
    own = [block for block in blocks if block.scene == chosen.index]
    _check(own)
    levels, notes = _levels(own, bounds[chosen.index])
    return CziLayout(
        levels=levels,
        pixel_type=own[0].pixel_type,
        facts=facts,
        scenes=scenes if len(scenes) > 1 else (),
        scene=chosen.index,
        notes=scene_notes(scenes, chosen) + notes,
    )


def metadata_text(path: Path) -> str:
    """Return the XML in which a CZI speaks of itself and of its slide; raises anything on a broken file."""
    with open_regular(path) as file:
        return read_facts(file, _header(file)[1]).text


def _header(file: BinaryIO) -> tuple[int, int]:
    """Return where the directory of subblocks and the metadata lie."""
    head = file.read(_HEADER + 80)
    if head[:16].rstrip(b"\0") != MAGIC:
        raise UnreadableSlideError("no CZI file")
    part, directory, metadata, pending = struct.unpack("<iqqi", head[_HEADER + 48 : _HEADER + 72])
    if part:
        raise UnreadableSlideError(f"part {part} of a CZI of several files: expected one file that holds the slide")
    if pending or not directory:
        raise UnreadableSlideError("a CZI that was not finished: copy or export it again")
    return directory, metadata


def _directory(file: BinaryIO, position: int) -> Iterator[Subblock]:
    file.seek(position)
    head = file.read(_HEADER + _DIRECTORY_HEADER)
    if head[:16].rstrip(b"\0") != b"ZISRAWDIRECTORY":
        raise UnreadableSlideError("its directory of subblocks is not there: copy the file again")
    (used,) = struct.unpack("<q", head[24:32])
    (count,) = struct.unpack("<i", head[_HEADER : _HEADER + 4])
    if not 0 < count <= _MOST_ENTRIES:
        raise UnreadableSlideError(f"{count} subblocks")
    data, place = file.read(min(used, count * 4096)), 0
    starts: dict[str, set[int]] = {}
    for _ in range(count):
        kind, pixel_type, where, part, compression, n_dimensions = _ENTRY.unpack_from(data, place)
        if kind != b"DV" or part or not 0 < n_dimensions <= 40:
            raise UnreadableSlideError(f"a subblock of schema {kind!r}, part {part}: expected DV in this file")
        sides = {}
        for i in range(n_dimensions):
            name, start, size, _, stored = _DIMENSION.unpack_from(data, place + _ENTRY.size + i * _DIMENSION.size)
            sides[name.rstrip(b"\0").decode("ascii", "replace")] = (start, size, stored or size)
        place += _ENTRY.size + n_dimensions * _DIMENSION.size
        for name, (start, size, _) in sides.items():
            if name in _PLANES:
                starts.setdefault(name, set()).update(range(start, start + min(max(1, size), 2)))
        (x, width, across), (y, height, down) = sides["X"], sides["Y"]
        box = Box(y, x, y + height, x + width)
        mosaic, scene = (sides.get(name, (default, 1, 1))[0] for name, default in (("M", _NO_MOSAIC_INDEX), ("S", 0)))
        yield Subblock(where, compression, pixel_type, box, YX(down, across), mosaic, scene)
    for name, found in starts.items():
        if len(found) > 1:
            raise UnreadableSlideError(f"several {_PLANES[name]} ({name}): expected one")


def _check(blocks: Sequence[Subblock]) -> None:
    """Refuse what cannot be read right."""
    pixel_types = {block.pixel_type for block in blocks}
    if len(pixel_types) > 1 or not pixel_types <= set(BYTES):
        told = ", ".join(map(str, sorted(pixel_types)))
        raise UnreadableSlideError(f"pixels of CZI type {told}: expected 8- or 16-bit grey or colour (0, 1, 3 or 4)")
    for block in blocks:
        if block.compression not in _COMPRESSIONS:
            told = (
                "JPEG (whose colours readers disagree on)"
                if block.compression == JPEG
                else f"number {block.compression}"
            )
            raise UnreadableSlideError(f"CZI compression {told}: expected none, JPEG XR or zstd")
        if min(*block.stored, *block.l0_place.shape) < 1:
            raise UnreadableSlideError(f"a subblock of {block.stored.x} x {block.stored.y} px")
        if block.stored.y * block.stored.x * BYTES[block.pixel_type] > MAX_TILE_BYTES:
            raise UnreadableSlideError(f"a subblock of {block.stored.x} x {block.stored.y} px is too large")


def _bounds(blocks: Sequence[Subblock]) -> dict[int, Box]:
    """Return what the subblocks of full resolution cover, scene by scene."""
    bounds: dict[int, Box] = {}
    for block in blocks:
        if block.factor == 1:
            own, place = bounds.get(block.scene, block.l0_place), block.l0_place
            bounds[block.scene] = Box(*map(min, own[:2], place[:2]), *map(max, own[2:], place[2:]))
    if not bounds:
        raise UnreadableSlideError("no subblock of full resolution")
    return bounds


def _levels(blocks: Sequence[Subblock], bounds: Box) -> tuple[tuple[CziLevel, ...], tuple[str, ...]]:
    """Return the levels that hold the whole scene, and which are left out because they do not."""
    by_factor: dict[int, list[Subblock]] = {}
    for block in blocks:
        by_factor.setdefault(block.factor, []).append(block)
    first, *others = (_level(by_factor[factor], factor, bounds) for factor in sorted(by_factor))
    whole = tuple(own for own in others if covers(own.places, own.factor, first.places, first.shape))
    left = [level.factor for level in others if level not in whole]
    notes = [f"the level at 1:{factor} lacks a part of the slide and is not used" for factor in left]
    return (first, *whole), tuple(notes)


def _level(blocks: Sequence[Subblock], factor: int, bounds: Box) -> CziLevel:
    shape = YX(*(ceil_div(length, factor) for length in bounds.shape))
    laid = sorted(blocks, key=lambda block: block.mosaic) if factor == 1 else list(blocks)
    offsets = [(block.l0_place.y0 - bounds.y0, block.l0_place.x0 - bounds.x0) for block in laid]
    corners = [YX(round(y / factor), round(x / factor)) for y, x in offsets]
    places = [
        Box(at.y, at.x, at.y + block.stored.y, at.x + block.stored.x) for at, block in zip(corners, laid, strict=True)
    ]
    exact = not any(y % factor or x % factor for y, x in offsets)
    return CziLevel(factor, shape, tuple(laid), tuple(places), exact)

"""The index of an Olympus ETS file: where each tile of each level lies.

Source: the notes in Bio-Formats' CellSensReader (parseETSFile).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi.errors import UnreadableSlideError, told_as
from wsi.files.regular import open_regular
from wsi.readers.tiles import MAX_TILE_BYTES
from wsi.units import YX

RAW, JPEG, JPEG_2000, JPEG_LOSSLESS, PNG, BMP = 0, 2, 3, 5, 8, 9
_READABLE = frozenset({RAW, JPEG, JPEG_2000})
_HEADER, _MORE = struct.Struct("<4siiiqi4xqi4x"), struct.Struct("<4siiiiiiiii")
_ORDER = 37 * 4
"""Where in the second header, behind hints and background, colours' order stands, and whether there are levels."""
MOST_TILES = 1 << 26
_BYTES_8, _BYTES_16 = 2, 4
"""Unsigned samples of 8 and 16 bits."""


@dataclass(frozen=True, slots=True)
class Ets:
    """One picture's tiles."""

    path: Path
    tile: YX
    compression: int
    bits: int
    samples: int
    blue_first: bool
    """In tiles that are not compressed."""
    tiles: tuple[Mapping[tuple[int, int], tuple[int, int]], ...]
    """For each level, from the finest, by row and column: where a tile begins in the file, and its bytes."""

    @property
    def grid(self) -> YX:
        """Rows and columns up to the last that has a tile, on the finest level."""
        return YX(*(max(place[axis] for place in self.tiles[0]) + 1 for axis in (0, 1)))


def read_ets(path: Path) -> Ets:
    """Parse the index of an ETS file.

    Raises
    ------
    UnreadableSlideError
        Broken, or of a kind that cannot be read right.
    """
    with told_as(UnreadableSlideError, f"broken {path.name}"), open_regular(path) as file:
        magic, _, _, n_dimensions, more, _, index, count = _HEADER.unpack(file.read(_HEADER.size))
        if magic != b"SIS\0" or not 3 <= n_dimensions <= 16 or not 0 < count <= MOST_TILES:
            raise UnreadableSlideError(f"{path.name} is no ETS file, or has no tiles")
        file.seek(more)
        head = file.read(_ORDER + 8)
        magic, _, kind, samples, _, compression, _, width, height, depth = _MORE.unpack_from(head)
        order, pyramid = struct.unpack_from("<ii", head, _ORDER)
        entry = np.dtype(
            [("", "<i4"), ("at", "<i4", (n_dimensions,)), ("offset", "<i8"), ("bytes", "<i4"), ("_", "<i4")]
        )
        file.seek(index)
        entries = np.frombuffer(file.read(count * entry.itemsize), entry, count)
    _check(path, magic == b"ETS\0", kind, samples, compression, depth)
    if min(width, height) < 1 or width * height * samples * 2 > MAX_TILE_BYTES:
        raise UnreadableSlideError(f"{path.name} has tiles of {width} x {height} px")
    tiles = _by_level(path, entries, pyramid=bool(pyramid))
    return Ets(path, YX(height, width), compression, 8 if kind == _BYTES_8 else 16, samples, order == 1, tiles)


def _check(path: Path, is_ets: bool, kind: int, samples: int, compression: int, depth: int) -> None:
    if not is_ets:
        raise UnreadableSlideError(f"{path.name} has no second header: copy it again")
    if kind not in {_BYTES_8, _BYTES_16} or samples not in {1, 3} or depth > 1:
        raise UnreadableSlideError(
            f"{path.name} has {samples} samples of kind {kind}, {depth} deep: expected grey or colour of 8 or 16 bits"
        )
    if compression not in _READABLE:
        raise UnreadableSlideError(f"{path.name} is compressed by number {compression}: expected raw, JPEG, JPEG 2000")


def _by_level(
    path: Path, entries: np.ndarray, *, pyramid: bool
) -> tuple[Mapping[tuple[int, int], tuple[int, int]], ...]:
    """Sort the tiles by level; refuse several channels, focal planes or points in time."""
    places = entries["at"]
    between = places[:, 2:-1] if pyramid else places[:, 2:]
    if len(between) and (between != between[0]).any():
        raise UnreadableSlideError(f"{path.name} holds several channels, focal planes or points in time: expected one")
    of_level = places[:, -1] if pyramid else np.zeros(len(places), np.int32)
    if (places[:, :2] < 0).any() or (of_level < 0).any() or of_level.max() > 32:
        raise UnreadableSlideError(f"{path.name} places tiles outside its picture")
    levels: list[Mapping[tuple[int, int], tuple[int, int]]] = []
    for level in range(int(of_level.max()) + 1):
        own = entries[of_level == level]
        columns, rows = own["at"][:, 0].tolist(), own["at"][:, 1].tolist()
        spans = zip(own["offset"].tolist(), own["bytes"].tolist(), strict=True)
        tiles = dict(zip(zip(rows, columns, strict=True), spans, strict=True))
        if len(tiles) < len(own):
            raise UnreadableSlideError(f"{path.name} has two tiles at one place")
        if not tiles:
            break
        levels.append(tiles)
    if not levels:
        raise UnreadableSlideError(f"{path.name} has no tiles of full resolution")
    return tuple(levels)

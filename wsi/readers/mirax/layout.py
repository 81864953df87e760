"""Where the images of a MIRAX slide lie: Slidedat.ini, the index file, and the camera's positions.

The camera's photos overlap, and each is cut into images that do not. Of coarser levels an image is 2 x 2 of the finer
one's, whatever photo these are from. So images lie at whole pixels on level 0, and on coarser levels where their
positions happen to divide. Source: openslide.org/formats/mirax.
"""

import configparser
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.errors import UnreadableSlideError, told_as
from wsi.files.regular import read_regular
from wsi.units import YX

_VERSION = b"01.02"
_MOST_INI, _MOST_INDEX = 1 << 20, 1 << 30
_MOST_SIDE = 1 << 20
"""Images along a side, and pixels along the side of an image."""
_POSITION = np.dtype([("flag", "u1"), ("x", "<i4"), ("y", "<i4")])
_RECORD = 4
"""32-bit numbers of an image's record: its number, offset, length, file."""


@dataclass(frozen=True, slots=True)
class MiraxLevel:
    """The images of one level that is read directly, in the order in which they are laid, the last on top."""

    image: YX
    """Pixels of an image."""
    corners: NDArray[np.int64]
    """Where each lies, (n, 2) row and column in the level's pixels."""
    places: NDArray[np.int64]
    """(n, 3): file, offset, bytes."""


@dataclass(frozen=True, slots=True)
class MiraxLayout:
    """A whole slide."""

    files: tuple[Path, ...]
    levels: tuple[MiraxLevel | None, ...]
    """None where a level is left to OpenSlide."""


@dataclass(frozen=True, slots=True)
class _Level:
    """A level's section of Slidedat.ini."""

    concat: int
    """Images of level 0 along a side of one of this level."""
    overlap: tuple[float, float]
    image: YX
    jpeg: bool


@dataclass(frozen=True, slots=True)
class _Slide:
    ini: configparser.ConfigParser
    folder: Path
    images: YX
    """Of level 0, down and across."""
    divisions: int
    """Images along a side of a photo."""
    levels: tuple[_Level, ...]
    index: bytes
    root: int
    """Where the pointer to the levels' records lies; the one to the others' lies behind it."""
    files: tuple[Path, ...]

    @property
    def photos(self) -> YX:
        """Photos down and across."""
        return YX(self.images.y // self.divisions, self.images.x // self.divisions)


def read_layout(path: Path) -> MiraxLayout:
    """Parse the index of a slide, given its ``.mrxs`` file.

    Raises
    ------
    UnreadableSlideError
        No MIRAX slide, one whose index is broken, or of which no level lies at whole pixels.
    """
    with told_as(UnreadableSlideError, "broken MIRAX index"):
        slide = _parsed(path)
        if slide.levels[0].concat != 1:
            raise UnreadableSlideError("images that are joined on level 0 are left to OpenSlide")
        if slide.images.y % slide.divisions or slide.images.x % slide.divisions:
            raise UnreadableSlideError("photos that are cut off are left to OpenSlide")
        positions, told = _positions(slide)
        active = np.zeros(slide.photos.y * slide.photos.x, bool)
        levels = tuple(_level(slide, number, positions, told, active) for number in range(len(slide.levels)))
    if not any(levels):
        raise UnreadableSlideError("images that do not lie at whole pixels are left to OpenSlide")
    return MiraxLayout(slide.files, levels)


def _parsed(path: Path) -> _Slide:
    folder = path.with_suffix("")
    if path.suffix.lower() != ".mrxs" or not (folder / "Slidedat.ini").is_file():
        raise UnreadableSlideError("no MIRAX slide: expected a .mrxs file beside a folder with a Slidedat.ini")
    ini = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#", ";"))
    ini.read_string(read_regular(folder / "Slidedat.ini", _MOST_INI).decode("utf-8-sig", "replace"))
    general, tree = ini["GENERAL"], ini["HIERARCHICAL"]
    if tree["HIER_0_NAME"] != "Slide zoom level":
        raise UnreadableSlideError("its zoom levels are not the first of its hierarchy")
    concat, levels = 1, []
    for number in range(_whole(tree, "HIER_0_COUNT", 1, 32)):
        section = ini[tree[f"HIER_0_VAL_{number}_SECTION"]]
        concat <<= _whole(section, "IMAGE_CONCAT_FACTOR", 0, 20)
        image = YX(_whole(section, "DIGITIZER_HEIGHT", 1), _whole(section, "DIGITIZER_WIDTH", 1))
        overlap = (float(section["OVERLAP_Y"]), float(section["OVERLAP_X"]))
        levels.append(_Level(concat, overlap, image, section["IMAGE_FORMAT"] == "JPEG"))
    index = read_regular(folder / _plain(tree["INDEXFILE"]), _MOST_INDEX)
    marked = _VERSION + general["SLIDE_ID"].encode()
    if not index.startswith(marked):
        raise UnreadableSlideError("its index file is of another version, or of another slide")
    images = YX(_whole(general, "IMAGENUMBER_Y", 1), _whole(general, "IMAGENUMBER_X", 1))
    files = [_plain(ini["DATAFILE"][f"FILE_{i}"]) for i in range(_whole(ini["DATAFILE"], "FILE_COUNT", 1, 100_000))]
    divisions = _whole(general, "CameraImageDivisionsPerSide", 1) if "CameraImageDivisionsPerSide" in general else 1
    paths = tuple(folder / name for name in files)
    return _Slide(ini, folder, images, divisions, tuple(levels), index, len(marked), paths)


def _whole(section: Any, key: str, least: int, most: int = _MOST_SIDE) -> int:
    value = int(section[key])
    if not least <= value <= most:
        raise ValueError(f"{key} {value}: expected {least} to {most}")
    return value


def _plain(name: str) -> str:
    """Return the name of a file of the slide's folder; one that would lead elsewhere is no slide's."""
    if not name or name != Path(name).name or "\\" in name or name == "..":
        raise ValueError(f"file name {name!r}")
    return name


def _numbers(index: bytes, position: int, count: int) -> tuple[int, ...]:
    if position < 0:
        raise ValueError(f"position {position} in the index")
    return struct.unpack_from(f"<{count}i", index, position)


def _data_pages(index: bytes, root: int, record: int) -> list[int]:
    """Return where the data pages of a record start: a linked list, whose first page is empty."""
    (table,) = _numbers(index, root, 1)
    (pointer,) = _numbers(index, table + 4 * record, 1)
    count, following = _numbers(index, pointer, 2)
    if count:
        raise ValueError(f"expected an empty first page, found {count} records")
    pages: list[int] = []
    while following:
        if following in pages:
            raise ValueError("data pages in a circle")
        pages.append(following)
        _, following = _numbers(index, following, 2)
    return pages


def _records(slide: _Slide, level: int) -> NDArray[np.int64]:
    """Return (n, 4) of a level's images: number, offset, bytes, file."""
    found = []
    for page in _data_pages(slide.index, slide.root, level):
        (count,) = _numbers(slide.index, page, 1)
        if count < 0 or page + 8 + 4 * _RECORD * count > len(slide.index):
            raise ValueError(f"a page of {count} records at {page}")
        found.append(np.frombuffer(slide.index, "<i4", _RECORD * count, page + 8).reshape(-1, _RECORD))
    records = np.concatenate(found).astype(np.int64) if found else np.zeros((0, _RECORD), np.int64)
    last = slide.images.y * slide.images.x
    if (records < 0).any() or (records[:, 0] >= last).any() or (records[:, 3] >= len(slide.files)).any():
        raise ValueError(f"images of level {level} outside the slide")
    return records


def _positions(slide: _Slide) -> tuple[NDArray[np.int64], bool]:
    """Return where each photo lies, (n, 2) row and column in level-0 pixels, and whether that, or overlap, is told."""
    for name in ("VIMSLIDE_POSITION_BUFFER", "StitchingIntensityLayer"):
        record = _record_of(slide, name)
        if record is not None:
            data = _record_data(slide, record)
            return _unpacked(slide, zlib.decompress(data) if name.startswith("Stitching") else data), True
    first = slide.levels[0]
    step = [side * slide.divisions - overlap for side, overlap in zip(first.image, first.overlap, strict=True)]
    rows, columns = (np.trunc(np.arange(n) * s).astype(np.int64) for n, s in zip(slide.photos, step, strict=True))
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    return grid.reshape(-1, 2), any(first.overlap)


def _record_of(slide: _Slide, name: str) -> int | None:
    """Return the number of the first of the records that go by a name, None where there is none."""
    tree, record = slide.ini["HIERARCHICAL"], 0
    for i in range(int(tree["NONHIER_COUNT"])):
        if tree[f"NONHIER_{i}_NAME"] == name:
            return record
        record += _whole(tree, f"NONHIER_{i}_COUNT", 1)
    return None


def _record_data(slide: _Slide, record: int) -> bytes:
    (page, *_) = _data_pages(slide.index, slide.root + 4, record)
    count, _, _, _, offset, size, number = _numbers(slide.index, page, 7)
    if count != 1 or min(offset, size) < 0 or not 0 <= number < len(slide.files):
        raise ValueError(f"record {record} cannot be read")
    with slide.files[number].open("rb") as file:
        file.seek(offset)
        data = file.read(min(size, _MOST_INDEX))
    if len(data) != size:
        raise EOFError(f"record {record} lies past the end of {slide.files[number].name}")
    return data


def _unpacked(slide: _Slide, data: bytes) -> NDArray[np.int64]:
    count = slide.photos.y * slide.photos.x
    if len(data) != count * _POSITION.itemsize:
        raise ValueError(f"expected the positions of {count} photos, found {len(data)} bytes")
    found = np.frombuffer(data, _POSITION)
    if (found["flag"] & 0xFE).any():
        raise ValueError("positions of an unknown kind")
    return np.stack([found["y"], found["x"]], axis=1).astype(np.int64)


def _level(
    slide: _Slide, number: int, positions: NDArray[np.int64], told: bool, active: NDArray[np.bool_]
) -> MiraxLevel | None:
    """Return a level's images; None where they are of several photos, no JPEG, or beside whole pixels.

    ``active`` tells which photos have images; level 0 fills it in.
    """
    own, records = slide.levels[number], _records(slide, number)
    y, x = np.divmod(records[:, 0], slide.images.x)
    photo_y, photo_x = y // slide.divisions, x // slide.divisions
    photo = np.minimum(photo_y * slide.photos.x + photo_x, len(positions) - 1)
    kept = (photo_y < slide.photos.y) & (photo_x < slide.photos.x)
    if number == 0:
        kept &= (positions[photo] != 0).any(axis=1) | (photo == 0)
        active[photo[kept]] = True
    several = own.concat > slide.divisions
    if not own.jpeg or (several and told) or (y % own.concat).any() or (x % own.concat).any():
        return None
    kept &= _any_active(slide, active, photo_y, photo_x, max(1, own.concat // slide.divisions))
    inside = np.stack([y - photo_y * slide.divisions, x - photo_x * slide.divisions], axis=1)
    corners = (positions[photo] + inside * np.array(slide.levels[0].image))[kept]
    if (corners % own.concat).any():
        return None
    # As OpenSlide lays them: row by row, so that the ones below and to the right lie on top; of two at one place the
    # later one counts.
    numbers = records[kept, 0][::-1]
    order = len(numbers) - 1 - np.unique(numbers, return_index=True)[1]
    return MiraxLevel(own.image, corners[order] // own.concat, records[kept][:, (3, 1, 2)][order])


def _any_active(
    slide: _Slide, active: NDArray[np.bool_], photo_y: NDArray[np.int64], photo_x: NDArray[np.int64], side: int
) -> NDArray[np.bool_]:
    """Tell of images that hold ``side`` photos a side whether any of these has an image on level 0."""
    grid = np.pad(active.reshape(slide.photos), ((0, side), (0, side)))
    found = np.zeros(len(photo_y), bool)
    down, across = np.minimum(photo_y, slide.photos.y), np.minimum(photo_x, slide.photos.x)
    steps: Sequence[int] = range(side)
    for dy in steps:
        for dx in steps:
            found |= grid[np.minimum(down + dy, grid.shape[0] - 1), np.minimum(across + dx, grid.shape[1] - 1)]
    return found

"""The slide as the rest of the package sees it, and `open_slide`, which picks the reader.

Readers stand in `wsi.readers`, one file each. `TiffReader` decodes TIFF tiles itself, `DicomReader` DICOM frames;
`OpenSlideReader` takes each format that OpenSlide alone knows; `OmeZarrReader` takes folders. The first reader that can
read a file right takes it; `Slide.chosen_because` says why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsi.errors import NotASlideError, RequestError, UnreadableSlideError
from wsi.regular import irregular_below, open_regular
from wsi.units import YX, Box

RGB = NDArray[np.uint8]
"""uint8 (height, width, 3), red green blue."""

DAMAGED_RGB = (255, 0, 255)
"""What stands where pixels could not be decoded: no tissue and no background looks like it."""


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a slide."""

    shape: YX
    """Pixels of this level."""
    downsample: float
    """Level-0 pixels per pixel of this level."""
    tile: YX | None
    """Size of the file's own tiles in pixels, None where the reader does not know."""


def level_downsample(shape: tuple[int, int], first: tuple[int, int], ratio: float) -> float:
    """Return the true factor between a level and level 0.

    Parameters
    ----------
    shape, first
        Pixels of the level and of level 0, along the same axes.
    ratio
        Quotient of their sizes. It is off by the rounding of the level's size: 4.0003 is 4 where a quarter of level 0
        has just that size, and 4.03 is not.
    """
    nearest = max(1, round(ratio))
    whole = all(abs(length / nearest - short) < 1 for short, length in zip(shape, first, strict=True))
    return float(nearest) if whole else ratio


@dataclass(frozen=True, slots=True)
class MppClaim:
    """What the file says about its resolution, believed or not."""

    mpp_yx: tuple[float, float]
    """um/px at level 0, rows first."""
    source: str
    """Where it stands in the file, such as ``aperio.MPP`` or ``TIFF resolution``."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One scan among those that a file holds."""

    index: int
    """Its number in the file's order, from 0; label and macro count, and are no scenes."""
    name: str
    """As the file gives it, "" where it does not: free text, never kept in a store."""
    shape: YX
    """Pixels of its largest level, as stored."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How a slide is opened."""

    threads: int = 1
    """Tiles of one box decoded at once."""
    scene: int | None = None
    """Which of several scenes is read; None: the largest."""
    srgb: bool = False
    """Apply the slide's ICC profile, where it has one: pixels are given in sRGB."""


class Slide(Protocol):
    """A slide that is open for reading. Not picklable: a worker opens its own."""

    path: Path
    reader: str
    """One of `READERS`."""
    format: str
    """The file format, as the reader names it: ``svs``, ``ome``, ``hamamatsu``, ..."""
    chosen_because: str
    """Why this reader took the file."""
    levels: tuple[Level, ...]
    """Largest first."""
    scenes: tuple[Scene, ...]
    """All that the file holds and the reader could read; empty where its format has but one."""
    scene: int
    """Index of the one that is read."""
    icc: bytes
    """The slide's ICC profile as it stands in the file; empty where there is none."""
    mpp_claims: tuple[MppClaim, ...]
    """In the order in which they are to be believed."""
    objective_power: float | None
    notes: tuple[str, ...]
    """What a careful user should know: conversions, ignored parts, missing bytes."""
    missing: str
    """What the file declares and does not hold, as a clause; empty where it is whole."""

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """Return the pixels of a box in that level's frame; outside the level they are white.

        Parameters
        ----------
        level
            Index into `levels`.
        box
            Rectangle in pixels of that level; may reach beyond it.
        damaged
            Where given, boxes (in the level's frame) that cannot be decoded are appended and hold `DAMAGED_RGB`.

        Raises
        ------
        DamagedSlideError
            Pixels cannot be decoded and ``damaged`` is None.
        """

    def close(self) -> None:
        """Close the file."""


Opener = Callable[[Path, Opening], Slide]


def _openers() -> Mapping[str, Opener]:
    from wsi.readers.dicom_reader import open_with_dicom
    from wsi.readers.ome_zarr_reader import open_with_ome_zarr
    from wsi.readers.openslide_reader import open_with_openslide
    from wsi.readers.tiff_reader import open_with_tiff

    return {
        "tiff": open_with_tiff,
        "openslide": open_with_openslide,
        "dicom": open_with_dicom,
        "ome-zarr": open_with_ome_zarr,
    }


READERS = ("tiff", "openslide", "dicom", "ome-zarr")
"""In the order in which they are asked."""


def open_slide(
    path: Path, reader: str | None = None, *, threads: int = 1, scene: int | None = None, srgb: bool = False
) -> Slide:
    """Open a slide with the first reader that can read it right, or with the one that is named.

    Parameters
    ----------
    path
        A slide file, or the folder of an OME-Zarr picture.
    reader
        One of `READERS`; None asks each that suits the kind of file.
    threads
        Tiles of one box decoded at once. OpenSlide decodes one after the other whatever is asked.
    scene
        Which of the file's scenes is read, from 0; None: the largest.
    srgb
        Apply the slide's ICC profile, where it has one.

    Raises
    ------
    UnreadableSlideError
        The file is missing or empty, or no reader can read it right; the message gives each reader's reason.
    RequestError
        ``reader`` is not the name of a reader.
    """
    if reader is not None and reader not in READERS:
        raise RequestError(f"reader {reader!r} is not known: expected one of {', '.join(READERS)}")
    from wsi.readers.scenes import refuse_without_pixels

    refuse_without_pixels(path)
    suitable = (reader,) if reader else _suitable(path)
    openers = _openers()
    reasons: list[str] = []
    for name in suitable:
        try:
            _check_kind(path, name)
            slide = openers[name](path, Opening(threads, scene, srgb))
        except NotASlideError as error:
            raise NotASlideError(f"{path.name} cannot be read: {_short(str(error))}") from None
        except UnreadableSlideError as error:
            reasons.append(f"{name}: {_short(str(error))}")
            continue
        slide.chosen_because = "named by --reader" if reader else "; ".join([*reasons, slide.chosen_because])
        return slide
    raise UnreadableSlideError(f"{path.name} cannot be read ({'; '.join(reasons)})")


def _short(text: str) -> str:
    """Keep what a broken file says about itself to one line of at most 300 printable characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _check_kind(path: Path, reader: str) -> None:
    if path.is_dir() != (reader == "ome-zarr"):
        raise UnreadableSlideError("expected a folder" if reader == "ome-zarr" else "a folder: expected a slide file")


def _suitable(path: Path) -> tuple[str, ...]:
    """Return the readers to be asked; refuse what is no slide whoever reads it."""
    if path.is_dir():
        if not any((path / name).is_file() for name in _ZARR_MARKERS):
            raise UnreadableSlideError(f"{path.name} is a folder: expected a slide file, or an OME-Zarr folder")
        if odd := irregular_below(path):
            raise UnreadableSlideError(f"{path.name}: {odd}")
        return ("ome-zarr",)
    try:
        size = path.stat().st_size
        with open_regular(path) as file:
            head = file.read(132)
    except OSError as error:
        raise UnreadableSlideError(f"{path.name} cannot be opened: {error.strerror or error}") from None
    if size == 0:
        raise UnreadableSlideError(f"{path.name} is empty (0 bytes): copy it again")
    if head.startswith(b"version https://git-lfs"):
        raise UnreadableSlideError(f"{path.name} is a Git LFS pointer, not the slide: fetch it with `git lfs pull`")
    # OpenSlide can end the whole process on a damaged DICOM file, and reads none that DicomReader does not.
    return ("dicom",) if head[128:] == b"DICM" else ("tiff", "openslide")


_ZARR_MARKERS = ("zarr.json", ".zgroup")

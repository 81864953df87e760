"""What a slide is to the rest of the package, whichever reader opened it, and the facts that come with it."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from wsi.arrays import RGB
from wsi.readers.tiles import Tiles
from wsi.units import YX, Box


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
    """A slide that is open for reading, and a context that closes it. Not picklable: a worker opens its own."""

    path: Path
    reader: str
    """One of `wsi.slide.READERS`."""
    format: str
    """The file format, as the reader names it: ``svs``, ``ome``, ``hamamatsu``, ..."""
    chosen_because: str
    """Why this reader took the file."""
    levels: tuple[Level, ...]
    """Largest first."""
    scenes: tuple[Scene, ...] = ()
    """All that the file holds and the reader could read; empty where its format has but one."""
    scene: int = 0
    """Index of the one that is read."""
    icc: bytes = b""
    """The slide's ICC profile as it stands in the file; empty where there is none."""
    colours: str = ""
    """What pixels were converted from where only their looks told it: ``ycbcr``; else empty."""
    mpp_claims: tuple[MppClaim, ...]
    """In the order in which they are to be believed."""
    objective_power: float | None
    notes: tuple[str, ...]
    """What a careful user should know: conversions, ignored parts, missing bytes."""
    missing: str
    """What the file declares and does not hold, as a clause; empty where it is whole."""
    seconds_reading: float = 0.0
    """Time spent on getting bytes from the file, as far as the reader tells it from decoding; on threads, about."""

    @abstractmethod
    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """Return the pixels of a box in that level's frame, uint8 (h, w, 3); outside the level they are white.

        Parameters
        ----------
        level
            Index into `levels`.
        box
            Rectangle in pixels of that level; may reach beyond it.
        damaged
            Where given, boxes (in the level's frame) that cannot be decoded are appended; they hold
            `wsi.readers.tiles.DAMAGED_RGB`.

        Raises
        ------
        DamagedSlideError
            Pixels cannot be decoded and ``damaged`` is None.
        """

    @abstractmethod
    def tiles(self, level: int) -> Tiles | None:
        """Return a level's own tiles, None where they are no quicker than `read`, or cannot be had one by one."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        """Give the slide itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


Opener = Callable[[Path, Opening], Slide]

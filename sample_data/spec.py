"""What one sample slide is: size, file form, class, center, and the seed from which everything else follows."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from wsi.errors import RequestError

MPP = 0.5
"""True um/px of every sample slide, whatever its resolution tag says."""
MIN_SIDE_PX = 1024
"""Smallest side of a slide: below it two class-bearing spots do not fit."""

Kind = Literal["deflate", "jpeg-pyramid"]
Label = Literal["CE", "LAA"]
Background = Literal["plain", "green"]

CENTERS = ("1", "4", "11")
"""Center ids. Each has its own stains, scanner light and background tint (`sample_data.stains`)."""


class Square(NamedTuple):
    """A square of the slide that carries the class."""

    l0_y: int
    """Top edge, level-0 pixels."""
    l0_x: int
    """Left edge, level-0 pixels."""
    size_px: int
    """Side, level-0 pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideSpec:
    """Everything that shapes one slide's pixels and its file."""

    height_px: int
    """Level-0 pixels."""
    width_px: int
    """Level-0 pixels."""
    label: Label = "CE"
    """The class: it changes the arrangement of cells in a few spots and nothing else."""
    center_id: str = CENTERS[0]
    """One of `CENTERS`."""
    seed: tuple[int, ...] = (0,)
    """Seed of all of the slide's random numbers."""
    tissue_share: float = 0.22
    """Wanted share of the slide's area that is tissue, 0 to 0.6."""
    background: Background = "plain"
    """``green`` makes the slide that fools a fixed background colour."""
    kind: Kind = "deflate"
    """``deflate``: one level, 128-px tiles, 25.4-dpi placeholder; ``jpeg-pyramid``: 256-px tiles, true um/px."""
    bigtiff: bool = False
    """Write 64-bit offsets even where 32 would do."""

    def __post_init__(self) -> None:
        """Refuse what cannot be painted."""
        if min(self.height_px, self.width_px) < MIN_SIDE_PX:
            raise RequestError(
                f"a sample slide of {self.width_px} x {self.height_px} px: expected at least {MIN_SIDE_PX} px a side"
            )
        if self.center_id not in CENTERS:
            raise RequestError(f"center_id {self.center_id!r}: expected one of {', '.join(CENTERS)}")
        if not 0 < self.tissue_share <= 0.6:
            raise RequestError(f"tissue_share {self.tissue_share}: expected above 0, at most 0.6")

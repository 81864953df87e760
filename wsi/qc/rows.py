"""What the contact sheet shows of one slide."""

from dataclasses import dataclass

from wsi.arrays import RGB


@dataclass(frozen=True, slots=True)
class Column:
    """One quality number of the table."""

    key: str
    title: str
    digits: int
    logarithmic: bool = False
    """Compared as a ratio, not as a difference."""
    least_spread: float = 0.0
    """Differences (of logarithms, where so compared) smaller than a quarter of this are never odd."""


COLUMNS = (
    Column("tiles", "Tiles", 0, True, 0.5),
    Column("tissue_mm2", "Tissue, mm\N{SUPERSCRIPT TWO}", 1, True, 0.5),
    Column("tissue_share", "Tissue, share", 2, True, 0.5),
    Column("mpp", "Slide um/px", 3, True, 0.05),
    Column("darkness", "Darkness", 3, False, 0.03),
    Column("focus", "Focus", 3, True, 0.2),
    Column("texture", "Texture", 3, True, 0.2),
    Column("pen", "Pen", 3, False, 0.01),
    Column("fold", "Fold", 3, False, 0.01),
    Column("bubble", "Bubble", 3, False, 0.02),
    Column("repeats", "Repeats", 0, False, 1.0),
    Column("tint", "Tint", 0, False, 12.0),
)


@dataclass(frozen=True, slots=True)
class SlideRow:
    """What the sheet shows of one slide."""

    image_id: str
    thumbnail: RGB
    """uint8 (h, w, 3), the mask's outline drawn in."""
    numbers: dict[str, float | None]
    """By `Column.key`; None where the store does not hold it."""
    source: str
    """Where the um/px came from."""
    reader: str
    background: tuple[int, int, int]
    warnings: tuple[str, ...]
    odd: tuple[str, ...] = ()
    """Keys of the numbers that stand far from the cohort's."""

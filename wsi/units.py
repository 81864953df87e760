"""Frames and units, as every name in this package spells them.

========  ================================================================================
prefix    frame
========  ================================================================================
``l0_``   pixels of the slide's level 0
``v_``    pixels of one level of the slide (the level is named beside it)
``s_``    pixels of the store's level 0
``o_``    pixels of the overview and of the tissue mask
``t_``    tile index (row, column) in the store's level 0; a tile is a chunk
``_um``   micrometre
``_mpp``  micrometre per pixel
========  ================================================================================

Order is always (y, x), as in arrays. Where a library or a file wants (x, y), it is converted at that door.
"""

from typing import NamedTuple


class YX(NamedTuple):
    """A position or a size, rows first; the frame stands in the name of the variable."""

    y: int
    x: int


class Box(NamedTuple):
    """A rectangle [y0, y1) x [x0, x1); the frame stands in the name of the variable."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> YX:
        """Height and width."""
        return YX(self.y1 - self.y0, self.x1 - self.x0)

    def clipped(self, shape: tuple[int, int]) -> "Box":
        """Return the part inside [0, height) x [0, width); its size may be 0."""
        y0, x0 = min(max(self.y0, 0), shape[0]), min(max(self.x0, 0), shape[1])
        return Box(y0, x0, max(y0, min(self.y1, shape[0])), max(x0, min(self.x1, shape[1])))


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)

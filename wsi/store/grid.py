"""Pure geometry of the tile grid: how large each level is, which chunk lies where, how much tissue a tile holds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import Bools, Floats
from wsi.units import YX, Box, ceil_div

SHARD_TILES = 16
"""Chunks along one side of a level-0 shard, which is also the region that one task owns."""
TASK_LEVELS = 5
"""Levels that a task writes: its region is one whole shard on each (16, 8, 4, 2 and 1 chunks a side)."""
_MOST_FACTOR = 1 << 20


@dataclass(frozen=True, slots=True)
class Grid:
    """The tile grid of one store."""

    shape: YX
    """Store pixels at level 0."""
    tile_px: int
    """Side of a tile, which is a chunk."""
    coarser: tuple[tuple[int, YX], ...] = ()
    """For each further level, where these are the slide's own, how many pixels of level 0 one of it covers along each
    side, a power of two, and its size. Empty: each level is half the one above."""

    @property
    def tiles(self) -> YX:
        """Tiles down and across at level 0."""
        return YX(ceil_div(self.shape.y, self.tile_px), ceil_div(self.shape.x, self.tile_px))

    @property
    def regions(self) -> YX:
        """Task regions down and across."""
        return YX(ceil_div(self.tiles.y, SHARD_TILES), ceil_div(self.tiles.x, SHARD_TILES))

    def levels(self) -> list[YX]:
        """Return the size of every level: each half the one above, until one fits into a single tile."""
        if self.coarser:
            return [self.shape, *(shape for _, shape in self.coarser)]
        return [self.shape, *(shape for _, shape in self.halves(1, self.shape))]

    def halves(self, factor: int, shape: YX) -> list[tuple[int, YX]]:
        """Return factor and size of the levels below one, each half the one above until one fits into a tile."""
        sizes = [(factor, shape)]
        while max(sizes[-1][1]) > self.tile_px and min(sizes[-1][1]) > 1:
            last, (height, width) = sizes[-1]
            sizes.append((2 * last, YX(height // 2, width // 2)))
        return sizes[1:]

    def factors(self) -> list[int]:
        """Return for each level how many pixels of level 0 one of it covers, along each side."""
        return (
            [1, *(factor for factor, _ in self.coarser)]
            if self.coarser
            else [1 << k for k in range(len(self.levels()))]
        )

    def task_levels(self) -> int:
        """Return how many levels a task writes: those of which its region is one whole shard."""
        return sum(factor <= SHARD_TILES for factor in self.factors())

    def shard_tiles(self, level: int) -> int:
        """Return the chunks along one side of a shard of that level."""
        return max(1, SHARD_TILES // self.factors()[level] if self.coarser else SHARD_TILES >> level)

    def has_shard(self, level: int, region: YX) -> bool:
        """Tell whether that level reaches into the region: halving may end just before it."""
        side, shape = self.tile_px * self.shard_tiles(level), self.levels()[level]
        return region.y * side < shape.y and region.x * side < shape.x

    def level_tiles(self, level: int) -> YX:
        """Tiles down and across at a level."""
        height, width = self.levels()[level]
        return YX(ceil_div(height, self.tile_px), ceil_div(width, self.tile_px))

    def region_tiles(self, region: YX) -> Box:
        """Return the tiles of a region as a box in tile indices, cut at the grid's end."""
        y, x = region.y * SHARD_TILES, region.x * SHARD_TILES
        return Box(y, x, y + SHARD_TILES, x + SHARD_TILES).clipped(self.tiles)


def with_levels(grid: Grid, found: Iterable[tuple[int, YX]]) -> Grid:
    """Return the grid with these coarser levels: factor and size of each, the finest first.

    Raises
    ------
    ValueError
        They are no powers of two that grow, or sizes are not level 0's divided by them, rounded down or up.
    """
    coarser, least = tuple(found), 2
    for factor, shape in coarser:
        if not least <= factor <= _MOST_FACTOR or factor & (factor - 1) or not fits(grid.shape, factor, shape):
            raise ValueError(f"a level of {list(shape)} at 1/{factor} does not fit {list(grid.shape)}")
        least = 2 * factor
    return Grid(grid.shape, grid.tile_px, coarser)


def fits(shape: YX, factor: int, coarser: YX) -> bool:
    """Tell whether a level has the size of another one divided by a factor, rounded down or up."""
    return all(abs(long / factor - short) < 1 and short > 0 for long, short in zip(shape, coarser, strict=True))


def any_under(present: Bools, factor: int) -> Bools:
    """Return which chunks of a coarser level have anything in them, bool; the last ones are cut off by the edge."""
    rows, columns = (-side % factor for side in present.shape)
    padded = np.pad(present, ((0, rows), (0, columns))) if rows or columns else present
    height, width = (side // factor for side in padded.shape)
    return np.asarray(padded.reshape(height, factor, width, factor).any(axis=(1, 3)), bool)


def runs(wanted: Bools) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of each run of True in a 1-D array."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def tile_means(picture: NDArray[Any], tile_o: float, tiles: YX, extent_o: tuple[float, float]) -> NDArray[np.float32]:
    """Return the mean of a picture over each tile; of a mask, the share of the tile that it covers.

    Parameters
    ----------
    picture
        uint8 or float32 (h, w) in the overview's frame.
    tile_o
        Side of a tile in the picture's pixels; need not be whole.
    tiles
        Tiles down and across.
    extent_o
        Height and width of the slide in the picture's pixels. Tiles at the end are judged by the part that lies on the
        slide.

    Returns
    -------
    float32 (rows, columns), between the least and the most of the picture
    """
    if not picture.any():  # most artefacts are on few slides
        return np.zeros(tiles, np.float32)
    table = cv2.integral(picture, sdepth=cv2.CV_32S if picture.dtype == np.uint8 else cv2.CV_64F)
    y = np.minimum(np.arange(tiles.y + 1.0) * tile_o, min(extent_o[0], picture.shape[0]))
    x = np.minimum(np.arange(tiles.x + 1.0) * tile_o, min(extent_o[1], picture.shape[1]))
    corners = _at(_at(table, y).T, x).T
    total = np.diff(np.diff(corners, axis=0), axis=1)
    area = np.diff(y)[:, None] * np.diff(x)[None, :]
    means = np.divide(total, area, out=np.zeros_like(total), where=area > 0)
    return np.clip(means, 0, float(picture.max(initial=0))).astype(np.float32)


def _at(table: NDArray[Any], positions: Floats) -> Floats:
    """Read rows of a table at fractional positions, linearly between them."""
    low = np.minimum(np.floor(positions).astype(int), len(table) - 1)
    high = np.minimum(low + 1, len(table) - 1)
    share = (positions - low)[:, None]
    result: Floats = table[low] * (1 - share) + table[high] * share
    return result

"""Levels made row by row: each tile is compressed, and its half goes into the next coarser level, as it is stored.

So each level is the mean of the one above as anybody reads it, whoever puts tiles in: a region that is read, one that
is copied, one that is trimmed, or the finish of the whole slide. No more than one row of tiles of each level is in
memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from wsi.arrays import RGB
from wsi.pixels.resample import halve
from wsi.progress.step_times import StepTimes
from wsi.store.codecs import SUBSAMPLING, codec
from wsi.store.grid import Grid
from wsi.store.layout import FILL, shard_path
from wsi.store.shards import ShardWriter, write_shard, writing_shard
from wsi.units import YX

Sink = Callable[[YX, bytes], None]
"""Takes a tile's place and its compressed bytes."""
Timer = Callable[[str], AbstractContextManager[None]]
"""Adds a block's time to a step."""


def whiten_beyond(pixels: RGB, shape: YX, tile: YX) -> RGB:
    """Make white what of a tile lies beyond its level, in place.

    Parameters
    ----------
    pixels
        uint8 (T, T, 3).
    shape
        Pixels of the level.
    tile
        Row and column of the tile in its level.
    """
    side = len(pixels)
    height, width = (max(0, length - place * side) for length, place in zip(shape, tile, strict=True))
    pixels[height:] = FILL
    pixels[:, width:] = FILL
    return pixels


class LevelWriter:
    """One level on its way into its shards; tiles come in row by row.

    Parameters
    ----------
    grid, level, codec_name
        Of the store.
    sink
        Where compressed tiles go.
    timed
        Counts the time of the steps ``encode`` and ``scale``.
    coarser
        The next level, which is made from this one.
    subsampling
        Of JPEG that is made, as in `wsi.store.codecs.Jpeg`.
    """

    def __init__(
        self,
        grid: Grid,
        level: int,
        codec_name: str,
        sink: Sink,
        timed: Timer,
        coarser: "LevelWriter | None" = None,
        subsampling: str = SUBSAMPLING,
    ) -> None:
        self._shape = grid.levels()[level]
        self._side = grid.tile_px
        self._codec = codec(codec_name, subsampling=subsampling)
        self._sink = sink
        self._timed = timed
        self._coarser = coarser
        self._row = 0
        self._tiles: dict[int, RGB] = {}
        """The row that is being put together from the finer level, by column."""

    @property
    def wants_pixels(self) -> bool:
        """Whether a level is made from this one."""
        return self._coarser is not None

    def put(self, tile: YX, pixels: RGB) -> None:
        """Compress a tile, uint8 (T, T, 3), and hand it on; what lies beyond the level becomes white."""
        pixels = whiten_beyond(np.ascontiguousarray(pixels), self._shape, tile)
        with self._timed("encode"):
            data = self._codec.encode(pixels)
            if self._coarser and not self._codec.lossless:
                pixels = self.decoded(tile, data)
        self.put_stored(tile, data, pixels)

    def put_stored(self, tile: YX, data: bytes | memoryview, pixels: RGB | None) -> None:
        """Hand on a tile that is compressed already, and its pixels as `decoded` gives them, None if not wanted."""
        self._sink(tile, bytes(data))
        if pixels is not None:
            self.pass_on(tile, pixels)

    def pass_on(self, tile: YX, pixels: RGB) -> None:
        """Let the coarser level know a tile's pixels as `decoded` gives them, wherever the tile lies."""
        if self._coarser:
            with self._timed("scale"):
                half = halve(pixels)
            self._coarser.take(tile, half)

    def decoded(self, tile: YX, data: bytes | memoryview) -> RGB:
        """Return a compressed tile's pixels, uint8 (T, T, 3), white beyond the level."""
        return whiten_beyond(self._codec.pixels(data, self._side), self._shape, tile)

    def take(self, finer: YX, half: RGB) -> None:
        """Take a finer level's tile at half its size, uint8 (T / 2, T / 2, 3); rows come in order."""
        tile = YX(finer.y // 2, finer.x // 2)
        if tile.y != self._row:
            self._put_row()
            self._row = tile.y
        if tile.y * self._side >= self._shape.y or tile.x * self._side >= self._shape.x:
            return  # halving ends just before it
        if tile.x not in self._tiles:
            self._tiles[tile.x] = np.full((self._side, self._side, 3), FILL, np.uint8)
        size = self._side // 2
        y, x = finer.y % 2 * size, finer.x % 2 * size
        self._tiles[tile.x][y : y + size, x : x + size] = half

    def end(self) -> None:
        """Put in what is waiting, in this level and in those below."""
        self._put_row()
        if self._coarser:
            self._coarser.end()

    def _put_row(self) -> None:
        for column in sorted(self._tiles):
            self.put(YX(self._row, column), self._tiles.pop(column))


@contextmanager
def write_levels(
    store: Path,
    grid: Grid,
    codecs: Sequence[str],
    levels: range,
    times: StepTimes,
    region: YX | None = None,
    *,
    subsampling: str = SUBSAMPLING,
) -> Iterator[tuple[LevelWriter, dict[int, ShardWriter]]]:
    """Give the writer of the first of several levels, each of which is made of the one before, and the shards by level.

    Parameters
    ----------
    store, grid, codecs
        Where; its geometry; the codec's name of each level.
    levels
        Without gaps.
    region
        The one that is written, a shard of each level; None: all of them, levels whose shards hold one chunk.
    subsampling
        As in `LevelWriter`.
    """
    shards: dict[int, ShardWriter] = {}
    writer: LevelWriter | None = None
    with ExitStack() as opened:
        for level in reversed(levels):
            sink: Sink = partial(_put_alone, store, level)
            if region is not None:
                side = grid.shard_tiles(level)
                path = shard_path(store, level, *region)
                shards[level] = opened.enter_context(writing_shard(path, side**2))
                sink = partial(_put, shards[level], side, times)
            writer = LevelWriter(grid, level, codecs[level], sink, times.timed, writer, subsampling)
        assert writer is not None
        yield writer, shards
        writer.end()


def _put(shard: ShardWriter, side: int, times: StepTimes, tile: YX, data: bytes) -> None:
    with times.timed("write"):
        shard.put(tile.y % side * side + tile.x % side, data)


def _put_alone(store: Path, level: int, tile: YX, data: bytes) -> None:
    write_shard(shard_path(store, level, *tile), {0: data}, 1)

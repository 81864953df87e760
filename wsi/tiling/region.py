"""One Dask task: one region of the slide becomes one whole shard on each of five levels."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.errors import DamagedSlideError, StoreError, says_damage
from wsi.files.atomic import write_text
from wsi.pixels.resample import area_average, source_box
from wsi.readers.protocol import DAMAGED_RGB, Slide
from wsi.readers.tiff.reader import TiffReader
from wsi.scores.quality import tile_scores
from wsi.store.codecs import Jpeg
from wsi.store.grid import SHARD_TILES, TASK_LEVELS, runs
from wsi.store.layout import FILL, shard_path
from wsi.store.pyramid import LevelWriter
from wsi.store.shards import ShardFile, ShardWriter, writing_shard
from wsi.tiling.overview_tiles import average_tiles
from wsi.tiling.passthrough import copy_tile
from wsi.tiling.plan import (
    SlidePlan,
    cached_slide,
    part_path,
    read_tissue,
    refuse_damage,
    slide_errors,
    write_part,
)
from wsi.tiling.reduced_jpeg import read_reduced
from wsi.tiling.single_pass import may_hold_tissue, region_part
from wsi.units import YX, Box

_SAMPLED_EVERY = 16
"""Of copied tiles, one in so many is decoded to see whether the slide is sharp."""
_PIECE_BYTES = 16 << 20
"""Source pixels read at once, as RGB bytes, and what is made of them: whatever slide and scale."""
_JPEG = Jpeg()


@dataclass(slots=True)
class Receipt:
    """What a region's task did; small, and kept in the work folder so that a resumed run knows it, too."""

    region: YX
    n_tiles: int = 0
    bytes_written: int = 0
    shards: list[int] = field(default_factory=list)
    """Levels of which a shard was written: a level may end before the region's tiles, or hold none of them."""
    kept: list[int] = field(default_factory=list)
    """Places of the stored tiles in the level-0 shard."""
    damaged: list[tuple[int, int]] = field(default_factory=list)
    """Tiles (row, column) that hold pixels that could not be decoded."""
    scored: list[tuple[int, int]] = field(default_factory=list)
    """Tiles (row, column) whose pixels were scored, in the order of `scores`."""
    scores: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by step: read, decode, scale, score, encode, write."""

    def spent(self, step: str, seconds: float) -> None:
        """Add time to a step."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the block's time to a step."""
        start = time.perf_counter()
        yield
        self.spent(step, time.perf_counter() - start)

    def score(self, tile: tuple[int, int], scores: dict[str, float]) -> None:
        """Note the scores of a tile's pixels."""
        self.scored.append(tile)
        for name, value in scores.items():
            self.scores.setdefault(name, []).append(round(value, 6))

    def damage(self, tile: tuple[int, int]) -> None:
        """Note a damaged tile, once."""
        if tile not in self.damaged:
            self.damaged.append(tile)


def receipt_path(plan: SlidePlan, region: YX) -> Path:
    """Return where a region's receipt lies."""
    return plan.work / f"receipt-{region.y}-{region.x}.json"


def read_receipt(plan: SlidePlan, region: YX) -> Receipt | None:
    """Return the receipt of a region that is finished and whose shards are intact, else None."""
    try:
        stored = json.loads(receipt_path(plan, region).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    receipt = Receipt(YX(*stored.pop("region")), **stored)
    receipt.damaged = [(row, column) for row, column in receipt.damaged]
    receipt.scored = [(row, column) for row, column in receipt.scored]
    try:
        for level in receipt.shards:
            ShardFile(shard_path(plan.partial, level, *region), plan.grid.shard_tiles(level) ** 2)
    except (StoreError, FileNotFoundError, ValueError):
        return None
    return receipt


def write_receipt(plan: SlidePlan, receipt: Receipt) -> None:
    """Write a region's receipt: the last thing that its task does."""
    write_text(receipt_path(plan, receipt.region), json.dumps(asdict(receipt)))


def task_levels(plan: SlidePlan, region: YX) -> list[int]:
    """Return the levels of which this region is a shard."""
    return [i for i in range(min(TASK_LEVELS, len(plan.grid.levels()))) if plan.grid.has_shard(i, region)]


def make_region(plan: SlidePlan, region: YX) -> Receipt:
    """Read, average, compress and write one region, unless a whole one is there already.

    Raises
    ------
    DamagedSlideError
        Pixels cannot be decoded and the options do not allow to skip them.
    """
    cv2.setNumThreads(1)
    receipt = read_receipt(plan, region)
    if receipt is None:
        receipt = Receipt(region)
        tissue = read_tissue(plan, "wanted", "listed")
        _Region(plan, receipt, in_region(plan, region, tissue["wanted"]), tissue["listed"]).write()
        write_receipt(plan, receipt)
    return receipt


def make_region_once(plan: SlidePlan, region: YX) -> Receipt:
    """Read one region of a slide that is decoded in one pass: its part of the overview, and all tiles of promise.

    Raises
    ------
    DamagedSlideError
        Pixels cannot be decoded and the options do not allow to skip them.
    """
    cv2.setNumThreads(1)
    receipt = read_receipt(plan, region)
    if receipt is None or not part_path(plan, region).is_file():
        receipt = Receipt(region)
        _RegionOnce(plan, receipt).write()
        write_receipt(plan, receipt)
    return receipt


def in_region(plan: SlidePlan, region: YX, grid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a region's part of the tile grid, bool (16, 16), False beyond the grid's end."""
    tiles = plan.grid.region_tiles(region)
    part = np.zeros((SHARD_TILES, SHARD_TILES), bool)
    part[: tiles.shape.y, : tiles.shape.x] = grid[tiles.y0 : tiles.y1, tiles.x0 : tiles.x1]
    return part


class _Region:
    """One region on its way through the levels.

    Parameters
    ----------
    plan, receipt
        What it is a region of; what is noted of it.
    present
        bool (16, 16), the tiles to make.
    scored
        The tiles of the grid whose pixels are scored, bool (rows, columns); None: all that are made.
    """

    def __init__(
        self, plan: SlidePlan, receipt: Receipt, present: NDArray[np.bool_], scored: NDArray[np.bool_] | None
    ) -> None:
        self._plan = plan
        self._region = receipt.region
        self._receipt = receipt
        self._tile_px = plan.grid.tile_px
        self._tiles = plan.grid.region_tiles(receipt.region)
        self._skip_damage = plan.options.on_damage == "skip"
        self._scored = scored
        self._present = present

    @contextmanager
    def _decoding(self) -> Iterator[Slide]:
        """Give the slide; add the block's time to reading, as far as the reader tells it apart, and to decoding."""
        slide = cached_slide(self._plan.path, self._plan.reader, self._plan.options)
        before, start = getattr(slide, "seconds_reading", 0.0), time.perf_counter()
        yield slide
        reading = getattr(slide, "seconds_reading", 0.0) - before
        self._receipt.spent("read", reading)
        self._receipt.spent("decode", time.perf_counter() - start - reading)

    def _look_ahead(self, row: int) -> None:
        """Decide what of a row of tiles is made; here it is decided already."""

    def write(self) -> None:
        """Write the shard of every level: first those that are made of the finest, then each that is copied."""
        levels = task_levels(self._plan, self._region)
        heads = [i for i in levels if i == 0 or self._plan.copies[i] is not None]
        for head, end in pairwise([*heads, len(levels)]):
            with region_writer(self._plan, self._receipt, range(head, end)) as writer:
                if self._plan.copies[head] is None:
                    self._make(writer)
                else:
                    self._copy(head, writer)

    def _make(self, writer: LevelWriter) -> None:
        """Make level 0 from the slide's pixels."""
        side, most = self._tile_px, max(1, _PIECE_BYTES // (3 * self._tile_px**2))
        for row in range(SHARD_TILES):
            self._look_ahead(row)
            for first, last in runs(self._present[row]):
                for start in range(first, last, most):
                    stop = min(start + most, last)
                    strip = self._strip(row, start, stop)
                    for column in range(start, stop):
                        tile = YX(self._tiles.y0 + row, self._tiles.x0 + column)
                        pixels = strip[:, (column - start) * side : (column - start + 1) * side]
                        self._score(*tile, pixels)
                        writer.put(tile, pixels)

    def _score(self, row: int, column: int, tile: RGB) -> None:
        """Score the pixels of a tile of the grid."""
        if self._scored is None or self._scored[row, column]:
            with self._receipt.timed("score"):
                scores = tile_scores(tile, self._plan.scaling.mpp)
            self._receipt.score((row, column), scores)

    def _strip(self, row: int, start: int, stop: int) -> RGB:
        """Read one row of neighbouring tiles at the store's scale, uint8 (T, n * T, 3); note what is damaged."""
        side = self._tile_px
        row, start, stop = row + self._tiles.y0, start + self._tiles.x0, stop + self._tiles.x0
        out = Box(row * side, start * side, (row + 1) * side, stop * side)
        damaged: list[Box] | None = [] if self._skip_damage else None
        pieces = list(self._pieces(out))
        if len(pieces) == 1:
            strip = self._pixels(out, damaged)
        else:
            strip = np.empty((*out.shape, 3), np.uint8)
            for piece in pieces:
                y, x = piece.y0 - out.y0, piece.x0 - out.x0
                strip[y : y + piece.shape.y, x : x + piece.shape.x] = self._pixels(piece, damaged)
        factor = self._plan.scaling.factor
        lost = {
            column
            for part in damaged or ()
            if row in averaging_tiles(part.y0, part.y1, side, factor)
            for column in averaging_tiles(part.x0, part.x1, side, factor)
        }
        for column in sorted(lost.intersection(range(start, stop))):
            self._receipt.damage((row, column))
            strip[:, (column - start) * side : (column - start + 1) * side] = DAMAGED_RGB
        return strip

    def _pieces(self, out: Box) -> Iterator[Box]:
        """Cut a box into pieces whose source pixels fit into memory; rather square, for tiles at edges decode twice."""
        scaling = self._plan.scaling
        if self._plan.reduction > 1:  # decoded tile by tile
            yield out
            return
        height, width = piece_shape(out.shape, scaling.factor, self._native)
        for y in range(out.y0, out.y1, height):
            for x in range(out.x0, out.x1, width):
                yield Box(y, x, min(y + height, out.y1), min(x + width, out.x1))

    @cached_property
    def _native(self) -> YX | None:
        """Size of the slide's own tiles."""
        return (
            cached_slide(self._plan.path, self._plan.reader, self._plan.options).levels[self._plan.scaling.level].tile
        )

    def _pixels(self, out: Box, damaged: list[Box] | None) -> RGB:
        """Return a box of the store's level 0, uint8 (h, w, 3)."""
        level, factor = self._plan.scaling.level, self._plan.scaling.factor
        source = source_box(out, factor)
        with self._decoding() as slide, slide_errors(self._plan):
            if self._plan.reduction > 1 and isinstance(slide, TiffReader):
                return read_reduced(slide, level, source, self._plan.reduction, damaged)
            pixels = slide.read(level, source, damaged)
        with self._receipt.timed("scale"):
            return area_average(np.ascontiguousarray(pixels), YX(source.y0, source.x0), out, factor)

    def _copy(self, level: int, writer: LevelWriter) -> None:
        """Copy a level's JPEG tiles; decode them where a level is made of them."""
        present = self._present
        for _ in range(level):
            present = any_of_four(present)
        side, end = self._plan.grid.shard_tiles(level), self._plan.grid.level_tiles(level)
        for row, column in np.argwhere(present).tolist():
            tile = YX(self._region.y * side + row, self._region.x * side + column)
            if tile.y < end.y and tile.x < end.x:  # halving may end just before it
                writer.put_stored(tile, *self._copied_tile(level, tile, writer))

    def _copied_tile(self, level: int, tile: YX, writer: LevelWriter) -> tuple[bytes, RGB | None]:
        """Return a tile's chunk and, where a level is made of it, its pixels; score it if its turn has come."""
        source = self._plan.copies[level]
        assert source is not None
        scored = level == 0 and self._is_sampled(tile)
        try:
            with self._decoding() as slide:
                assert isinstance(slide, TiffReader)
                file = copy_tile(slide, source, *tile)
                data = _JPEG.chunk(file) if file else _JPEG.encode(self._unwritten(slide, source, tile))
                pixels = writer.decoded(tile, data) if scored or writer.wants_pixels else None
        except Exception as error:  # codecs raise nearly anything on damaged bytes
            if not says_damage(error) or (isinstance(error, DamagedSlideError) and not self._skip_damage):
                raise
            if not self._skip_damage:
                raise DamagedSlideError(
                    f"{self._plan.path.name}: tile {tuple(tile)} of level {source} cannot be decoded ({error}): "
                    "copy the file again, or give --on-damage skip"
                ) from None
            data = _JPEG.encode(np.full((self._tile_px, self._tile_px, 3), DAMAGED_RGB, np.uint8))
            pixels, scored = writer.decoded(tile, data), False
            if level == 0:
                self._receipt.damage(tile)
        if scored and pixels is not None:
            self._score(*tile, pixels)
        return data, pixels

    def _unwritten(self, slide: TiffReader, level: int, tile: YX) -> RGB:
        """Return what stands where the slide holds no tile: its finer level at that place, or background."""
        out = np.full((self._tile_px, self._tile_px, 3), FILL, np.uint8)
        pixels = slide.tile(level, tile.y * slide.grid(level).grid.x + tile.x)
        if pixels is not None:
            out[: pixels.shape[0], : pixels.shape[1]] = pixels
        return out

    def _is_sampled(self, tile: YX) -> bool:
        """Tell whether a copied tile is decoded for its scores: all of them on request, else a few for the median."""
        return self._plan.options.scores_every_tile or (tile.y * 5 + tile.x) % _SAMPLED_EVERY == 0


@contextmanager
def region_writer(plan: SlidePlan, receipt: Receipt, levels: range) -> Iterator[LevelWriter]:
    """Give the writer of a region's level; the levels after it are made of it. What is written goes into the receipt.

    Parameters
    ----------
    levels
        Of which the region is a shard, without gaps.
    """
    shards: list[tuple[int, ShardWriter]] = []
    with ExitStack() as opened:
        writer: LevelWriter | None = None
        for level in reversed(levels):
            side = plan.grid.shard_tiles(level)
            path = shard_path(plan.partial, level, *receipt.region)
            shards.append((level, opened.enter_context(writing_shard(path, side**2))))
            sink = partial(_put, shards[-1][1], side, receipt)
            writer = LevelWriter(plan.grid, level, plan.codecs[level], sink, receipt.timed, writer)
        assert writer is not None
        yield writer
        writer.end()
    receipt.bytes_written += sum(shard.size for _, shard in shards)
    for level, shard in shards:
        receipt.shards += [level] if shard.size else []
        if level == 0:
            receipt.kept = shard.kept
            receipt.n_tiles = len(receipt.kept)


def _put(shard: ShardWriter, side: int, receipt: Receipt, tile: YX, data: bytes) -> None:
    with receipt.timed("write"):
        shard.put(tile.y % side * side + tile.x % side, data)


def piece_shape(out: YX, factor: float, native: YX | None) -> YX:
    """Return the size of the pieces in which a box is read, so that none takes more than 16 MiB of source pixels.

    Parameters
    ----------
    out
        Size of the box, in the store's pixels.
    factor
        Source pixels per store pixel.
    native
        Size of the slide's own tiles: one is never cut across its width, as strips would be decoded again and again.
    """
    most = _PIECE_BYTES / (3 * factor**2)
    tile = native or YX(1, 1)
    height = min(out.y, max(1, int(max(most**0.5, tile.y / factor))))
    width = min(out.x, max(1, int(max(most / height, tile.x / factor))))
    return YX(max(1, min(height, int(most / width))), width)


def averaging_tiles(start: int, stop: int, tile_px: int, factor: float) -> range:
    """Return the rows (or columns) of tiles that average any source pixel from ``start`` to ``stop``.

    Parameters
    ----------
    start, stop
        In pixels of the level that is read.
    tile_px, factor
        Side of a tile, and source pixels per store pixel. Below 1, pixels are interpolated: a tile reaches further.
    """
    reach, tile_v = max(0.0, (1 - factor) / 2), tile_px * factor
    return range(max(0, math.floor((start - reach) / tile_v + 1e-9)), math.ceil((stop + reach) / tile_v - 1e-9))


class _RegionOnce(_Region):
    """A region that makes its part of the overview from the same pixels, strip by strip, and so finds its tiles."""

    def __init__(self, plan: SlidePlan, receipt: Receipt) -> None:
        super().__init__(plan, receipt, np.zeros((SHARD_TILES, SHARD_TILES), bool), None)
        self._part = region_part(plan.overview, plan.scaling, plan.grid, receipt.region)
        self._rgb = np.empty((*self._part.shape, 3), np.uint8)
        self._damage = np.zeros(self._part.shape, np.uint8)

    def write(self) -> None:
        super().write()
        write_part(self._plan, self._region, self._rgb, self._damage)

    def _look_ahead(self, row: int) -> None:
        overview, once = self._plan.overview, self._plan.single_pass
        assert once is not None
        tile_o = int(self._tile_px * self._plan.scaling.factor) // overview.factor
        rows = once.strip // overview.factor
        if row * tile_o % rows:
            return
        start, is_last = row * tile_o, row * tile_o + rows == SHARD_TILES * tile_o
        strip = np.s_[start : None if is_last else start + rows]
        rgb, damage = self._rgb[strip], self._damage[strip]
        if not rgb.size:
            return
        with self._decoding() as slide, slide_errors(self._plan):
            assert isinstance(slide, TiffReader)
            corner = YX(self._part.y0 + start, self._part.x0)
            average_tiles(slide, overview.level, overview.factor, corner, rgb, damage, keep=True)
        refuse_damage(self._plan, damage)
        found = may_hold_tissue(rgb, damage, once.background, tile_o)
        found |= self._plan.options.keep_background
        shape = (min(found.shape[0], self._tiles.shape.y - row), min(found.shape[1], self._tiles.shape.x))
        self._present[row : row + shape[0], : shape[1]] = found[: shape[0], : shape[1]]


def any_of_four(present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which chunks of the next level have anything in them, bool (n / 2, n / 2)."""
    return present[::2, ::2] | present[1::2, ::2] | present[::2, 1::2] | present[1::2, 1::2]


def raise_damage(plan: SlidePlan, receipts: list[Receipt]) -> None:
    """Raise `DamagedSlideError` where every tile of the slide is damaged: nothing is left to work with."""
    total, damaged = sum(r.n_tiles for r in receipts), sum(len(r.damaged) for r in receipts)
    if total and damaged == total:
        raise DamagedSlideError(f"{plan.path.name}: not one of its {total} tissue tiles can be decoded")

"""One Dask task: one region of the slide becomes one whole shard on each of five levels."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.atomic import write_text
from wsi.codecs import codec, jpeg_pixels
from wsi.errors import DamagedSlideError, StoreError
from wsi.grid import SHARD_TILES, TASK_LEVELS, runs
from wsi.layout import FILL, shard_path
from wsi.overview_tiles import average_tiles
from wsi.passthrough import copy_tile
from wsi.plan import (
    SlidePlan,
    cached_slide,
    part_path,
    read_tissue,
    refuse_damage,
    slide_errors,
    write_part,
)
from wsi.readers.tiff_reader import TiffReader
from wsi.reduced_jpeg import read_reduced, reduced_jpeg
from wsi.resample import area_average, halve, source_box
from wsi.scores.quality import tile_scores
from wsi.shards import ShardFile, write_shard
from wsi.single_pass import may_hold_tissue, region_part
from wsi.slide import DAMAGED_RGB, RGB, Slide
from wsi.units import YX, Box

_SAMPLED_EVERY = 16
"""Of copied tiles, one in so many is decoded to see whether the slide is sharp."""
Chunks = dict[int, bytes]
"""Compressed chunks by their place in the shard, in C order."""


@dataclass(slots=True)
class Receipt:
    """What a region's task did; small, and kept in the work folder so that a resumed run knows it, too."""

    region: YX
    n_tiles: int = 0
    bytes_written: int = 0
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
    except (OSError, ValueError):
        return None
    receipt = Receipt(YX(*stored.pop("region")), **stored)
    receipt.damaged = [(row, column) for row, column in receipt.damaged]
    receipt.scored = [(row, column) for row, column in receipt.scored]
    try:
        for level in task_levels(plan, region) if receipt.n_tiles else ():
            ShardFile(shard_path(plan.partial, level, *region), plan.grid.shard_tiles(level) ** 2)
    except (StoreError, OSError, ValueError):
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
        slide = cached_slide(self._plan.path, self._plan.reader)
        before, start = getattr(slide, "seconds_reading", 0.0), time.perf_counter()
        yield slide
        reading = getattr(slide, "seconds_reading", 0.0) - before
        self._receipt.spent("read", reading)
        self._receipt.spent("decode", time.perf_counter() - start - reading)

    def _look_ahead(self, row: int) -> None:
        """Decide what of a row of tiles is made; here it is decided already."""

    def write(self) -> None:
        """Write the shard of every level, finest first."""
        levels = task_levels(self._plan, self._region)
        half: RGB | None = None
        for level in levels:
            if level:
                self._present = any_of_four(self._present)
            needed = level + 1 in levels and self._plan.copies[level + 1] is None
            if self._plan.copies[level] is not None:
                chunks, half = self._copied(level, needed)
            elif level == 0:
                chunks, half = self._made()
            else:
                assert half is not None
                chunks, half = self._averaged(level, half)
            with self._receipt.timed("write"):
                path = shard_path(self._plan.partial, level, *self._region)
                self._receipt.bytes_written += write_shard(path, chunks, self._plan.grid.shard_tiles(level) ** 2)
            if level == 0:
                self._receipt.n_tiles, self._receipt.kept = len(chunks), sorted(chunks)

    def _score(self, row: int, column: int, tile: RGB) -> None:
        """Score the pixels of a tile of the grid."""
        if self._scored is None or self._scored[row, column]:
            with self._receipt.timed("score"):
                scores = tile_scores(tile, self._plan.scaling.mpp)
            self._receipt.score((row, column), scores)

    def _blank(self, level: int) -> RGB:
        """Return a white region of half that level's size."""
        side = self._plan.grid.shard_tiles(level) * self._tile_px // 2
        return np.full((side, side, 3), FILL, np.uint8)

    def _made(self) -> tuple[Chunks, RGB]:
        """Make level 0 from the slide's pixels; return its chunks and the region at half size."""
        encode, side, half = codec(self._plan.codecs[0]).encode, self._tile_px, self._blank(0)
        chunks: Chunks = {}
        for row in range(SHARD_TILES):
            self._look_ahead(row)
            for start, stop in runs(self._present[row]):
                strip = self._strip(row, start, stop)
                with self._receipt.timed("encode"):
                    for column in range(start, stop):
                        tile = strip[:, (column - start) * side : (column - start + 1) * side]
                        chunks[row * SHARD_TILES + column] = encode(tile)
                for column in range(start, stop):
                    tile = strip[:, (column - start) * side : (column - start + 1) * side]
                    self._score(self._tiles.y0 + row, self._tiles.x0 + column, tile)
                with self._receipt.timed("scale"):
                    half[row * side // 2 : (row + 1) * side // 2, start * side // 2 : stop * side // 2] = halve(strip)
        return chunks, half

    def _strip(self, row: int, start: int, stop: int) -> RGB:
        """Read one row of neighbouring tiles at the store's scale, uint8 (T, n * T, 3); note what is damaged."""
        side, factor = self._tile_px, self._plan.scaling.factor
        row, start, stop = row + self._tiles.y0, start + self._tiles.x0, stop + self._tiles.x0
        out = Box(row * side, start * side, (row + 1) * side, stop * side)
        source = source_box(out, factor)
        damaged: list[Box] | None = [] if self._skip_damage else None
        with self._decoding() as slide, slide_errors(self._plan):
            level = self._plan.scaling.level
            if self._plan.reduction > 1 and isinstance(slide, TiffReader):
                strip = pixels = read_reduced(slide, level, source, self._plan.reduction, damaged)
            else:
                pixels = slide.read(level, source, damaged)
        if self._plan.reduction == 1:
            with self._receipt.timed("scale"):
                strip = area_average(np.ascontiguousarray(pixels), YX(source.y0, source.x0), out, factor)
        for part in damaged or ():
            first, last = int(part.x0 / factor / side), int((part.x1 - 1) / factor / side)
            for column in range(max(first, start), min(last + 1, stop)):
                self._receipt.damage((row, column))
                strip[:, (column - start) * side : (column - start + 1) * side] = DAMAGED_RGB
        return strip

    def _averaged(self, level: int, pixels: RGB) -> tuple[Chunks, RGB]:
        """Compress a level whose pixels are there; return its chunks and the region at half size."""
        encode, side, places = codec(self._plan.codecs[level]).encode, self._tile_px, self._plan.grid.shard_tiles(level)
        chunks: Chunks = {}
        with self._receipt.timed("encode"):
            for row, column in np.argwhere(self._present).tolist():
                tile = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
                chunks[row * places + column] = encode(tile)
        with self._receipt.timed("scale"):
            return chunks, halve(pixels)

    def _copied(self, level: int, needed: bool) -> tuple[Chunks, RGB | None]:
        """Copy a level's JPEG tiles; where ``needed``, decode them at half their size for the next level, too."""
        places, side = self._plan.grid.shard_tiles(level), self._tile_px // 2
        corner = YX(self._region.y * places, self._region.x * places)
        half = self._blank(level) if needed else None
        chunks: Chunks = {}
        for row, column in np.argwhere(self._present).tolist():
            tile = YX(corner.y + row, corner.x + column)
            data, small = self._copied_tile(level, tile, needed)
            if data is None:
                continue
            chunks[row * places + column] = data
            if half is not None and small is not None:
                half[row * side : (row + 1) * side, column * side : (column + 1) * side] = small
        return chunks, half

    def _copied_tile(self, level: int, tile: YX, needed: bool) -> tuple[bytes | None, RGB | None]:
        """Return a tile's bytes and, where ``needed``, its pixels at half size; score it if its turn has come."""
        source = self._plan.copies[level]
        assert source is not None
        try:
            with self._decoding() as slide:
                assert isinstance(slide, TiffReader)
                data = copy_tile(slide, source, *tile)
                small = reduced_jpeg(data, 2) if data and needed else None
                pixels = jpeg_pixels(data, self._tile_px) if data and level == 0 and self._is_sampled(tile) else None
        except Exception as error:  # codecs raise nearly anything on damaged bytes
            if not self._skip_damage:
                if isinstance(error, DamagedSlideError):
                    raise
                raise DamagedSlideError(
                    f"{self._plan.path.name}: tile {tuple(tile)} of level {source} cannot be decoded ({error}): "
                    "copy the file again, or give --on-damage skip"
                ) from None
            pixels, small = None, np.full((self._tile_px // 2, self._tile_px // 2, 3), DAMAGED_RGB, np.uint8)
            data = codec("jpeg").encode(small.repeat(2, axis=0).repeat(2, axis=1))
            if level == 0:
                self._receipt.damage(tile)
        if pixels is not None:
            self._score(*tile, pixels)
        return data, small

    def _is_sampled(self, tile: YX) -> bool:
        """Tell whether a copied tile is decoded for its scores: all of them on request, else a few for the median."""
        return self._plan.options.scores_every_tile or (tile.y * 5 + tile.x) % _SAMPLED_EVERY == 0


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

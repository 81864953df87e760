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
from wsi.codecs import codec
from wsi.errors import DamagedSlideError, StoreError
from wsi.grid import SHARD_TILES, TASK_LEVELS, runs
from wsi.layout import FILL, shard_path
from wsi.plan import SlidePlan, cached_slide, read_tissue, slide_errors
from wsi.resample import area_average, halve, source_box
from wsi.shards import ShardFile, write_shard
from wsi.slide import DAMAGED_RGB, RGB
from wsi.units import YX, Box


@dataclass(slots=True)
class Receipt:
    """What a region's task did; small, and kept in the work folder so that a resumed run knows it, too."""

    region: YX
    n_tiles: int = 0
    bytes_written: int = 0
    damaged: list[tuple[int, int]] = field(default_factory=list)
    """Tiles (row, column) that hold pixels that could not be decoded."""
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU-bound time by step: read, scale, encode, write."""

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the block's time to a step."""
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


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
    try:
        for level in range(_task_levels(plan)):
            path = shard_path(plan.partial, level, *region)
            if receipt.n_tiles and plan.grid.has_shard(level, region):
                ShardFile(path, plan.grid.shard_tiles(level) ** 2)
    except (StoreError, OSError, ValueError):
        return None
    return receipt


def make_region(plan: SlidePlan, region: YX) -> Receipt:
    """Read, average, compress and write one region, unless a whole one is there already.

    Raises
    ------
    DamagedSlideError
        Pixels cannot be decoded and the options do not allow to skip them.
    """
    cv2.setNumThreads(1)
    finished = read_receipt(plan, region)
    if finished is not None:
        return finished
    receipt = Receipt(region)
    pixels, present = _first_level(plan, region, receipt)
    _further_levels(plan, region, receipt, pixels, present)
    write_text(receipt_path(plan, region), json.dumps(asdict(receipt)))
    return receipt


def _task_levels(plan: SlidePlan) -> int:
    return min(TASK_LEVELS, len(plan.grid.levels()))


def _first_level(plan: SlidePlan, region: YX, receipt: Receipt) -> tuple[RGB, NDArray[np.bool_]]:
    """Write the level-0 shard; return the region at half size and which of its chunks are there."""
    tile_px = plan.grid.tile_px
    tiles = plan.grid.region_tiles(region)
    wanted = read_tissue(plan)["wanted"][tiles.y0 : tiles.y1, tiles.x0 : tiles.x1]
    present = np.zeros((SHARD_TILES, SHARD_TILES), bool)
    present[: wanted.shape[0], : wanted.shape[1]] = wanted
    half = np.full((SHARD_TILES * tile_px // 2, SHARD_TILES * tile_px // 2, 3), FILL, np.uint8)
    encode = codec(plan.options.codec).encode
    chunks: dict[int, bytes] = {}
    for row in range(len(wanted)):
        for start, stop in runs(wanted[row]):
            strip = _read_strip(
                plan, Box(tiles.y0 + row, tiles.x0 + start, tiles.y0 + row + 1, tiles.x0 + stop), receipt
            )
            with receipt.timed("encode"):
                for column in range(start, stop):
                    tile = strip[:, (column - start) * tile_px : (column - start + 1) * tile_px]
                    chunks[row * SHARD_TILES + column] = encode(_planar(tile))
            with receipt.timed("scale"):
                y, x, side = row * tile_px // 2, start * tile_px // 2, tile_px // 2
                half[y : y + side, x : x + (stop - start) * side] = halve(strip)
    receipt.n_tiles = len(chunks)
    with receipt.timed("write"):
        receipt.bytes_written += write_shard(shard_path(plan.partial, 0, *region), chunks, SHARD_TILES**2)
    return half, present


def _read_strip(plan: SlidePlan, tiles: Box, receipt: Receipt) -> RGB:
    """Read one row of neighbouring tiles at the store's scale, uint8 (T, n * T, 3); note what is damaged."""
    side, factor = plan.grid.tile_px, plan.scaling.factor
    out = Box(*(edge * side for edge in tiles))
    source = source_box(out, factor)
    damaged: list[Box] | None = [] if plan.options.on_damage == "skip" else None
    with receipt.timed("read"), slide_errors(plan):
        pixels = cached_slide(plan.path, plan.reader).read(plan.scaling.level, source, damaged)
    with receipt.timed("scale"):
        strip = area_average(np.ascontiguousarray(pixels), YX(source.y0, source.x0), out, factor)
    for part in damaged or ():
        first, last = int(part.x0 / factor / side), int((part.x1 - 1) / factor / side)
        hit = range(max(first, tiles.x0), min(last + 1, tiles.x1))
        receipt.damaged += [(tiles.y0, column) for column in hit if (tiles.y0, column) not in receipt.damaged]
        for column in hit:
            strip = strip if strip.flags.writeable else strip.copy()
            strip[:, (column - tiles.x0) * side : (column - tiles.x0 + 1) * side] = DAMAGED_RGB
    return strip


def _further_levels(plan: SlidePlan, region: YX, receipt: Receipt, pixels: RGB, present: NDArray[np.bool_]) -> None:
    """Write the shards of levels 1 to 4 from the region at half size."""
    tile_px = plan.grid.tile_px
    encode = codec(plan.options.codec).encode
    for level in range(1, _task_levels(plan)):
        present = present[::2, ::2] | present[1::2, ::2] | present[::2, 1::2] | present[1::2, 1::2]
        if not plan.grid.has_shard(level, region):
            return
        side = plan.grid.shard_tiles(level)
        chunks: dict[int, bytes] = {}
        with receipt.timed("encode"):
            for row, column in np.argwhere(present):
                tile = pixels[row * tile_px : (row + 1) * tile_px, column * tile_px : (column + 1) * tile_px]
                chunks[int(row) * side + int(column)] = encode(_planar(tile))
        with receipt.timed("write"):
            receipt.bytes_written += write_shard(shard_path(plan.partial, level, *region), chunks, side**2)
        with receipt.timed("scale"):
            pixels = halve(pixels)


def _planar(tile: RGB) -> NDArray[np.uint8]:
    """Turn uint8 (T, T, 3) into (3, T, T)."""
    return np.stack(cv2.split(tile))


def raise_damage(plan: SlidePlan, receipts: list[Receipt]) -> None:
    """Raise `DamagedSlideError` where every tile of the slide is damaged: nothing is left to work with."""
    total, damaged = sum(r.n_tiles for r in receipts), sum(len(r.damaged) for r in receipts)
    if total and damaged == total:
        raise DamagedSlideError(f"{plan.path.name}: not one of its {total} tissue tiles can be decoded")

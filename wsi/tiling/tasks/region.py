"""One Dask task: one region of the slide becomes one whole shard on each of five levels."""

from collections.abc import Iterable
from itertools import pairwise

import cv2
import numpy as np

from wsi.arrays import RGB, Bools
from wsi.errors import DamagedSlideError, says_damage
from wsi.progress.step_times import StepTimes
from wsi.readers.tiles import DAMAGED_RGB, Tiles, damaged_tile
from wsi.scores.quality import tile_scores
from wsi.store.codecs import Jpeg
from wsi.store.grid import any_under, runs
from wsi.store.layout import FILL
from wsi.store.pyramid import LevelWriter
from wsi.tiling.plan import SlidePlan
from wsi.tiling.tasks.strips import PIECE_BYTES, read_strip
from wsi.tiling.work import Receipt
from wsi.units import YX

_SAMPLED_EVERY = 16
"""Of copied tiles, one in so many is decoded to see whether the slide is sharp."""
_JPEG = Jpeg()


def make_region(plan: SlidePlan, region: YX) -> None:
    """Read, average, compress and write one region, unless a whole one is there already.

    Each level is made of the finer one, but for level 0, made of the slide's pixels, and those that are copied.

    Raises
    ------
    DamagedSlideError
        Pixels cannot be decoded and the options do not allow to skip them.
    """
    cv2.setNumThreads(1)
    if plan.work.receipt(region) is not None:
        return
    receipt, times = Receipt(region), StepTimes()
    tissue = plan.work.tissue("wanted", "listed")
    present = plan.in_region(region, tissue["wanted"])
    levels = plan.task_levels(region)
    heads = [level for level in levels if level == 0 or plan.copies[level] is not None]
    for head, end in pairwise([*heads, levels.stop]):
        with plan.writing(range(head, end), times, region) as (writer, shards):
            if plan.copies[head] is None:
                make_tiles(plan, receipt, times, present, tissue["listed"], writer)
            else:
                _copy_tiles(plan, receipt, times, present, tissue["listed"], head, writer)
        receipt.wrote(shards)
    plan.work.write_receipt(receipt, times)


def make_tiles(
    plan: SlidePlan,
    receipt: Receipt,
    times: StepTimes,
    present: Iterable[Bools],
    scored: Bools | None,
    writer: LevelWriter,
) -> None:
    """Make level 0 of a region from the slide's pixels.

    Parameters
    ----------
    plan, receipt, times
        What it is a region of; what is noted of it.
    present
        For each row of the region which tiles are made, bool (16,); it is asked for when its turn has come.
    scored
        The tiles of the grid whose pixels are scored, bool (rows, columns); None: all that are made.
    """
    side, corner = plan.grid.tile_px, plan.grid.region_tiles(receipt.region)
    most = max(1, PIECE_BYTES // (3 * side**2))
    for row, columns in enumerate(present, corner.y0):
        for first, last in runs(columns):
            for start in range(corner.x0 + first, corner.x0 + last, most):
                stop = min(start + most, corner.x0 + last)
                strip, damaged = read_strip(plan, times, row, range(start, stop))
                for column in damaged:
                    receipt.damage((row, column))
                for column in range(start, stop):
                    pixels = strip[:, (column - start) * side : (column - start + 1) * side]
                    if scored is None or scored[row, column]:
                        _score(plan, receipt, times, YX(row, column), pixels)
                    writer.put(YX(row, column), pixels)


def _score(plan: SlidePlan, receipt: Receipt, times: StepTimes, tile: YX, pixels: RGB) -> None:
    with times.timed("score"):
        scores = tile_scores(pixels, plan.scaling.mpp)
    receipt.score(tile, scores)


def _copy_tiles(
    plan: SlidePlan,
    receipt: Receipt,
    times: StepTimes,
    present: Bools,
    listed: Bools,
    level: int,
    writer: LevelWriter,
) -> None:
    """Copy a level's JPEG tiles; decode them where a level is made of them, or for their scores if their turn has come.

    Parameters
    ----------
    present, listed
        The region's tiles on level 0, bool (16, 16); those of the grid that may be scored, bool (rows, columns).
    """
    source, slide = plan.copies[level], plan.slide()
    tiles = None if source is None else slide.tiles(source)
    assert tiles is not None
    present = any_under(present, plan.grid.factors()[level])
    every_one = plan.options.scores_every_tile
    side, end = plan.grid.shard_tiles(level), plan.grid.level_tiles(level)
    for row, column in np.argwhere(present).tolist():
        tile = YX(receipt.region.y * side + row, receipt.region.x * side + column)
        if tile.y >= end.y or tile.x >= end.x:
            continue  # halving may end just before it
        scored = level == 0 and bool(listed[tile]) and (every_one or _is_sampled(tile))
        with times.decoding(slide):
            data, pixels, damaged = copied_tile(plan, tiles, tile, writer, wanted=scored or writer.wants_pixels)
        if level == 0 and damaged:
            receipt.damage(tile)
        elif scored and pixels is not None:
            _score(plan, receipt, times, tile, pixels)
        writer.put_stored(tile, data, pixels)


def copied_tile(
    plan: SlidePlan, tiles: Tiles, tile: YX, writer: LevelWriter, *, wanted: bool
) -> tuple[bytes, RGB | None, bool]:
    """Return a copied tile's chunk, its pixels where they are wanted, and whether it is damaged: then it is painted.

    Raises
    ------
    DamagedSlideError
        It is damaged, and the options do not allow to skip that.
    """
    try:
        data = _chunk(tiles, tile)
        return data, writer.decoded(tile, data) if wanted else None, False
    except Exception as error:  # codecs raise nearly anything on damaged bytes
        data = _painted(plan, tiles, tile, error)
        return data, writer.decoded(tile, data), True


def _is_sampled(tile: YX) -> bool:
    """Tell whether a copied tile is decoded for its scores where not all of them are: a few, for the median."""
    return (tile.y * 5 + tile.x) % _SAMPLED_EVERY == 0


def _chunk(tiles: Tiles, tile: YX) -> bytes:
    """Return a copied tile's chunk; where the slide holds none, of its finer level at that place, or background."""
    index = tile.y * tiles.cut.grid.x + tile.x
    if file := tiles.file(index):
        return _JPEG.chunk(file)
    out = np.full((*tiles.cut.tile, 3), FILL, np.uint8)
    pixels = tiles.decode(index)
    if pixels is not None:
        out[: pixels.shape[0], : pixels.shape[1]] = pixels
    return _JPEG.encode(out)


def _painted(plan: SlidePlan, tiles: Tiles, tile: YX, error: Exception) -> bytes:
    """Return the chunk that stands for a damaged tile, or raise what is to be said of it."""
    if not says_damage(error):
        raise error
    if plan.options.on_damage == "skip":
        return _JPEG.encode(np.full((*tiles.cut.tile, 3), DAMAGED_RGB, np.uint8))
    if isinstance(error, DamagedSlideError):
        raise error
    raise damaged_tile(tiles.name, tiles.level, tile.y * tiles.cut.grid.x + tile.x, error) from None

"""The tasks of a slide that is decoded once: regions that find their own tiles, and what is done about them afterwards.

A region that kept far more tiles than the mask wants is trimmed, one that lacks any made anew. A few tiles too many are
left where they are: the tile list says which count.
"""

from collections.abc import Iterator
from typing import TypeGuard

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB, Bools
from wsi.progress.step_times import StepTimes
from wsi.store.grid import SHARD_TILES
from wsi.store.layout import shard_path
from wsi.store.shards import ShardFile
from wsi.tiling.opened import slide_errors
from wsi.tiling.overview import average_tiles
from wsi.tiling.plan import SlidePlan
from wsi.tiling.single_pass import may_hold_tissue, region_part
from wsi.tiling.tasks.region import make_region, make_tiles
from wsi.tiling.work import Receipt
from wsi.units import YX

_SPARE_SHARE, _SPARE_TILES = 0.25, 4
"""Tiles too many that are not worth writing a shard again: this part of the wanted ones, and this many."""


def make_region_once(plan: SlidePlan, region: YX) -> None:
    """Read one region of a slide that is decoded in one pass: its part of the overview, and all tiles of promise.

    Raises
    ------
    DamagedSlideError
        Pixels cannot be decoded and the options do not allow to skip them.
    """
    cv2.setNumThreads(1)
    if plan.work.receipt(region) is not None and plan.work.has_part(region):
        return
    receipt, times = Receipt(region), StepTimes()
    part = region_part(plan.overview, plan.scaling, plan.grid, region)
    rgb, damage = np.empty((*part.shape, 3), np.uint8), np.zeros(part.shape, np.uint8)
    rows = _promising(plan, times, region, rgb, damage)
    levels = plan.task_levels(region)
    with plan.writing(levels, times, region) as (writer, shards):
        make_tiles(plan, receipt, times, rows, None, writer)
    receipt.wrote(shards)
    plan.work.write_part(region, rgb, damage)
    plan.work.write_receipt(receipt, times)


def _promising(plan: SlidePlan, times: StepTimes, region: YX, rgb: RGB, damage: NDArray[np.uint8]) -> Iterator[Bools]:
    """Make a region's part of the overview strip by strip; give for each row of tiles which of them may hold tissue.

    The strip's pixels are still in the slide's cache when its rows of tiles are read.

    Parameters
    ----------
    rgb, damage
        The part, uint8 (h, w, 3) and uint8 (h, w), written in place.
    """
    once, factor = plan.single_pass, plan.overview.factor
    slide, part = plan.slide(), region_part(plan.overview, plan.scaling, plan.grid, region)
    tiles = plan.overview.tiles(slide)
    assert once is not None
    assert tiles is not None
    tile_o, strip_o = int(plan.grid.tile_px * plan.scaling.factor) // factor, once.strip // factor
    end = plan.grid.region_tiles(region).shape
    present = np.zeros((SHARD_TILES, SHARD_TILES), bool)
    for row in range(SHARD_TILES):
        start = row * tile_o
        is_last = start + strip_o == SHARD_TILES * tile_o
        o_rows = slice(start, None if is_last else start + strip_o)
        if start % strip_o == 0 and rgb[o_rows].size:
            with times.decoding(slide), slide_errors(plan.path):
                corner = YX(part.y0 + start, part.x0)
                average_tiles(tiles, factor, corner, rgb[o_rows], damage[o_rows], keep=True)
            plan.refuse_damage(damage[o_rows])
            found = may_hold_tissue(rgb[o_rows], damage[o_rows], once.background, tile_o)
            found |= plan.options.keep_background
            shape = (min(found.shape[0], end.y - row), min(found.shape[1], end.x))
            present[row : row + shape[0], : shape[1]] = found[: shape[0], : shape[1]]
        yield present[row]


def unsettled_regions(plan: SlidePlan) -> tuple[YX, ...]:
    """Return the regions whose tiles are not those that the mask wants, row by row."""
    wanted = plan.work.tissue("wanted")["wanted"]
    return tuple(r for r in plan.regions if not _is_settled(plan.work.receipt(r), plan.in_region(r, wanted)))


def _holds_all(receipt: Receipt | None, wanted: Bools) -> TypeGuard[Receipt]:
    return receipt is not None and set(np.flatnonzero(wanted).tolist()) <= set(receipt.kept)


def _is_settled(receipt: Receipt | None, wanted: Bools) -> bool:
    most = wanted.sum() * (1 + _SPARE_SHARE) + min(wanted.sum(), _SPARE_TILES)
    return _holds_all(receipt, wanted) and len(receipt.kept) <= most


def settle_region(plan: SlidePlan, region: YX) -> None:
    """Let a region hold the tiles that the mask wants.

    Raises
    ------
    DamagedSlideError
        Pixels cannot be decoded and the options do not allow to skip them.
    """
    receipt = plan.work.receipt(region)
    wanted = plan.in_region(region, plan.work.tissue("wanted")["wanted"])
    if _is_settled(receipt, wanted):
        return
    plan.work.forget(region)
    if _holds_all(receipt, wanted):
        _trim(plan, receipt, wanted)
    else:
        make_region(plan, region)


def _trim(plan: SlidePlan, receipt: Receipt, wanted: Bools) -> None:
    """Keep the wanted chunks of level 0 as they are, and make the coarser levels of what is left."""
    shard = ShardFile(shard_path(plan.partial, 0, *receipt.region), SHARD_TILES**2)
    corner, times = plan.grid.region_tiles(receipt.region), StepTimes()
    receipt.bytes_written, receipt.shards = 0, []
    levels = plan.task_levels(receipt.region)
    with plan.writing(levels, times, receipt.region) as (writer, shards):
        for place in np.flatnonzero(wanted).tolist():
            tile, data = YX(corner.y0 + place // SHARD_TILES, corner.x0 + place % SHARD_TILES), shard.chunk(place)
            assert data is not None
            writer.put_stored(tile, data, writer.decoded(tile, data))
    receipt.wrote(shards)
    plan.work.write_receipt(receipt, times)

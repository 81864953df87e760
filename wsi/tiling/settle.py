"""After a single pass: a region that kept far more tiles than the mask wants is trimmed, one that lacks any made anew.

A few tiles too many are left where they are: the tile list says which count.
"""

import numpy as np
from numpy.typing import NDArray

from wsi.files.replace import discard
from wsi.store.grid import SHARD_TILES
from wsi.store.layout import shard_path
from wsi.store.shards import ShardFile
from wsi.tiling.plan import SlidePlan, read_tissue
from wsi.tiling.region import (
    Receipt,
    in_region,
    make_region,
    read_receipt,
    receipt_path,
    region_writer,
    task_levels,
    write_receipt,
)
from wsi.units import YX

_SPARE_SHARE, _SPARE_TILES = 0.25, 4
"""Tiles too many that are not worth writing a shard again: this part of the wanted ones, and this many."""


def unsettled_regions(plan: SlidePlan) -> tuple[YX, ...]:
    """Return the regions whose tiles are not those that the mask wants, row by row."""
    wanted = read_tissue(plan, "wanted")["wanted"]
    everywhere = (YX(y, x) for y in range(plan.grid.regions.y) for x in range(plan.grid.regions.x))
    return tuple(r for r in everywhere if not _is_settled(read_receipt(plan, r), in_region(plan, r, wanted)))


def _is_settled(receipt: Receipt | None, wanted: NDArray[np.bool_]) -> bool:
    places = np.flatnonzero(wanted)
    enough = receipt is not None and set(places.tolist()) <= set(receipt.kept)
    if not enough or receipt is None:
        return False
    return len(receipt.kept) <= len(places) * (1 + _SPARE_SHARE) + min(len(places), _SPARE_TILES)


def settle_region(plan: SlidePlan, region: YX) -> None:
    """Let a region hold the tiles that the mask wants.

    Raises
    ------
    DamagedSlideError
        Pixels cannot be decoded and the options do not allow to skip them.
    """
    receipt = read_receipt(plan, region)
    wanted = in_region(plan, region, read_tissue(plan, "wanted")["wanted"])
    if _is_settled(receipt, wanted):
        return
    discard(receipt_path(plan, region))  # a run that is killed from here on makes the region anew
    if receipt is not None and set(np.flatnonzero(wanted).tolist()) <= set(receipt.kept):
        _trim(plan, receipt, wanted)
    else:
        make_region(plan, region)


def _trim(plan: SlidePlan, receipt: Receipt, wanted: NDArray[np.bool_]) -> None:
    """Keep the wanted chunks of level 0 as they are, and make the coarser levels of what is left."""
    shard = ShardFile(shard_path(plan.partial, 0, *receipt.region), SHARD_TILES**2)
    corner = plan.grid.region_tiles(receipt.region)
    receipt.bytes_written, receipt.shards = 0, []
    with region_writer(plan, receipt, range(len(task_levels(plan, receipt.region)))) as writer:
        for place in np.flatnonzero(wanted).tolist():
            row, column = divmod(place, SHARD_TILES)
            tile, data = YX(corner.y0 + row, corner.x0 + column), shard.chunk(place)
            assert data is not None
            writer.put_stored(tile, data, writer.decoded(tile, data))
    write_receipt(plan, receipt)

"""Which chunks a store holds, and how many bytes each takes: told by the shards' indexes alone, nothing is decoded."""

from itertools import product

import numpy as np

from wsi.arrays import Ints
from wsi.machine.ordered import ordered
from wsi.store.layout import shard_key
from wsi.store.shards import ABSENT
from wsi.store.tile_store import TileStore
from wsi.units import ceil_div

_REQUESTS = 16
"""Indexes asked for side by side: from an object store each takes some 30 ms."""


def chunk_sizes(store: TileStore, level: int) -> Ints:
    """Return the compressed size of each chunk of a level, int64 (rows, columns) in bytes; 0 where it is absent.

    Raises
    ------
    StoreError
        A shard's index is damaged.
    """
    side, tiles = store.grid.shard_tiles(level), store.grid.level_tiles(level)
    shards = list(product(range(ceil_div(tiles.y, side)), range(ceil_div(tiles.x, side))))
    sizes = np.zeros((ceil_div(tiles.y, side) * side, ceil_div(tiles.x, side) * side), np.int64)
    indexes = ordered(lambda yx: store.folder.index(shard_key(level, *yx), side**2), shards, _REQUESTS)
    for (row, column), index in zip(shards, indexes, strict=True):
        if index is not None:
            held = np.where(index[:, 0] == ABSENT, 0, index[:, 1]).astype(np.int64).reshape(side, side)
            sizes[row * side : (row + 1) * side, column * side : (column + 1) * side] = held
    return sizes[: tiles.y, : tiles.x]

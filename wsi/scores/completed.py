"""Scores of a finished store's tiles that tiling left out: copied JPEG tiles are not decoded for them."""

import numpy as np
from numpy.typing import NDArray

from wsi.scores.quality import TILE_SCORES, tile_scores
from wsi.store.tile_store import TileStore

_BATCH = 64


def completed_score(store: TileStore, name: str) -> NDArray[np.float32] | None:
    """Return a score of every listed tile, float32 (n,); what the store lacks is made from its pixels.

    None where the store lacks a score that its tiles' pixels do not tell.

    Raises
    ------
    StoreError
        Tiles cannot be read.
    """
    stored = store.scores.get(name)
    known = np.full(store.n_tiles, np.nan, np.float32) if stored is None else stored.copy()
    lacking = np.flatnonzero(np.isnan(known))
    if not lacking.size:
        return known
    if name not in TILE_SCORES:
        return None
    for start in range(0, lacking.size, _BATCH):
        rows = lacking[start : start + _BATCH]
        for row, tile in zip(rows, store.read_tiles(rows), strict=True):
            known[row] = round(tile_scores(np.ascontiguousarray(tile.transpose(1, 2, 0)), store.mpp)[name], 6)
    return known

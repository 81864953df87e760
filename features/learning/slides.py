"""Slides whose tiles are trained on, and their tiles read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.learning.batches import Draw
from wsi.arrays import Ints
from wsi.errors import RequestError, StoreError
from wsi.store.tile_store import TileStore

SCALE_TOLERANCE = 0.03
"""Relative difference of um/px between stores that is taken for the same scale."""


@dataclass(frozen=True, slots=True)
class Slide:
    """A slide whose tiles are used."""

    image_id: str
    patient_id: str
    label: int
    """Class number; -1: none is known, or needed."""
    store: Path | str
    tiles: Ints
    """Positions in the store's tile list that may be drawn, ascending."""
    center_id: str = ""


class TileReader:
    """Reads tiles of many slides; each store is opened once."""

    def __init__(self, slides: Sequence[Slide], tile_px: int) -> None:
        self._slides, self._tile_px = slides, tile_px
        self._stores: dict[Path | str, TileStore] = {}

    def pixels(self, draw: Draw, rows: Ints) -> NDArray[np.uint8]:
        """Return uint8 (n, 3, T, T) of rows of the draw."""
        out = np.empty((len(rows), 3, self._tile_px, self._tile_px), np.uint8)
        numbers = draw.slides[rows]
        for number in np.unique(numbers).tolist():
            at = np.flatnonzero(numbers == number)
            out[at] = self._store(self._slides[number].store).read_tiles(draw.tiles[rows[at]])
        return out

    def _store(self, path: Path | str) -> TileStore:
        return self._stores.setdefault(path, TileStore(path))


def listed_tiles(store: TileStore) -> Ints:
    """Return the positions of a store's tiles; `StoreError` where its list is not whole."""
    everything = np.arange(len(store.tiles_yx))
    if len(everything) != store.n_tiles:
        raise StoreError(f"{store.path}: expected {store.n_tiles} listed tiles, found {len(everything)}")
    return everything


def one_scale(stores: Sequence[TileStore]) -> int:
    """Return the tile size that all stores share; refuse stores of different sizes or scales."""
    first = stores[0]
    for store in stores:
        if store.tile_px != first.tile_px or abs(store.mpp / first.mpp - 1) > SCALE_TOLERANCE:
            raise RequestError(
                f"expected stores of one tile size and scale, found {first.image_id} with {first.tile_px} px at "
                f"{first.mpp:g} um/px and {store.image_id} with {store.tile_px} px at {store.mpp:g}: tile them alike"
            )
    return first.tile_px

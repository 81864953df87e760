"""The tiles of one or many stores as a PyTorch `Dataset`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from wsi.errors import RequestError
from wsi.store.folder import Location
from wsi.store.tile_store import TileStore, find_stores

Transform = Callable[[Tensor], Any]
"""From a uint8 tile (3, T, T) to whatever the model wants."""


class Tile(NamedTuple):
    """One tile as `TileDataset` gives it; the default collation of a `DataLoader` stacks each field."""

    pixels: Any
    """uint8 (3, T, T), or what the transform made of it."""
    image_id: str
    """The slide's."""
    row: int
    """Position in the store's tile list, which is the row of a bag that was extracted from all tiles."""


class TileDataset(Dataset[Tile]):
    """The listed tiles of stores, one store after the other, in the order of their tile lists.

    Map-style, picklable; each worker opens the stores by itself. A `DataLoader` reads a whole batch in one go
    (``__getitems__``): batches of neighbours are quickest, shuffled ones cost no more than their tiles. For some of the
    tiles only, `torch.utils.data.Subset`; which those are, `where` and `TileStore.tile_table` tell.

    Parameters
    ----------
    stores
        A store, or several: open, or by path or URL; folders are searched for ``*.zarr``.
    transform
        Called with each tile, a uint8 tensor (3, T, T); None: it is given as it is.
    threads
        Tiles decoded at once in each worker.

    Raises
    ------
    RequestError
        No store is found, or their tiles differ in size.
    StoreError
        A store cannot be read; the message names it.
    """

    def __init__(
        self,
        stores: TileStore | Location | Sequence[TileStore | Location],
        transform: Transform | None = None,
        threads: int = 1,
    ) -> None:
        given = [stores] if isinstance(stores, TileStore | Location) else list(stores)
        self.stores: tuple[TileStore, ...] = tuple(own for place in given for own in _opened(place))
        if not self.stores:
            raise RequestError("expected at least one tile store or folder of stores, found none")
        self.transform, self._threads = transform, threads
        self.tile_px = _side_of(self.stores)
        self._stops = np.cumsum([len(store) for store in self.stores])

    def __len__(self) -> int:
        return int(self._stops[-1])

    def where(self, index: int) -> tuple[TileStore, int]:
        """Return the store of a tile and its row there; negative indices count from the end."""
        (store,), (row,) = self._places([index])
        return self.stores[store], int(row)

    def _places(self, indices: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of each tile's store, and its row there."""
        index = np.asarray(indices, np.int64)
        index = np.where(index < 0, index + len(self), index)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"expected tiles 0 to {len(self) - 1}, found {min(indices)} to {max(indices)}")
        store = np.searchsorted(self._stops, index, side="right")
        return store, index - np.concatenate([[0], self._stops])[store]

    def __getitem__(self, index: int) -> Tile:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tile]:
        """Return tiles in the given order; each store is read once."""
        store_B, row_B = self._places(indices)
        pixels = torch.empty((len(indices), 3, self.tile_px, self.tile_px), dtype=torch.uint8)
        block = pixels.numpy()
        for number in np.unique(store_B).tolist():
            own = np.flatnonzero(store_B == number)
            if len(own) == len(indices):
                self.stores[number].read_tiles(row_B, self._threads, out=block)
            else:
                block[own] = self.stores[number].read_tiles(row_B[own], self._threads)
        shown = pixels if self.transform is None else [self.transform(tile) for tile in pixels]
        ids = [self.stores[number].image_id for number in store_B.tolist()]
        return [Tile(*own) for own in zip(shown, ids, row_B.tolist(), strict=True)]


def _opened(place: TileStore | Location) -> Sequence[TileStore]:
    return [place] if isinstance(place, TileStore) else find_stores([place])


def _side_of(stores: Sequence[TileStore]) -> int:
    first = stores[0]
    for store in stores:
        if store.tile_px != first.tile_px:
            raise RequestError(
                f"tiles of {first.tile_px} px in {first.path}, of {store.tile_px} px in {store.path}: give stores of "
                "one tile size"
            )
    return first.tile_px

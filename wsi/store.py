"""The tile store, read: what stands in it, its tile list, and its tiles straight from the shards."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.atomic import PARTIAL
from wsi.codecs import ChunkCodec, codec
from wsi.errors import RequestError, StoreError
from wsi.grid import Grid
from wsi.layout import FILL, FORMAT_VERSION, SUFFIX, shard_path
from wsi.shards import ShardFile
from wsi.slide import RGB
from wsi.units import YX

_OPEN_SHARDS = 64


class TileStore:
    """A finished tile store.

    Picklable: it holds the path and opens the rest when asked. Every attribute but the path and the id raises
    `StoreError` where the store is missing, unfinished or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._shards: dict[tuple[int, int], ShardFile | None] = {}

    def __reduce__(self) -> tuple[type["TileStore"], tuple[Path]]:
        return TileStore, (self.path,)

    @cached_property
    def _meta(self) -> dict[str, Any]:
        return _read_meta(self.path)

    @property
    def image_id(self) -> str:
        """The slide's id, which names the store."""
        return self.path.name.removesuffix(SUFFIX)

    @property
    def tile_px(self) -> int:
        """Side of a tile in store pixels."""
        return int(self._meta["tile_px"])

    @property
    def mpp(self) -> float:
        """um/px of the store's level 0."""
        return float(self._meta["mpp"])

    @property
    def l0_px_per_px(self) -> float:
        """Level-0 pixels of the slide per pixel of the store's level 0; 1.0 where nothing was rescaled."""
        return float(self._meta["l0_px_per_px"])

    @property
    def slide_shape_yx(self) -> YX:
        """Level-0 pixels of the slide."""
        return YX(*self._meta["slide_shape_yx"])

    @property
    def shape_yx(self) -> YX:
        """Pixels of the store's level 0."""
        return YX(*self._meta["shape_yx"])

    @property
    def grid(self) -> Grid:
        """Geometry of the tiles."""
        return Grid(self.shape_yx, self.tile_px)

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that shaped the store."""
        return dict(self._meta["recipe"])

    @property
    def recipe_hash(self) -> str:
        """sha256 of the recipe."""
        return str(self._meta["recipe_hash"])

    @property
    def provenance(self) -> dict[str, Any]:
        """Reader, versions, where the um/px came from, notes and warnings."""
        return dict(self._meta["provenance"])

    @cached_property
    def tiles_yx(self) -> NDArray[np.int32]:
        """Tile list, int32 (n, 2): row and column, sorted by row, then column."""
        return self._column("yx", np.int32)

    @cached_property
    def tissue(self) -> NDArray[np.float32]:
        """Share of tissue of each listed tile, float32 (n,)."""
        return self._column("tissue", np.float32)

    @cached_property
    def scores(self) -> dict[str, NDArray[np.float32]]:
        """Further per-tile scores by name, float32 (n,)."""
        return {name: self._column(name, np.float32) for name in self._meta["scores"]}

    @property
    def n_tiles(self) -> int:
        """Number of listed tiles; may be 0."""
        return int(self._meta["n_tiles"])

    def coords_l0_yx(self) -> NDArray[np.int64]:
        """Return the top-left corner of each listed tile in level-0 pixels of the slide, int64 (n, 2)."""
        return np.rint(self.tiles_yx * (self.tile_px * self.l0_px_per_px)).astype(np.int64)

    def read_tiles(self, indices: NDArray[np.integer[Any]] | Sequence[int], threads: int = 1) -> NDArray[np.uint8]:
        """Read listed tiles straight from the shards.

        Parameters
        ----------
        indices
            Positions in the tile list.
        threads
            Tiles decoded at once; decoding does not hold the interpreter lock.

        Returns
        -------
        uint8 (n, 3, T, T)

        Raises
        ------
        StoreError
            A shard is missing or damaged; the message names it.
        """
        places = self.tiles_yx[np.asarray(indices, np.int64)]
        out = np.empty((len(places), 3, self.tile_px, self.tile_px), np.uint8)

        def fill(i: int) -> None:
            out[i] = self._tile(int(places[i, 0]), int(places[i, 1]))

        if threads <= 1 or len(places) < 2:
            for i in range(len(places)):
                fill(i)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill, range(len(places))))
        return out

    def _tile(self, row: int, column: int) -> NDArray[np.uint8]:
        side = self.grid.shard_tiles(0)
        shard = self._shard(row // side, column // side)
        data = shard.chunk(row % side * side + column % side) if shard else None
        if data is None:
            raise StoreError(f"{self.path}: listed tile ({row}, {column}) is not in the store: tile the slide again")
        try:
            return self._codec.decode(data, self.tile_px)
        except Exception as error:  # codecs raise nearly anything on damaged bytes
            raise StoreError(
                f"{self.path}: tile ({row}, {column}) is damaged ({error}): tile the slide again"
            ) from None

    @property
    def _codec(self) -> ChunkCodec:
        return codec(str(self._meta["codec"]))

    def _shard(self, row: int, column: int) -> ShardFile | None:
        key = (row, column)
        if key not in self._shards:
            if len(self._shards) >= _OPEN_SHARDS:
                self._shards.clear()
            path = shard_path(self.path, 0, row, column)
            try:
                self._shards[key] = ShardFile(path, self.grid.shard_tiles(0) ** 2)
            except FileNotFoundError:
                self._shards[key] = None
            except (OSError, ValueError) as error:
                raise StoreError(f"{path}: cannot be read: {error}") from None
        return self._shards[key]

    def read_level(self, level: int) -> NDArray[np.uint8]:
        """Return a whole level, uint8 (3, h, w); for the small ones."""
        import zarr

        array = zarr.open_array(self.path / str(level), mode="r")
        return np.asarray(array[:], np.uint8)

    def overview(self, max_px: int = 2048) -> RGB:
        """Return the largest level of at most ``max_px`` a side, uint8 (h, w, 3); white where nothing is stored."""
        levels = self.grid.levels()
        fitting = [i for i, shape in enumerate(levels) if max(shape) <= max_px]
        return np.ascontiguousarray(self.read_level(fitting[0] if fitting else len(levels) - 1).transpose(1, 2, 0))

    def tissue_mask(self) -> tuple[NDArray[np.uint8], float]:
        """Return the tissue mask, uint8 (h, w) of 0 and 1, and its um/px."""
        import zarr

        array = zarr.open_array(self.path / "labels" / "tissue" / "0", mode="r")
        return np.asarray(array[:], np.uint8), float(self._meta["mask_mpp"])

    def _column(self, name: str, dtype: type[np.generic]) -> NDArray[Any]:
        import zarr

        try:
            return np.asarray(zarr.open_array(self.path / "tiles" / name, mode="r")[:], dtype)
        except Exception as error:  # zarr-python raises nearly anything on damaged files
            raise StoreError(f"{self.path}: tiles/{name} cannot be read ({error}): tile the slide again") from None


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        document = json.loads((path / "zarr.json").read_text("utf-8"))
        meta = document["attributes"]["gigamil"]
    except FileNotFoundError:
        raise StoreError(
            f"{path} is not a tile store: expected a folder with a zarr.json, made by `gigamil tile`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}/zarr.json cannot be read as a tile store's ({type(error).__name__}: {error})"
        ) from None
    if meta.get("format") != FORMAT_VERSION:
        raise StoreError(f"{path}: store format {meta.get('format')}, expected {FORMAT_VERSION}: tile the slide again")
    if not meta.get("complete"):
        raise StoreError(f"{path} is not finished: run `gigamil tile` again")
    return dict(meta)


def find_stores(paths: Sequence[Path]) -> list[TileStore]:
    """Open the stores at the paths; folders are searched one level deep for ``*.zarr``. Sorted by image id.

    Raises
    ------
    RequestError
        A path is missing or holds no store, or two stores have one image id.
    """
    found: list[Path] = []
    for path in paths:
        if path.suffix == SUFFIX:
            found.append(path)
            continue
        inside = sorted(p for p in path.glob(f"*{SUFFIX}") if not p.name.endswith(PARTIAL)) if path.is_dir() else []
        if not inside:
            raise RequestError(f"{path}: expected a tile store or a folder of *{SUFFIX}, found none")
        found += inside
    stores = sorted((TileStore(path) for path in dict.fromkeys(found)), key=lambda store: store.image_id)
    for one, two in pairwise(stores):
        if one.image_id == two.image_id:
            raise RequestError(f"image_id {one.image_id} stands in both {one.path} and {two.path}: give one of them")
    return stores


def blank_tile(tile_px: int) -> NDArray[np.uint8]:
    """Return the chunk that stands for "not stored", uint8 (3, T, T)."""
    return np.full((3, tile_px, tile_px), FILL, np.uint8)

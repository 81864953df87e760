"""The tile store, read: what stands in it, its tile list, and its tiles straight from the shards."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB, Bools, Ints
from wsi.errors import RequestError, StoreError, masked, one_line, says_damage
from wsi.files.atomic import PARTIAL
from wsi.pixels.channels import smallest
from wsi.progress.stalls import moved
from wsi.store.codecs import ChunkCodec, codec
from wsi.store.folder import Location, Options
from wsi.store.grid import Grid
from wsi.store.layout import FILL, ICC_KEY, SUFFIX, shard_key
from wsi.store.metadata import parse_metadata, stored_grid
from wsi.store.storage import locate, open_folder
from wsi.units import YX

if TYPE_CHECKING:
    from pandas import DataFrame

_MOST_BYTES = 2 << 30
"""Of an array that is read whole."""
_BLOCK = 256
"""Chunks fetched together: bounds the maps held and, from an object store, the compressed bytes in memory."""
_ITERATED = 64
"""Tiles read at once while iterating: one chunk's time of an object store is shared, and memory stays small."""


class TileStore:
    """A finished tile store, on this machine or behind a URL (``s3://bucket/a.zarr``).

    Picklable, and safe across fork: it holds the location and opens the rest when asked. Every attribute but the path
    and the id raises `StoreError` where the store is missing, unfinished or damaged.

    Parameters
    ----------
    path
        Of the store, or its URL.
    storage_options
        What the URL's file system wants beside it, as fsspec names it (for S3: key, secret, endpoint_url, anon).
        Without it, credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
    """

    def __init__(self, path: Location, storage_options: Options | None = None) -> None:
        self.path: Location = locate(path)
        self._options = storage_options
        self.folder = open_folder(self.path, storage_options)

    def __reduce__(self) -> tuple[type["TileStore"], tuple[Location, Options | None]]:
        return TileStore, (self.path, self._options)

    def __repr__(self) -> str:
        return f"TileStore({masked(str(self.path))!r})"

    @cached_property
    def _meta(self) -> dict[str, Any]:
        (text,) = self.folder.read(["zarr.json"])
        if text is None:
            what = "is not a tile store: expected a folder with a zarr.json, made by `gigamil tile`"
            raise StoreError(f"{self.path} {what}")
        return parse_metadata(text, str(self.path))

    @property
    def meta(self) -> dict[str, Any]:
        """Our own attributes of the store's root, as stored."""
        return self._meta

    @property
    def image_id(self) -> str:
        """The slide's id, which names the store."""
        return str(self.path).rsplit("/", 1)[-1].removesuffix(SUFFIX)

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
        return stored_grid(self._meta)

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

    @property
    def icc_profile(self) -> bytes:
        """The slide's ICC profile; empty where it has none. ``meta["icc"]["applied"]``: the pixels are sRGB already."""
        told = self._meta.get("icc")
        if not isinstance(told, dict):
            return b""
        data = self.folder.read([ICC_KEY])[0] or b""
        if hashlib.sha256(data).hexdigest() != told.get("sha256"):
            raise StoreError(f"{self.path}: its ICC profile is missing or changed: tile the slide again")
        return data

    @cached_property
    def tiles_yx(self) -> NDArray[np.int32]:
        """Tile list, int32 (n, 2): row and column, sorted by row, then column."""
        return self._column("yx", np.int32, (self.n_tiles, 2))

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

    def __len__(self) -> int:
        return self.n_tiles

    def __bool__(self) -> bool:
        return True  # a store without tiles is a store

    def __getitem__(self, index: int) -> RGB:
        """Return one listed tile, uint8 (T, T, 3); negative indices count from the end."""
        return self.read_tiles([range(len(self))[index]])[0].transpose(1, 2, 0)

    def __iter__(self) -> Iterator[RGB]:
        """Yield the listed tiles in the list's order, uint8 (T, T, 3) each; they are read in blocks."""
        for start in range(0, len(self), _ITERATED):
            yield from self.read_tiles(range(start, min(start + _ITERATED, len(self)))).transpose(0, 2, 3, 1)

    def tile_table(self) -> "DataFrame":
        """Return the tile list as a table: row, column, l0_y and l0_x (level-0 pixels of the slide), and each score."""
        from pandas import DataFrame

        places = np.concatenate([self.tiles_yx, self.coords_l0_yx()], axis=1)
        table = DataFrame(places, columns=["row", "column", "l0_y", "l0_x"])
        return table.assign(tissue=self.tissue, **self.scores)

    def coords_l0_yx(self) -> Ints:
        """Return the top-left corner of each listed tile in level-0 pixels of the slide, int64 (n, 2)."""
        return np.rint(self.tiles_yx * (self.tile_px * self.l0_px_per_px)).astype(np.int64)

    @property
    def codec_names(self) -> tuple[str, ...]:
        """Name of each level's codec."""
        return tuple(self._meta.get("codecs") or [self._meta["codec"]] * len(self.grid.levels()))

    def codec_of(self, level: int) -> ChunkCodec:
        """Return the codec of that level's chunks; levels may differ (JPEG tiles copied from the slide)."""
        return codec(self.codec_names[level], checked=self.is_checked)

    @property
    def is_checked(self) -> bool:
        """Whether JPEG chunks carry checksums; those of earlier versions do not."""
        return bool(self._meta.get("jpeg_checksum"))

    def read_tiles(
        self,
        indices: NDArray[np.integer[Any]] | Sequence[int],
        threads: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Read listed tiles straight from the shards.

        Parameters
        ----------
        indices
            Positions in the tile list, in any order.
        threads
            Tiles decoded at once; decoding does not hold the interpreter lock.
        out
            Where to put them, contiguous uint8 (n, 3, T, T); made when not given.

        Returns
        -------
        uint8 (n, 3, T, T), which is ``out`` where that was given

        Raises
        ------
        StoreError
            A shard is missing or damaged; the message names it.
        """
        places = self.tiles_yx[np.asarray(indices, np.int64)]
        shape = (len(places), 3, self.tile_px, self.tile_px)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise RequestError(f"out: expected contiguous uint8 {shape}, found {out.dtype} {out.shape}")
        missing = np.flatnonzero(~self.read_chunks(0, places, out, threads))
        if len(missing):
            row, column = places[missing[0]].tolist()
            raise StoreError(f"{self.path}: listed tile ({row}, {column}) is not in the store: tile the slide again")
        return out

    def read_chunks(
        self, level: int, places: NDArray[np.integer[Any]], out: NDArray[np.uint8], threads: int = 1
    ) -> Bools:
        """Read chunks of any level into ``out``, contiguous uint8 (n, 3, T, T).

        Parameters
        ----------
        places
            (n, 2) row and column of each chunk in its level.

        Returns
        -------
        bool (n,): which of them are stored; what is not leaves ``out`` as it was. Beyond the slide is white, whatever
        a scanner's copied tile holds there.
        """
        there = np.zeros(len(places), bool)
        side = self.grid.shard_tiles(level)
        row, column = np.asarray(places, np.int64).reshape(-1, 2).T
        shard_y, shard_x, inner = row // side, column // side, row % side * side + column % side
        order = np.lexsort((inner, shard_x, shard_y))
        keys = {yx: shard_key(level, *yx) for yx in set(zip(shard_y.tolist(), shard_x.tolist(), strict=True))}
        for start in range(0, len(order), _BLOCK):
            block = order[start : start + _BLOCK]
            shards = zip(shard_y[block].tolist(), shard_x[block].tolist(), strict=True)
            wanted = [(keys[yx], place) for yx, place in zip(shards, inner[block].tolist(), strict=True)]
            found = self.folder.chunks(wanted, side**2)
            held = [(i, data) for i, data in zip(block.tolist(), found, strict=True) if data is not None]
            there[[i for i, _ in held]] = True
            self._decode(level, places, held, out, threads)
        return there

    def _decode(
        self, level: int, places: NDArray[Any], held: list[tuple[int, Any]], out: NDArray[np.uint8], threads: int
    ) -> None:
        decode_into = self.codec_of(level).decode_into
        height, width = self.grid.levels()[level]

        def fill(part: Iterable[tuple[int, Any]]) -> None:
            for i, data in part:
                moved()
                try:
                    decode_into(data, out[i])
                except Exception as error:  # codecs raise nearly anything on damaged bytes
                    if not says_damage(error):
                        raise
                    what = f"tile ({places[i][0]}, {places[i][1]})" + (f" of level {level}" if level else "")
                    raise StoreError(f"{self.path}: {what} is damaged ({error}): tile the slide again") from None
                row, column = places[i]
                out[i, :, max(0, height - int(row) * self.tile_px) :] = FILL
                out[i, :, :, max(0, width - int(column) * self.tile_px) :] = FILL

        if threads <= 1 or len(held) < 2:
            fill(held)
            return
        remaining = iter(held)  # one iterator for all: whoever is free takes the next
        futures = [_pool(threads, os.getpid()).submit(fill, remaining) for _ in range(threads - 1)]
        try:
            fill(remaining)
        finally:
            wait(futures)  # all of them, as they write into the caller's buffer
        for future in futures:
            future.result()

    def read_level(self, level: int) -> NDArray[np.uint8]:
        """Return a whole level, uint8 (3, h, w); for the small ones."""
        return self._picture(str(level), self.grid.levels()[level])

    def overview(self, max_px: int = 2048) -> RGB:
        """Return a picture of the whole slide, uint8 (h, w, 3): the largest level of at most ``max_px`` a side.

        Where no tile is stored, the coarser overview that was made of the slide shows its background.
        """
        levels = self.grid.levels()
        level = next((i for i, shape in enumerate(levels) if max(shape) <= max_px), len(levels) - 1)
        picture = np.ascontiguousarray(self.read_level(level).transpose(1, 2, 0))
        behind = self._picture("overview/0").transpose(1, 2, 0)
        scale = float(self._meta["mask_mpp"]) / (self.mpp * self.grid.factors()[level])
        size = (max(1, round(behind.shape[1] * scale)), max(1, round(behind.shape[0] * scale)))
        shown = cv2.resize(np.ascontiguousarray(behind), size, interpolation=cv2.INTER_LINEAR)
        missing = [(0, max(0, a - b)) for a, b in zip(picture.shape[:2], shown.shape[:2], strict=True)]
        shown = np.pad(shown, (*missing, (0, 0)), mode="edge")[: picture.shape[0], : picture.shape[1]]
        absent = smallest(picture) == FILL
        picture[absent] = shown[absent]
        return picture

    def overview_sha256(self) -> str:
        """Return the hash (hex) of the whole slide's small picture: the same slide filed twice has the same."""
        pixels = np.ascontiguousarray(self._picture("overview/0"))
        return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()

    def tissue_mask(self) -> tuple[NDArray[np.uint8], float]:
        """Return the tissue mask, uint8 (h, w) of 0 and 1, and its um/px."""
        return self.read_array("labels/tissue/0").astype(np.uint8, copy=False), float(self._meta["mask_mpp"])

    def read_array(self, key: str) -> NDArray[Any]:
        """Return a small array of the store, whole, through zarr-python: (3, h, w), (h, w), (n,) or (n, 2)."""
        try:
            array = self.folder.array(key)
            if array.nbytes > _MOST_BYTES:
                raise StoreError(f"{self.path}: {key} declares {array.shape}, which is no small array")
            return np.asarray(array[...])
        except StoreError as error:
            raise StoreError(f"{error}: tile the slide again") from None
        except Exception as error:  # zarr-python raises nearly anything on damaged files
            if not says_damage(error):
                raise
            told = one_line(error, 200)
            raise StoreError(f"{self.path}: {key} cannot be read ({told}): tile the slide again") from None

    def _picture(self, key: str, shape: YX | None = None) -> NDArray[np.uint8]:
        """Return an array of colours, (3, h, w); `StoreError` where it is none, or has another shape than this."""
        pixels = self.read_array(key)
        if pixels.ndim != 3 or len(pixels) != 3 or pixels.dtype != np.uint8 or shape not in {None, pixels.shape[1:]}:
            wanted = f" of {shape.y} x {shape.x} px" if shape else ""
            raise StoreError(
                f"{self.path}: {key}: expected three colours{wanted}, found {pixels.dtype} {pixels.shape}: "
                "tile the slide again"
            )
        return pixels

    def _column(self, name: str, dtype: type[np.generic], shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Return a column of the tile list of the shape that it must have: one value per listed tile."""
        values = self.read_array(f"tiles/{name}")
        shape = shape or (self.n_tiles,)
        if values.shape != shape or values.dtype.kind not in "iuf":
            raise StoreError(
                f"{self.path}: tiles/{name}: expected numbers of shape {shape}, found {values.dtype} {values.shape}: "
                "tile the slide again"
            )
        return values.astype(dtype, copy=False)


@lru_cache(maxsize=4)
def _pool(threads: int, _process: int) -> ThreadPoolExecutor:
    """Return the process's decoding threads; a forked child makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="wsi-decode")


def find_stores(paths: Sequence[Location], storage_options: Options | None = None) -> list[TileStore]:
    """Open the stores at the paths or URLs; folders are searched one level deep for ``*.zarr``. Sorted by image id.

    Raises
    ------
    RequestError
        A path is missing or holds no store, or two stores have one image id.
    StoreError
        A URL cannot be listed.
    """
    found: list[Location] = []
    for place in map(locate, paths):
        inside = [place] if str(place).endswith(SUFFIX) else _stores_in(place, storage_options)
        if not inside:
            raise RequestError(f"{place}: expected a tile store or a folder of *{SUFFIX}, found none")
        found += inside
    stores = sorted((TileStore(p, storage_options) for p in dict.fromkeys(found)), key=lambda store: store.image_id)
    for one, two in pairwise(stores):
        if one.image_id == two.image_id:
            raise RequestError(f"image_id {one.image_id} stands in both {one.path} and {two.path}: give one of them")
    return stores


def _stores_in(folder: Location, storage_options: Options | None) -> list[Location]:
    if isinstance(folder, Path):
        inside = folder.glob(f"*{SUFFIX}") if folder.is_dir() else ()
        return sorted(p for p in inside if not p.name.endswith(PARTIAL))
    from wsi.store.remote import find_remote_stores

    return list(find_remote_stores(folder, SUFFIX, storage_options))

"""A tile store once more, OME-Zarr 0.5, its chunks without JPEG: zstd, which every zarr v3 reader decodes.

The pixels are the store's own, as decoded; shard by shard, so that memory holds a few of them. The rest is copied as it
is: labels, overview, tile list with scores, ICC profile, recipe. So the export is a store like any other: it verifies,
and tiles are extracted from it. Its provenance says where its chunks come from.
"""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsi.errors import StoreError, one_line
from wsi.export.once import export_folder_once
from wsi.export.options import RecodedOptions
from wsi.files.atomic import write_bytes
from wsi.machine.cpu import usable_cpus
from wsi.machine.ordered import ordered
from wsi.options import stage
from wsi.progress.outcome import Progress, Summary
from wsi.recipe import Recipe
from wsi.store.codecs import codec
from wsi.store.layout import FILL, ICC_KEY, group, meta_hash, shard_key, shard_path, write_image_arrays, write_json
from wsi.store.shards import ABSENT, writing_shard
from wsi.store.tile_store import TileStore
from wsi.units import ceil_div

_COPIED = ("labels", "overview", "tiles", ICC_KEY)
_PLAIN_KEY = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*")
_KEYS = ("attributes", "gigamil", "provenance", "recoded")
"""Where an export says by which recipe it was made."""
_AT_ONCE = 16
"""Tiles that are decoded before they are compressed again."""


def _recipe(options: RecodedOptions, store: TileStore) -> Recipe:
    """Return what shapes the result."""
    return {
        "form": "OME-Zarr 0.5",
        "image_id": store.image_id,
        "store": store.recipe_hash,
        "from": list(store.codec_names),
        "codec": options.codec,
    }


@stage
def export_recoded(options: RecodedOptions, progress: Progress | None = None) -> Summary:
    """Write the store with its chunks compressed without loss, whole or not at all.

    A finished export of the same store is skipped.

    Raises
    ------
    StoreError
        The store cannot be read.
    RecipeMismatchError
        Another export, or something else, is there already.
    """
    write = partial(_write, options.threads or usable_cpus(), options.codec)
    return export_folder_once(options, _recipe, progress, "zarr.json", _KEYS, write)


def _write(
    threads: int, codec_name: str, store: TileStore, folder: Path, recipe: Recipe, progress: Progress
) -> dict[str, Any]:
    levels = store.grid.levels()
    for key in _copied(store):
        (data,) = store.folder.read([key])
        write_bytes(folder / key, data or b"")
    write_image_arrays(folder, store.grid, (codec_name,) * len(levels))
    jobs = [(level, *place) for level in range(len(levels)) for place in np.ndindex(*_shards(store, level))]
    progress.begin(f"export {store.image_id}", len(jobs), "shards")
    chunks = bytes_out = 0
    for n_chunks, n_bytes in ordered(lambda job: _write_shard(store, codec_name, folder, *job), jobs, threads):
        chunks, bytes_out = chunks + n_chunks, bytes_out + n_bytes
        progress.advance(1)
    progress.end()
    _write_root(store, codec_name, folder, recipe)
    return {"chunks": chunks, "bytes_out": bytes_out, "levels": len(levels)}


def _copied(store: TileStore) -> list[str]:
    """Return the keys of what is copied; a key that would lead elsewhere is no store's."""
    keys = [key for key in store.folder.find("") if key.split("/", 1)[0] in _COPIED]
    if odd := [key for key in keys if not _PLAIN_KEY.fullmatch(key)]:
        raise StoreError(f"{store.path}: holds {one_line(odd[0], 100)!r}, which no tile store does")
    return keys


def _shards(store: TileStore, level: int) -> tuple[int, int]:
    n, side = store.grid.level_tiles(level), store.grid.shard_tiles(level)
    return ceil_div(n.y, side), ceil_div(n.x, side)


def _write_shard(store: TileStore, codec_name: str, folder: Path, level: int, row: int, column: int) -> tuple[int, int]:
    """Write one shard; return how many chunks it holds, and its size in bytes. Absent chunks stay absent."""
    side, tile_px = store.grid.shard_tiles(level), store.tile_px
    index = store.folder.index(shard_key(level, row, column), side**2)
    kept = [] if index is None else np.flatnonzero(index[:, 0] != ABSENT).tolist()
    encode = codec(codec_name).encode
    with writing_shard(shard_path(folder, level, row, column), side**2) as writer:
        for start in range(0, len(kept), _AT_ONCE):
            block = kept[start : start + _AT_ONCE]
            pixels = np.full((len(block), 3, tile_px, tile_px), FILL, np.uint8)
            places = np.array([row * side, column * side]) + np.stack(np.divmod(block, side), axis=1)
            store.read_chunks(level, places, pixels)
            for place, tile in zip(block, pixels, strict=True):
                writer.put(place, encode(np.ascontiguousarray(tile.transpose(1, 2, 0))))
    return len(kept), writer.size


def _write_root(store: TileStore, codec_name: str, folder: Path, recipe: Recipe) -> None:
    (text,) = store.folder.read(["zarr.json"])
    meta = {name: value for name, value in store.meta.items() if name not in {"sha256", "codec"}}
    meta["codecs"] = [codec_name] * len(store.codec_names)
    meta["provenance"] = {**store.provenance, "recoded": recipe}
    meta["sha256"] = meta_hash(json.loads(json.dumps(meta)))
    ome = json.loads(text or b"{}")["attributes"]["ome"]
    write_json(folder / "zarr.json", group({"ome": ome, "gigamil": meta}))

"""A tile store as OME-Zarr 0.4 (zarr v2), laid out as bioformats2raw does: what QuPath 0.8 and OMERO read.

Axes t, c, z, y, x; chunks (1, 1, 1, S, S) under ``/``-separated keys, blosc; levels that halve exactly; names, colours
and micrometres in OME/METADATA.ome.xml. Chunks without tissue are absent and read as the fill value, white. The slide's
ICC profile lies in OME/icc.icc, unless the pixels are sRGB already. Neither label, macro image nor overview
of the slide, nor any of its text, is exported.

Specifications: OME-Zarr (NGFF) 0.4, zarr v2, bioformats2raw.layout 3.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from wsi.export.ome_xml import ome_xml
from wsi.export.once import export_folder_once, profile_of
from wsi.export.options import OmeZarrOptions
from wsi.files.atomic import write_bytes, write_text
from wsi.machine.cpu import usable_cpus
from wsi.machine.ordered import ordered
from wsi.options import stage
from wsi.progress.outcome import Progress, Summary
from wsi.recipe import Recipe, recipe_hash
from wsi.store.layout import FILL, ICC_KEY, image_multiscales, omero
from wsi.store.tile_store import TileStore
from wsi.units import YX, ceil_div

_LEAST_CHUNK_PX = 1024
"""Chunks are files in this form: larger ones than a tile keep their number down."""
_BLOSC_LEVEL = 3


def _recipe(options: OmeZarrOptions, store: TileStore) -> Recipe:
    """Return what shapes the result."""
    profile = profile_of(store)
    return {
        "form": "OME-Zarr 0.4",
        "image_id": store.image_id,
        "store": store.recipe_hash,
        "chunk_px": _chunk_px(store),
        **({"icc": hashlib.sha256(profile).hexdigest()} if profile else {}),
    }


@stage
def export_ome_zarr(options: OmeZarrOptions, progress: Progress | None = None) -> Summary:
    """Write the store's image as OME-Zarr 0.4, whole or not at all.

    A finished export of the same store is skipped.

    Raises
    ------
    StoreError
        The store cannot be read.
    RecipeMismatchError
        Another export, or something else, is there already.
    """
    write = partial(_write, options.threads or usable_cpus())
    return export_folder_once(options, _recipe, progress, ".zattrs", ("gigamil", "recipe"), write)


def _chunk_px(store: TileStore) -> int:
    return store.tile_px * ceil_div(_LEAST_CHUNK_PX, store.tile_px)


def _write(threads: int, store: TileStore, folder: Path, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    levels, chunk_px = store.grid.levels(), _chunk_px(store)
    gigamil = {"recipe": recipe, "recipe_hash": recipe_hash(recipe)}
    _group(folder, {"bioformats2raw.layout": 3, "gigamil": gigamil})
    _group(folder / "OME", {"series": ["0"]})
    write_text(folder / "OME" / "METADATA.ome.xml", ome_xml(store.image_id, levels[0], store.mpp, interleaved=False))
    if profile := profile_of(store):
        write_bytes(folder / "OME" / ICC_KEY, profile)  # zarr-python warns of foreign files beside groups
    _group(folder / "0", {"multiscales": [_multiscales(store)], "omero": omero() | {"id": 1, "version": "0.4"}})
    for level, shape in enumerate(levels):
        write_text(folder / "0" / str(level) / ".zarray", json.dumps(_array(shape, chunk_px), indent=1))
    counts = [-(-np.array(shape) // chunk_px) for shape in levels]
    jobs = [(level, *place) for level, count in enumerate(counts) for place in np.ndindex(*count)]
    progress.begin(f"export {store.image_id}", len(jobs), "chunks")
    written = [0, 0]
    for n_bytes in ordered(lambda job: _write_chunk(store, folder / "0", *job), jobs, threads):
        written[0] += bool(n_bytes)
        written[1] += n_bytes
        progress.advance(1)
    progress.end()
    return {"chunks": written[0], "bytes_out": written[1], "levels": len(levels), "chunk_px": chunk_px}


def _group(folder: Path, attributes: dict[str, Any]) -> None:
    write_text(folder / ".zgroup", '{"zarr_format": 2}')
    write_text(folder / ".zattrs", json.dumps(attributes, indent=1))


def _array(shape: YX, chunk_px: int) -> dict[str, Any]:
    """Return the .zarray of one level."""
    return {
        "zarr_format": 2,
        "shape": [1, 3, 1, *shape],
        "chunks": [1, 1, 1, chunk_px, chunk_px],
        "dtype": "|u1",
        "compressor": {"id": "blosc", "cname": "zstd", "clevel": _BLOSC_LEVEL, "shuffle": 0, "blocksize": 0},
        "fill_value": FILL,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }


def _multiscales(store: TileStore) -> dict[str, Any]:
    """Return the store's multiscales with the axes t and z before and between, as of version 0.4."""
    entry = image_multiscales(store.image_id, store.grid, store.mpp)
    for dataset in entry["datasets"]:
        for transform in dataset["coordinateTransformations"]:
            kind = transform["type"]
            c, y, x = transform[kind]
            neutral = 1.0 if kind == "scale" else 0.0
            transform[kind] = [neutral, c, neutral, y, x]
    c_axis, y_axis, x_axis = entry["axes"]
    z_axis = {"name": "z", "type": "space", "unit": "micrometer"}
    return entry | {"version": "0.4", "axes": [{"name": "t", "type": "time"}, c_axis, z_axis, y_axis, x_axis]}


def _write_chunk(store: TileStore, folder: Path, level: int, row: int, column: int) -> int:
    """Write one chunk of each colour, unless the store has nothing there; return their size in bytes."""
    chunk_px, tile_px = _chunk_px(store), store.tile_px
    many = chunk_px // tile_px
    first = np.array([row, column]) * many
    places = np.argwhere(np.ones(np.minimum(store.grid.level_tiles(level) - first, many), bool))
    tiles = np.full((len(places), 3, tile_px, tile_px), FILL, np.uint8)
    if not store.read_chunks(level, first + places, tiles).any():
        return 0
    pixels = np.full((3, many, tile_px, many, tile_px), FILL, np.uint8)
    pixels[:, places[:, 0], :, places[:, 1]] = tiles
    n_bytes = 0
    for colour, plane in enumerate(pixels.reshape(3, chunk_px, chunk_px)):
        data = imagecodecs.blosc_encode(
            plane.tobytes(), _BLOSC_LEVEL, compressor="zstd", shuffle="noshuffle", typesize=1, numthreads=1
        )
        write_bytes(folder.joinpath(str(level), "0", str(colour), "0", str(row), str(column)), bytes(data))
        n_bytes += len(data)
    return n_bytes

"""A tile store as OME-Zarr 0.4 (zarr v2), laid out as bioformats2raw does: what QuPath 0.8 and OMERO read.

Axes t, c, z, y, x; chunks (1, 1, 1, S, S) under ``/``-separated keys, blosc; levels that halve exactly; names, colours
and micrometres in OME/METADATA.ome.xml. Chunks without tissue are absent and read as the fill value, white. Neither
label, macro image nor overview of the slide, nor any of its text, is exported.

Specifications: OME-Zarr (NGFF) 0.4, zarr v2, bioformats2raw.layout 3.
"""

import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from wsi.cpu import usable_cpus
from wsi.export.ome_xml import ome_xml
from wsi.export.options import OmeZarrOptions
from wsi.files.atomic import replacing, write_text
from wsi.files.claim import claim
from wsi.files.regular import read_regular
from wsi.files.replace import discard, put, refuse_foreign, refuse_input, temporary_path
from wsi.options import stage
from wsi.ordered import ordered
from wsi.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import recipe_hash, refuse_other_recipe
from wsi.store.layout import FILL, multiscales, omero
from wsi.store.tile_store import TileStore
from wsi.units import YX, Box, ceil_div

_LEAST_CHUNK_PX = 1024
"""Chunks are files in this form: larger ones than a tile keep their number down."""
_BLOSC_LEVEL = 3


def _recipe(store: TileStore) -> dict[str, Any]:
    """Return what shapes the result."""
    chunk_px = _chunk_px(store)
    return {"form": "OME-Zarr 0.4", "image_id": store.image_id, "store": store.recipe_hash, "chunk_px": chunk_px}


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
    started, progress = time.perf_counter(), progress or Silent()
    store = TileStore(options.store)
    recipe = _recipe(store)
    refuse_input(options.out, [store.path] if isinstance(store.path, Path) else [])
    with claim(options.out):
        if options.out.exists() and not options.overwrite:
            refuse_other_recipe(options.out, _exported_recipe(options.out), recipe)
            done = Outcome(store.image_id, Status.SKIPPED)
        else:
            refuse_foreign(options.out, _is_ours)
            partial = temporary_path(options.out)
            try:
                facts = _write(store, partial, recipe, options.threads or usable_cpus(), progress)
                put(partial, options.out, _is_ours)
            finally:
                discard(partial)
            done = Outcome(store.image_id, Status.DONE, "", facts)
    return Summary("export", [done], time.perf_counter() - started)


def _exported_recipe(out: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(read_regular(out / ".zattrs", 1 << 24))["gigamil"]["recipe"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {"form": "not an export of ours"}


def _is_ours(out: Path) -> bool:
    return "image_id" in _exported_recipe(out)


def _chunk_px(store: TileStore) -> int:
    return store.tile_px * ceil_div(_LEAST_CHUNK_PX, store.tile_px)


def _write(store: TileStore, folder: Path, recipe: dict[str, Any], threads: int, progress: Progress) -> dict[str, Any]:
    levels, chunk_px = store.grid.levels(), _chunk_px(store)
    gigamil = {"recipe": recipe, "recipe_hash": recipe_hash(recipe)}
    _group(folder, {"bioformats2raw.layout": 3, "gigamil": gigamil})
    _group(folder / "OME", {"series": ["0"]})
    write_text(folder / "OME" / "METADATA.ome.xml", ome_xml(store.image_id, levels[0], store.mpp, interleaved=False))
    _group(folder / "0", {"multiscales": [_multiscales(store)], "omero": omero() | {"id": 1, "version": "0.4"}})
    for level, shape in enumerate(levels):
        write_text(folder / "0" / str(level) / ".zarray", json.dumps(_array(shape, chunk_px), indent=1))
    jobs = [
        (level, row, column)
        for level, shape in enumerate(levels)
        for row, column in product(range(ceil_div(shape.y, chunk_px)), range(ceil_div(shape.x, chunk_px)))
    ]
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
    entry = multiscales(store.image_id, store.grid.levels(), store.mpp, "cyx", 0.0)
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
    shape = store.grid.levels()[level]
    tiles = YX(ceil_div(shape.y, tile_px), ceil_div(shape.x, tile_px))
    box = Box(row * many, column * many, (row + 1) * many, (column + 1) * many).clipped(tiles)
    places = np.argwhere(np.ones(box.shape, bool))
    places += np.array([box.y0, box.x0])
    parts = np.full((len(places), 3, tile_px, tile_px), FILL, np.uint8)
    if not store.read_chunks(level, places, parts).any():
        return 0
    pixels = np.full((3, many, tile_px, many, tile_px), FILL, np.uint8)
    for (y, x), part in zip(places - [box.y0, box.x0], parts, strict=True):
        pixels[:, y, :, x] = part
    n_bytes = 0
    for colour, plane in enumerate(pixels.reshape(3, chunk_px, chunk_px)):
        data = imagecodecs.blosc_encode(
            plane.tobytes(), _BLOSC_LEVEL, compressor="zstd", shuffle="noshuffle", typesize=1, numthreads=1
        )
        with replacing(folder / str(level) / "0" / str(colour) / "0" / str(row) / str(column)) as temporary:
            temporary.write_bytes(data)
        n_bytes += len(data)
    return n_bytes

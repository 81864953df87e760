"""The files of a tile store: which array lies where, and the zarr v3 / OME-Zarr 0.5 metadata that describes them.

    <image_id>.zarr/
        zarr.json                 group; attributes.ome (OME-Zarr 0.5) and attributes.gigamil
        0/ 1/ 2/ ...              image levels, uint8 (c, y, x), sharded; c/0/<row>/<column> is one shard
        labels/tissue/0/ 1/ ...   the tissue mask, uint8 (y, x), on its own grid
        tiles/yx, tiles/tissue    the tile list: int32 (n, 2) row and column, float32 (n) share of tissue
        tiles/<score>             float32 (n)
        icc.icc                   the slide's ICC profile, where it has one

Specifications: zarr v3, OME-Zarr (NGFF) 0.5.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numcodecs.zstd
import numpy as np
from numpy.typing import NDArray

from wsi.files.atomic import write_bytes, write_text
from wsi.pixels.jpeg import ZARR_NAMES
from wsi.store.codecs import codec
from wsi.store.grid import Grid
from wsi.units import YX, ceil_div

SUFFIX = ".zarr"
FILL = 255
"""Value of a chunk that is not there: white."""
ICC_KEY = "icc.icc"
"""Where the slide's ICC profile lies, as it was in the slide; in stores of slides that have one."""
_SMALL_ARRAY_LEVEL = 3
_CHANNELS = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))


def group(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the zarr.json of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def image_array(
    shape: YX, grid: Grid, level: int, codec_name: str, *, checked: bool = True, jpeg_name: str | None = None
) -> dict[str, Any]:
    """Return the zarr.json of one image level.

    Parameters
    ----------
    checked
        As in `wsi.store.codecs.Jpeg`.
    jpeg_name
        One of `ZARR_NAMES`; otherwise the one that is written today.
    """
    side = grid.tile_px * grid.shard_tiles(level)
    sharding = {
        "chunk_shape": [3, grid.tile_px, grid.tile_px],
        "codecs": codec(codec_name, checked=checked).metadata(jpeg_name or ZARR_NAMES[0]),
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, *shape],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, side, side]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": FILL,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": ["c", "y", "x"],
    }


def meta_hash(meta: dict[str, Any]) -> str:
    """Return the sha256 of our own attributes of a store's root, but for the field ``sha256`` that holds it."""
    held = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def shard_key(level: int, row: int, column: int) -> str:
    """Return where a shard of an image level lies inside the store."""
    return f"{level}/c/0/{row}/{column}"


def shard_path(store: Path, level: int, row: int, column: int) -> Path:
    """Return where a shard of an image level lies."""
    return store / shard_key(level, row, column)


def image_multiscales(name: str, grid: Grid, mpp: float) -> dict[str, Any]:
    """Return the OME-Zarr multiscales entry of a store's image.

    The slide's own levels, too, are taken to cover level 0 from its corner, as OpenSlide has it: how a scanner averaged
    within that is not known.
    """
    entry = multiscales(name, grid.levels(), mpp, "cyx", 0.0, factors=grid.factors())
    return entry | {"type": "the slide's own levels"} if grid.coarser else entry


def multiscales(
    name: str,
    shapes: list[YX],
    mpp: float,
    axes: str,
    level0_um: float,
    *,
    averaged: bool = True,
    factors: Sequence[int] = (),
) -> dict[str, Any]:
    """Return one OME-Zarr multiscales entry.

    Parameters
    ----------
    name, shapes, axes
        Of the picture; the size of each level.
    mpp
        um/px of its level 0.
    level0_um
        Where the centre of its first pixel lies.
    averaged
        Averaging 2 x 2 pixels shifts the centre of a coarser level's first pixel; taking one pixel in four, the first
        of each block, does not.
    factors
        How many pixels of level 0 one of each level covers, along each side; otherwise each level is half the one
        above.
    """
    kinds = {"c": {"name": "c", "type": "channel"}}
    spaces = {a: {"name": a, "type": "space", "unit": "micrometer"} for a in "yx"}
    leading = [1.0] * (len(axes) - 2)
    kind = "area average" if averaged else "nearest"
    datasets = []
    for level, factor in enumerate(factors or [2**level for level in range(len(shapes))]):
        scale, shift = mpp * factor, level0_um + (mpp * (factor - 1) / 2 if averaged else 0.0)
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [*leading, scale, scale]}]
        if shift:
            transforms.append({"type": "translation", "translation": [*([0.0] * len(leading)), shift, shift]})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    return {"name": name, "axes": [(kinds | spaces)[a] for a in axes], "datasets": datasets, "type": kind}


def omero() -> dict[str, Any]:
    """Return the display settings: three 8-bit colour channels over their full range."""
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [{"label": label, "color": color, "active": True, "window": window} for label, color in _CHANNELS]
    return {"channels": channels, "rdefs": {"model": "color", "defaultZ": 0, "defaultT": 0}}


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a zarr.json."""
    write_text(path, json.dumps(document, indent=1))


def write_image_arrays(store: Path, grid: Grid, codec_names: tuple[str, ...]) -> None:
    """Write the metadata of all image levels, one codec name per level."""
    for level, (shape, name) in enumerate(zip(grid.levels(), codec_names, strict=True)):
        write_json(store / str(level) / "zarr.json", image_array(shape, grid, level, name))


def write_small_array(path: Path, data: NDArray[Any], names: tuple[str, ...], fill: int = 0) -> None:
    """Write a zarr v3 array without shards, chunks of at most 2048 a side (65536 in one dimension), zstd-compressed.

    Parameters
    ----------
    path
        The array's folder.
    data
        What it holds, little-endian on disk.
    names
        One per dimension.
    fill
        Chunks that hold nothing but this are not stored.
    """
    most = 65536 if data.ndim == 1 else 2048
    chunk = tuple(max(1, min(side, most)) for side in data.shape)
    write_json(
        path / "zarr.json",
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(data.shape),
            "data_type": data.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill,
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}} if data.itemsize > 1 else {"name": "bytes"},
                {"name": "zstd", "configuration": {"level": _SMALL_ARRAY_LEVEL, "checksum": True}},
            ],
            "attributes": {},
            "dimension_names": list(names),
        },
    )
    for place in np.ndindex(*(ceil_div(side, step) for side, step in zip(data.shape, chunk, strict=True))):
        part = data[tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, chunk, strict=True))]
        if (part == fill).all():
            continue
        if part.shape == chunk:
            whole = np.ascontiguousarray(part, data.dtype.newbyteorder("<"))
        else:
            whole = np.full(chunk, fill, data.dtype.newbyteorder("<"))
            whole[tuple(map(slice, part.shape))] = part
        data_bytes = numcodecs.zstd.compress(whole, _SMALL_ARRAY_LEVEL, checksum=True)
        write_bytes(path.joinpath("c", *map(str, place)), data_bytes)

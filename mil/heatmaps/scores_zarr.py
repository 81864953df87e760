"""Tile scores as an OME-Zarr 0.5 image that viewers lay over the slide: a pixel is a tile, a channel a score.

Values are float32; NaN where there is no listed tile. Scale and translation put it over the tile store of the slide,
whose frame it shares. ``labels/deciles`` is a label: 1 for the tenth of the tiles with the least attention, to 10.

Specification: OME-Zarr (NGFF) 0.5.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mil.heatmaps.layers import ATTENTION
from mil.heatmaps.tile_scores import TileScores
from wsi.arrays import Features, Ints
from wsi.files.regular import read_regular
from wsi.store.layout import group, multiscales, write_json, write_small_array
from wsi.store.tile_store import TileStore
from wsi.units import YX

FORMAT = "gigamil-scores-1"
_COLOURS = {"factor": "FDE725", "percentile": "5EC962", "share": "21918C", "disagreement": "FA9FB5"}
_PUSH_COLOUR = "FD8D3C"
_ROUNDING = 1e-9
_SHOWN = 0.99
"""Share of tiles whose values lie within the window."""


def write_scores_zarr(folder: Path, scores: TileScores, store: TileStore, stamp: str) -> None:
    """Write the image into a folder of its own; ``stamp`` says what it was made from."""
    channels = _channels(scores)
    shape = store.grid.tiles
    image = np.full((len(channels), *shape), np.nan, np.float32)
    rows, columns = scores.tiles_yx.T
    for channel, (_, values_N, _) in enumerate(channels):
        image[channel, rows, columns] = values_N
    write_small_array(folder / "0", image, ("c", "y", "x"))
    about = {
        "format": FORMAT,
        "image_id": scores.image_id,
        "stamp": stamp,
        "push": scores.push_how,
        "models": scores.models,
        "out_of_fold": scores.out_of_fold,
    }
    scales = _scales(f"{scores.image_id} tile scores", shape, store, "cyx")
    ome = {"version": "0.5", "multiscales": [scales], "omero": _omero(channels)}
    if scores.attends:
        _write_deciles(folder / "labels", scores, store)
    write_json(folder / "zarr.json", group({"ome": ome, "gigamil_scores": about}))


def deciles(scores: TileScores) -> Ints:
    """Return the tenth of the slide's tiles, by attention, that each is in (N,): 1 to 10, of the most."""
    return np.clip(np.ceil(scores.percentile_N * 10 - _ROUNDING), 1, 10).astype(np.int64)


def scores_zarr_stamp(path: Path) -> str | None:
    """Return what an image of ours was made from, None of anything else."""
    try:
        about = json.loads(read_regular(path / "zarr.json", 1 << 24))["attributes"]["gigamil_scores"]
        return str(about["stamp"]) if about["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def is_scores_zarr(path: Path) -> bool:
    """Tell whether a folder is such an image."""
    return scores_zarr_stamp(path) is not None


def _channels(scores: TileScores) -> list[tuple[str, Features, str]]:
    """Return name, values and colour of each channel."""
    found: list[tuple[str, Features, str]] = []
    if scores.attends:
        found = [
            ("attention, times the slide's mean", scores.factor_N, _COLOURS["factor"]),
            ("attention, percentile (0 to 1)", scores.percentile_N, _COLOURS["percentile"]),
            ("attention, share (sums to 1)", scores.attention_N, _COLOURS["share"]),
        ]
    if scores.disagreement_N is not None:
        found.append(("disagreement of the models", scores.disagreement_N, _COLOURS["disagreement"]))
    if scores.push_CN is not None:
        pairs = zip(scores.outputs, scores.push_CN, strict=True)
        found += [(f"push towards {name}", push_N, _PUSH_COLOUR) for name, push_N in pairs]
    return found


def _omero(channels: list[tuple[str, Features, str]]) -> dict[str, Any]:
    """Return the display settings: the first channel is shown, each with a window that fits its values."""
    told = [
        {"label": label, "color": colour, "active": not number, "window": _window(values_N)}
        for number, (label, values_N, colour) in enumerate(channels)
    ]
    return {"channels": told, "rdefs": {"model": "color", "defaultZ": 0, "defaultT": 0}}


def _window(values_N: Features) -> dict[str, float]:
    """Return range and window: from 0, or as far below as above, to where nearly all values lie."""
    low, high = min(0.0, float(values_N.min())), max(float(values_N.max()), 0.0)
    end = float(np.quantile(np.abs(values_N), _SHOWN)) or 1.0
    return {"min": low, "max": max(high, low + 1e-9), "start": -end if low < 0 else 0.0, "end": end}


def _write_deciles(folder: Path, scores: TileScores, store: TileStore) -> None:
    label = np.zeros(store.grid.tiles, np.uint8)
    label[tuple(scores.tiles_yx.T)] = deciles(scores)
    write_small_array(folder / "deciles" / "0", label, ("y", "x"))
    rgb, _ = ATTENTION(np.linspace(0, 1, 10))
    colours = [
        {"label-value": i + 1, "rgba": [*np.rint(own).astype(int).tolist(), 40 + 15 * i]} for i, own in enumerate(rgb)
    ]
    names = [{"label-value": i, "name": f"attention {10 * i - 10} to {10 * i} % of the tiles"} for i in range(1, 11)]
    about = {
        "version": "0.5",
        "multiscales": [_scales("deciles", store.grid.tiles, store, "yx")],
        "image-label": {"colors": colours, "properties": names, "source": {"image": "../../"}},
    }
    write_json(folder / "deciles" / "zarr.json", group({"ome": about}))
    write_json(folder / "zarr.json", group({"ome": {"version": "0.5", "labels": ["deciles"]}}))


def _scales(name: str, shape: YX, store: TileStore, axes: str) -> dict[str, Any]:
    """Return the multiscales entry: a pixel is as large as a tile, and its centre lies in the tile's middle."""
    return multiscales(name, [shape], store.mpp * store.tile_px, axes, store.mpp * (store.tile_px - 1) / 2)

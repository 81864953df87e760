"""What a tile store says of itself: its zarr.json, read and checked once, at the door.

Whoever opens a store may go by these values: sizes are bounded, names lead nowhere else, numbers are finite.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsi.errors import StoreError
from wsi.files.regular import read_regular
from wsi.store.codecs import CODECS
from wsi.store.grid import Grid
from wsi.units import YX

FORMAT_VERSION = 1
_MOST_PX = 1 << 26
"""Longest side of a slide or store."""
_MOST_TILES = 1 << 26
_TILE_PX = (16, 8192)
_SCORE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SLACK, _SLACK_PX = 0.05, 2
"""By how much the store's shape may differ from the slide's, scaled: levels of slides are not exact."""


def parse_metadata(text: bytes, place: str) -> dict[str, Any]:
    """Return our own attributes of a store's root, checked.

    Parameters
    ----------
    text
        The zarr.json of the root.
    place
        The store's, for messages.

    Raises
    ------
    StoreError
        It is no finished store of this format, or a field cannot be true; the message names the field.
    """
    try:
        meta = json.loads(text)["attributes"]["gigamil"]
        if not isinstance(meta, dict):
            raise TypeError("gigamil: expected an object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        told = " ".join(str(error).split())[:200]
        raise StoreError(
            f"{place}/zarr.json cannot be read as a tile store's ({type(error).__name__}: {told})"
        ) from None
    if meta.get("format") != FORMAT_VERSION:
        found = str(meta.get("format"))[:40]
        raise StoreError(f"{place}: store format {found}, expected {FORMAT_VERSION}: tile the slide again")
    if meta.get("complete") is not True:
        raise StoreError(f"{place} is not finished: run `gigamil tile` again")
    try:
        _check(meta)
    except (ValueError, OverflowError) as error:
        raise StoreError(f"{place}/zarr.json: {error}: tile the slide again") from None
    return meta


def _check(meta: Mapping[str, Any]) -> None:
    """Raise `ValueError` naming the first field that cannot be true."""
    tile_px = _whole(meta, "tile_px", *_TILE_PX)
    for name in ("mpp", "l0_px_per_px", "mask_mpp"):
        _positive(meta, name)
    slide, shape = (_shape(meta, name) for name in ("slide_shape_yx", "shape_yx"))
    scale = float(meta["l0_px_per_px"])
    for side, whole in zip(shape, slide, strict=True):
        if abs(side * scale - whole) > max(_SLACK * whole, _SLACK_PX * max(1.0, scale)):
            raise ValueError(f"shape_yx {list(shape)} at {scale:g} does not fit slide_shape_yx {list(slide)}")
    grid = Grid(shape, tile_px)
    if grid.tiles.y * grid.tiles.x > _MOST_TILES:
        raise ValueError(f"shape_yx {list(shape)}: more than {_MOST_TILES:,} tiles")
    _whole(meta, "n_tiles", 0, grid.tiles.y * grid.tiles.x)
    codecs = meta.get("codecs") or [meta.get("codec")] * len(grid.levels())
    if not isinstance(codecs, list) or len(codecs) != len(grid.levels()) or not all(_one_of(c, CODECS) for c in codecs):
        raise ValueError(f"codecs {_told(codecs)}: expected {len(grid.levels())} of {', '.join(CODECS)}")
    scores = meta.get("scores")
    if not isinstance(scores, list) or not all(isinstance(n, str) and _SCORE.fullmatch(n) for n in scores):
        raise ValueError(f"scores {_told(scores)}: expected a list of names")
    for name in ("recipe", "provenance"):
        if not isinstance(meta.get(name), dict):
            raise ValueError(f"{name} {_told(meta.get(name))}: expected an object")
    for name in ("image_id", "recipe_hash"):
        if not isinstance(meta.get(name), str):
            raise ValueError(f"{name} {_told(meta.get(name))}: expected a text")


def _one_of(value: Any, known: Mapping[str, Any]) -> bool:
    return isinstance(value, str) and value in known


def _whole(meta: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = meta.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} {_told(value)}: expected a whole number from {least} to {most}")
    return value


def _positive(meta: Mapping[str, Any], name: str) -> None:
    value = meta.get(name)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 1e-4 <= value <= 1e6:  # type: ignore[operator]
        raise ValueError(f"{name} {_told(value)}: expected a number above 0")


def _shape(meta: Mapping[str, Any], name: str) -> YX:
    value = meta.get(name)
    sides = value if isinstance(value, list) and len(value) == 2 else [None]
    if not all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= _MOST_PX for side in sides):
        raise ValueError(f"{name} {_told(value)}: expected height and width, 1 to {_MOST_PX} pixels")
    return YX(*sides)


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_our_store(path: Path) -> bool:
    """Tell whether a folder is a tile store that this package wrote, finished or not: it says by which recipe."""
    try:
        own = json.loads(read_regular(path / "zarr.json", 16 << 20))["attributes"]["gigamil"]
        return isinstance(own["recipe"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def is_our_partial(path: Path) -> bool:
    """Tell whether a folder is a tile store that a run of ours did not finish; an empty one counts, too."""
    if path.is_symlink() or not path.is_dir():
        return False
    return (path / ".work").is_dir() or is_our_store(path) or not os.listdir(path)

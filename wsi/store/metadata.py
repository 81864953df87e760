"""What a tile store says of itself: its zarr.json, read and checked once, at the door.

Whoever opens a store may go by these values: sizes are bounded, names lead nowhere else, numbers are finite.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wsi.errors import StoreError
from wsi.files.regular import read_regular
from wsi.store.codecs import CODECS
from wsi.store.grid import Grid, with_levels
from wsi.units import YX

FORMAT_VERSION = 1
_MOST_PX = 1 << 26
"""Longest side of a slide or store."""
_MOST_TILES = 1 << 26
_MOST_LEVELS = 32
_TILE_PX = (16, 8192)
_SCORE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_LARGE = 1e15
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
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise StoreError(f"{place}/zarr.json cannot be read as a tile store's ({told})") from None
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
    _checked(meta, "tile_px", *_whole(*_TILE_PX))
    for name in ("mpp", "l0_px_per_px", "mask_mpp"):
        _checked(meta, name, "a number above 0", lambda n: type(n) in (int, float) and 1e-4 <= n <= 1e6)
    sides = f"height and width, 1 to {_MOST_PX} pixels"
    slide, shape = (YX(*_checked(meta, name, sides, _is_shape)) for name in ("slide_shape_yx", "shape_yx"))
    scale = float(meta["l0_px_per_px"])
    for side, whole in zip(shape, slide, strict=True):
        if abs(side * scale - whole) > max(_SLACK * whole, _SLACK_PX * max(1.0, scale)):
            raise ValueError(f"shape_yx {list(shape)} at {scale:g} does not fit slide_shape_yx {list(slide)}")
    if "levels" in meta:
        _checked(meta, "levels", "a list of [factor, height, width]", _are_levels)
    grid = stored_grid(meta)
    if grid.tiles.y * grid.tiles.x > _MOST_TILES:
        raise ValueError(f"shape_yx {list(shape)}: more than {_MOST_TILES:,} tiles")
    _checked(meta, "n_tiles", *_whole(0, grid.tiles.y * grid.tiles.x))
    levels = len(grid.levels())
    codecs = {"codecs": meta.get("codecs") or [meta.get("codec")] * levels}
    known = _list_of(lambda name: isinstance(name, str) and name in CODECS)
    _checked(codecs, "codecs", f"{levels} of {', '.join(CODECS)}", lambda names: known(names) and len(names) == levels)
    _checked(meta, "scores", "a list of names", _list_of(lambda n: isinstance(n, str) and bool(_SCORE.fullmatch(n))))
    for name in ("recipe", "provenance"):
        _checked(meta, name, "an object", lambda value: isinstance(value, dict))
    for name in ("image_id", "recipe_hash"):
        _checked(meta, name, "a text", lambda value: isinstance(value, str))
    tissue = meta["provenance"].get("tissue", {})
    for told, table in ((meta["provenance"], _PROVENANCE), (tissue, _TISSUE)):  # older stores have fewer of them
        for name in told.keys() & table.keys():
            _checked(told, name, *table[name])


_Test = Callable[[Any], bool]


def _checked(meta: Mapping[str, Any], name: str, expected: str, fits: _Test) -> Any:
    """Return a field that is as expected, or raise `ValueError`."""
    value = meta.get(name)
    if not fits(value):
        text = repr(value)
        raise ValueError(f"{name} {text if len(text) <= 60 else text[:57] + '...'}: expected {expected}")
    return value


def stored_grid(meta: Mapping[str, Any]) -> Grid:
    """Return a store's grid; ``levels`` stands there where the image's levels are the slide's own.

    Raises
    ------
    ValueError
        Levels do not fit level 0.
    """
    grid = Grid(YX(*meta["shape_yx"]), int(meta["tile_px"]))
    return with_levels(grid, [(factor, YX(*shape)) for factor, *shape in meta.get("levels", ())])


def _are_levels(value: Any) -> bool:
    whole = _whole(1, _MOST_PX)[1]
    return _list_of(lambda each: _list_of(whole)(each) and len(each) == 3)(value) and len(value) <= _MOST_LEVELS


def _whole(least: int, most: int) -> tuple[str, _Test]:
    return f"a whole number from {least} to {most}", lambda n: type(n) is int and least <= n <= most


def _list_of(fits: _Test) -> _Test:
    return lambda values: isinstance(values, list) and all(map(fits, values))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGE


def _numbers_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(number is None or _is_number(number) for number in value.values())


_PROVENANCE: dict[str, tuple[str, _Test]] = {
    "tissue": ("an object", lambda value: isinstance(value, dict)),
    "warnings": ("a list of texts", _list_of(lambda line: isinstance(line, str))),
    "slide_mpp": ("a number", lambda value: value is None or _is_number(value)),
    "mpp_source": ("a text", lambda value: isinstance(value, str)),
    "reader": ("a text", lambda value: isinstance(value, str)),
    "damaged_tiles": _whole(0, _MOST_TILES),
    "median_scores": ("numbers by name", _numbers_by_name),
}
"""What is looked at of a store's provenance, and of what it says of the tissue, where it is there."""
_TISSUE: dict[str, tuple[str, _Test]] = {
    "background": (
        "three whole numbers from 0 to 255",
        lambda value: _list_of(_whole(0, 255)[1])(value) and len(value) == 3,
    ),
    "dark_background": ("true or false", lambda value: isinstance(value, bool)),
    "artefact_shares": ("numbers by name", _numbers_by_name),
    "repeats": ("lists of whole numbers", _list_of(_list_of(_whole(0, _MOST_TILES)[1]))),
}


def _is_shape(value: Any) -> bool:
    return _list_of(_whole(1, _MOST_PX)[1])(value) and len(value) == 2


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

"""The recipe of a tile store: what was asked, and what of it took effect on this slide.

Requests that hold for a cohort stand as they were put, so that further slides can be made alike. What they came to on
this slide stands under ``effect``, exactly; ``assume_mpp`` and ``on_damage`` stand there only where they took effect. A
request that would change nothing about a finished store does not refuse it (`wanted_of`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.recipe import Recipe
from wsi.scores.drop import Rule, dropped, parse_rules
from wsi.store.grid import tile_means
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.scaling import Scaling
from wsi.tissue.mask import fill_holes

ALGORITHM = 4
"""Raised whenever the same settings would give other pixels or another tile list."""
LEAST_STORED = 0.02
"""Tiles of which tissue covers this share are stored, whether they are listed or not."""
_BY_EFFECT = ("target_mpp", "tile_px", "codec", "downscale", "scores")
"""Requests that can differ and come to the same."""


def effect(
    options: TileOptions,
    scaling: Scaling,
    tile_px: int,
    codecs: tuple[str, ...],
    copies: tuple[int | None, ...],
    by: int,
) -> Recipe:
    """Return what the requests came to before a pixel is read; ``by`` is how many times smaller JPEG is decoded."""
    return {
        "level": scaling.level,
        "l0_px_per_px": scaling.l0_per_s,
        "tile_px": tile_px,
        "codecs": list(codecs),
        "copied": {str(level): source for level, source in enumerate(copies) if source is not None},
        "jpeg_reduced": by,
        "scores": "all" if options.scores_every_tile and copies[0] is not None else "auto",
    }


def finished(
    planned: Recipe, options: TileOptions, *, damaged: bool, dropping: tuple[Rule, ...], filled: bool
) -> Recipe:
    """Return the recipe of a finished store.

    Parameters
    ----------
    planned
        As the plan made it.
    damaged
        Whether damage was met and skipped.
    dropping
        The rules that left tiles out.
    filled
        Whether there were holes that were filled.
    """
    told = planned["effect"] | {"drop": [str(rule) for rule in dropping], "fill_holes": filled}
    return planned | {"effect": told} | ({"on_damage": options.on_damage} if damaged else {})


def wanted_of(
    planned: Recipe, options: TileOptions, store: TileStore, mask_per_tile: float, mask_per_store: tuple[float, float]
) -> Recipe:
    """Return the recipe that a finished store would have if it were made anew, as far as it differs from the store's.

    Parameters
    ----------
    planned
        The plan's recipe.
    options
        What is asked.
    store
        What is there, of whatever recipe.
    mask_per_tile, mask_per_store
        Side of a tile, and height and width of the store, in pixels of the mask.
    """
    found = store.recipe
    told: Any = found.get("effect")
    if not isinstance(told, Mapping):
        return planned
    if not all(told.get(name) == value for name, value in planned["effect"].items()):
        return planned | {"effect": dict(told) | planned["effect"]}
    wanted = planned | {name: found.get(name) for name in _BY_EFFECT} | {"effect": dict(told)}
    if "on_damage" in found:
        wanted["on_damage"] = options.on_damage
    if any(wanted.get(name) != found.get(name) for name in ("algorithm", "reader", "slide", "slide_mpp", "roi")):
        return wanted
    mask = store.tissue_mask()[0]
    fractions = tile_means(mask, mask_per_tile, store.grid.tiles, mask_per_store)
    taken = {"fill_holes": _fills(options, told, mask), "drop": _drops(options, found, told, store)}
    if _same_tiles(fractions, found, options):
        taken |= {"min_tissue": False, "keep_background": False}
    return wanted | {name: found.get(name) for name, differs in taken.items() if not differs}


def select_tiles(
    fractions: NDArray[np.float32], min_tissue: float, keep_background: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which tiles are listed, and which are stored, bool like ``fractions``, the tiles' shares of tissue."""
    listed = (fractions >= min_tissue) & (fractions > 0)
    return listed, listed | (fractions >= LEAST_STORED) | keep_background


def _same_tiles(fractions: NDArray[np.float32], found: Recipe, options: TileOptions) -> bool:
    there = select_tiles(fractions, float(found["min_tissue"]), bool(found["keep_background"]))
    wanted = select_tiles(fractions, options.min_tissue, options.keep_background)
    return all(np.array_equal(a, b) for a, b in zip(there, wanted, strict=True))


def _fills(options: TileOptions, told: Mapping[str, Any], mask: NDArray[np.uint8]) -> bool:
    """Tell whether filling holes, or leaving them, would change the mask."""
    if told.get("fill_holes"):
        return not options.fill_holes
    if not options.fill_holes:
        return False
    # What was drawn is filled before it meets the tissue: the stored mask tells only of the two together.
    return options.roi is not None or not np.array_equal(fill_holes(mask), mask)


def _drops(options: TileOptions, found: Recipe, told: Mapping[str, Any], store: TileStore) -> bool:
    """Tell whether the rules would leave other tiles out than those that were."""
    rules, dropping = set(options.rules), set(parse_rules(told.get("drop") or ()))
    new = rules - set(parse_rules(found.get("drop") or ()))
    if not dropping <= rules or any(rule.score not in store.scores for rule in new):
        return True
    return bool(dropped(new, store.scores, store.n_tiles).any())

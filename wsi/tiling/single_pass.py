"""A slide of one level decoded once: each region gives its part of the overview and its tiles in the same pass.

Where the tissue is, is known only when the whole overview is there. So each region keeps the tiles that may hold some,
judged against a background that a sample of the slide's tiles tells; afterwards `wsi.tiling.tasks.settle` takes out
what the mask does not want, and makes a region anew where the mask wants more than was kept.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB, Bools
from wsi.errors import says_damage
from wsi.progress.stalls import moved
from wsi.readers.mosaic import CACHE_BYTES
from wsi.readers.protocol import Slide
from wsi.readers.tiles import Tiles
from wsi.store.grid import SHARD_TILES, Grid
from wsi.tiling.overview import OverviewPlan
from wsi.tiling.scaling import Scaling
from wsi.tissue.background import estimate_background
from wsi.tissue.density import largest_density
from wsi.units import YX, Box

_SAMPLED_TILES = 256
_LEAST_DENSITY = 0.012
"""Optical density from which a cell of the overview may belong to tissue: below the least that a mask is made of."""


@dataclass(frozen=True, slots=True)
class SinglePass:
    """How a slide is decoded in one pass."""

    strip: int
    """Source rows decoded together: whole tiles of the slide and of the store."""
    background: tuple[int, int, int]
    """Colour of the empty slide, estimated from a sample."""


def plan_single_pass(slide: Slide, scaling: Scaling, grid: Grid, overview: OverviewPlan) -> SinglePass | None:
    """Return how the slide is decoded in one pass; None where overview and tiles are better read one after the other.

    That is where they come from different levels, where tiles of slide and store do not line up, where JPEG tiles give
    an overview at an eighth of the decoding, and on a dark background.
    """
    tiles = overview.tiles(slide) if overview.level == scaling.level else None
    if tiles is None or tiles.jpeg:
        return None
    factor, tile = int(scaling.factor), tiles.cut.tile
    side = grid.tile_px * factor
    strip, region = max(side, tile.y), SHARD_TILES * side
    aligned = (
        factor == scaling.factor
        and not (strip % side or strip % tile.y or region % strip or region % tile.x)
        and side % overview.factor == 0
    )
    if not aligned or strip * region * 3 > CACHE_BYTES:
        return None
    background, dark = _sampled_background(tiles, overview.factor)
    return None if dark else SinglePass(strip, background)


def _sampled_background(tiles: Tiles, factor: int) -> tuple[tuple[int, int, int], bool]:
    """Estimate the background from evenly spread tiles, averaged as the overview will be."""
    stored, tile = tiles.cut.stored, tiles.cut.tile
    inside = np.arange(stored.y // tile.y)[:, None] * tiles.cut.grid.x + np.arange(stored.x // tile.x)
    chosen = inside.ravel()[:: max(1, inside.size // _SAMPLED_TILES)]
    size = (tile.x // factor, tile.y // factor)
    patches = []
    for index in chosen.tolist():
        moved()
        try:
            pixels = tiles.decode(index)
        except Exception as error:  # codecs raise nearly anything on damaged bytes; the pass itself reports it
            if not says_damage(error):
                raise
            continue
        if pixels is not None:
            patches.append(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    picture = np.asarray(np.concatenate(patches), np.uint8) if patches else np.full((1, 1, 3), 255, np.uint8)
    return estimate_background(picture, np.ones(picture.shape[:2], bool))


def region_part(plan: OverviewPlan, scaling: Scaling, grid: Grid, region: YX) -> Box:
    """Return the part of the overview that a region makes; the last regions take what is left over at the edges."""
    side = int(SHARD_TILES * grid.tile_px * scaling.factor) // plan.factor
    y1, x1 = (
        end if place == count - 1 else (place + 1) * side
        for place, count, end in zip(region, grid.regions, plan.shape, strict=True)
    )
    return Box(region.y * side, region.x * side, y1, x1)


def may_hold_tissue(rgb: RGB, damaged: NDArray[np.uint8], background: tuple[int, int, int], tile_o: int) -> Bools:
    """Tell which tiles may hold tissue.

    Parameters
    ----------
    rgb, damaged
        uint8 (h, w, 3) and (h, w): a part of the overview; damaged cells may hold anything.
    background
        Colour of the empty slide.
    tile_o
        Side of a tile in overview pixels.

    Returns
    -------
    bool (ceil(h / tile_o), ceil(w / tile_o))
    """
    density = largest_density(rgb, background)
    cells = (cv2.blur(density, (3, 3)) > _LEAST_DENSITY) | (density > 2 * _LEAST_DENSITY) | (damaged > 0)
    grown = cv2.dilate(cells.astype(np.uint8), np.ones((5, 5), np.uint8))
    padded = np.pad(grown, [(0, -side % tile_o) for side in grown.shape])
    rows, columns = (side // tile_o for side in padded.shape)
    found: Bools = padded.reshape(rows, tile_o, columns, tile_o).max(axis=(1, 3)) > 0
    return found

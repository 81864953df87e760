"""What on a slide is no tissue worth a look: pen, folds, bubbles, repeated sections, as one score per tile.

All are judged on the overview, relative to the slide's own tissue; they are simple measures that find the gross cases.
They are stored with each tile, and leave out nothing unless a rule asks for it (`wsi.scores.drop`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB, Bools, Mask
from wsi.scores.duplicates import Repeats, find_repeats
from wsi.tissue.density import densities, least, mean_density, most
from wsi.tissue.density import mean as mean_of
from wsi.tissue.mask import Tissue
from wsi.tissue.pen import pen_mask
from wsi.tissue.pieces import as_mask, of_pieces, pieces

TileMeans = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Gives the mean of a picture (h, w) over every tile, float32 (rows, columns); of a mask, the share that it covers."""

OVERVIEW_SCORES = ("darkness", "pen", "fold", "bubble", "duplicate")
"""``darkness``: mean optical density over the channels, 0 = empty glass.
``pen``, ``fold``, ``bubble``: share of the tile, 0 to 1. ``duplicate``: 0, or the group whose first piece this
tile's piece repeats."""

_FOLD_AREA_UM2 = 10_000.0
_FOLD_TIMES, _FOLD_SPREADS = 1.8, 3.0
"""A fold is two layers: this many times the slide's median density, and this many robust deviations above it."""
_BUBBLE_AREA_UM2 = 5_000.0
_COLOURLESS = 0.25
"""Spread of the density over the channels, as a part of its mean, below which there is no stain."""
_LEAST_DENSITY = 0.06
_FINE_ENOUGH_UM = 20.0
"""um/px that is fine enough for all of this: finer overviews are halved, at a quarter of the time."""


def artefact_masks(overview: RGB, tissue: Mask, um_per_px: float, background: tuple[int, int, int]) -> dict[str, Mask]:
    """Find artefacts on an overview with a bright background.

    Returns
    -------
    dict
        ``pen``: see `wsi.tissue.pen`. ``fold``: tissue far denser and more strongly coloured than the slide's tissue.
        ``bubble``: what absorbs light without a stain's colour, such as rims of bubbles, edges of cover slips, dirt.
    """
    if 2 * um_per_px <= _FINE_ENOUGH_UM and min(tissue.shape) > 1:
        size = (tissue.shape[1] // 2, tissue.shape[0] // 2)
        rgb = np.asarray(cv2.resize(overview, size, interpolation=cv2.INTER_AREA), np.uint8)
        inside = np.asarray(cv2.resize(tissue, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        masks = artefact_masks(rgb, inside, 2 * um_per_px, background)
        whole = tissue.shape[::-1]
        return {
            name: np.asarray(cv2.resize(mask, whole, interpolation=cv2.INTER_NEAREST), np.uint8)
            for name, mask in masks.items()
        }
    pen = pen_mask(overview, um_per_px, background)
    inks = densities(overview, background)
    mean = mean_of(inks)
    colour = most(inks)
    colour -= least(inks)
    clear = pen == 0
    bubble = clear & (mean > _LEAST_DENSITY) & (colour < _COLOURLESS * mean)
    return {
        "pen": pen,
        "fold": _large(_folds(mean, colour, (tissue > 0) & clear), _FOLD_AREA_UM2 / um_per_px**2),
        "bubble": _large(bubble, _BUBBLE_AREA_UM2 / um_per_px**2),
    }


def no_artefacts(shape: tuple[int, int]) -> dict[str, Mask]:
    """Return what `artefact_masks` returns for a slide on which none can be seen (a dark background)."""
    return {name: np.zeros(shape, np.uint8) for name in ("pen", "fold", "bubble")}


@dataclass(frozen=True, slots=True)
class Assessed:
    """What the overview says about a slide's quality."""

    scores: dict[str, NDArray[np.float32]]
    """`OVERVIEW_SCORES` of every tile of the grid, float32 (rows, columns) each."""
    facts: dict[str, Any]
    """JSON values."""
    notes: tuple[str, ...]
    """What a careful user should know."""


def assess(overview: RGB, tissue: Tissue, um_per_px: float, share: NDArray[np.float32], means: TileMeans) -> Assessed:
    """Look for pen, folds, bubbles and repeated sections.

    Parameters
    ----------
    overview
        uint8 (h, w, 3).
    tissue
        Found on it.
    um_per_px
        um/px of both.
    share
        Share of tissue of every tile of the grid.
    means
        Turns pictures in the overview's frame into means over tiles.
    """
    dark, mask = tissue.dark_background, tissue.mask
    masks = no_artefacts(mask.shape) if dark else artefact_masks(overview, mask, um_per_px, tissue.background)
    clean = np.where(masks["pen"] > 0, 0, mask).astype(np.uint8)  # two strokes of a pen are no repeated section
    repeats = find_repeats(overview, clean, um_per_px, tissue.background, dark_background=dark)
    scores = {name: means(found) for name, found in masks.items()}
    group = np.zeros_like(share)
    for number in range(1, len(repeats.groups) + 1):
        covered = means((repeats.labels == number).astype(np.uint8))
        group[(covered > 0) & (covered >= share / 2)] = number
    total = np.count_nonzero(mask)
    parts = {name: np.count_nonzero(found & mask) / total if total else 0.0 for name, found in masks.items()}
    facts = {
        "artefact_shares": {name: round(part, 5) for name, part in parts.items()},
        "pieces": repeats.pieces,
        "repeats": repeats.groups,
    }
    darkness = means(mean_density(overview, tissue.background))
    return Assessed({"darkness": darkness} | scores | {"duplicate": group}, facts, tuple(_notes(parts, repeats)))


def _notes(parts: dict[str, float], repeats: Repeats) -> list[str]:
    named = (("pen", "pen marks"), ("fold", "folds"))
    notes = [f"{what} on {parts[name]:.0%} of the tissue (score {name})" for name, what in named if parts[name] > 0.01]
    if repeats.copies:
        notes.append(f"{repeats.copies} of {repeats.pieces} pieces of tissue repeat another one (score duplicate)")
    return notes


def _folds(mean: NDArray[np.float32], colour: NDArray[np.float32], tissue: Bools) -> Bools:
    if not tissue.any():
        return tissue
    inside = mean[tissue]
    middle, usual_colour = float(np.median(inside)), float(np.median(colour[tissue]))
    spread = 1.4826 * float(np.median(np.abs(inside - middle)))
    dense = mean > max(_FOLD_TIMES * middle, middle + _FOLD_SPREADS * spread)
    return np.asarray(tissue & dense & (colour > 1.2 * usual_colour))


def _large(mask: Bools, least_px: float) -> Mask:
    """Keep pieces of at least that many pixels."""
    if not mask.any():
        return as_mask(mask)
    labels, area = pieces(mask)
    return as_mask(of_pieces(labels, area >= least_px))

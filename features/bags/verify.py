"""Are bags whole? What they say of themselves is checked against their rows."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from features.bags.bag import BagHeader, feature_rows, find_bags, read_coords, read_header
from features.bags.moments import moments_of
from features.bags.options import VerifyBagsOptions
from features.views import VIEWS
from wsi.arrays import Features
from wsi.errors import BagError
from wsi.machine.cpu import usable_cpus
from wsi.pages import plural
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import recipe_hash


def verify_bags(options: VerifyBagsOptions, progress: Progress | None = None) -> Summary:
    """Verify every bag; one that is not whole FAILED, with what is wrong as its reason.

    Of our own bags and exports the content's sha256 and the recipe's hash are checked; of every bag that features are
    finite, that there are as many coordinates, that no tile stands twice, and that tiles lie on the slide where its
    size is told.

    Raises
    ------
    RequestError
        No bag is found.
    """
    start, progress = time.perf_counter(), progress or Silent()
    paths = find_bags(options.bags)
    progress.begin("verify", len(paths), "bags")
    outcomes = []
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for outcome in pool.map(_verified, paths):
            outcomes.append(outcome)
            progress.advance(1)
    progress.end()
    return Summary("verify", outcomes, time.perf_counter() - start)


def _verified(path: Path) -> Outcome:
    try:
        header = read_header(path)
        rows = feature_rows(path)
        _check_moments(header, rows)
        _check_recipe(header)
        _check_tiles(header)
    except (BagError, OSError) as error:
        return Outcome(path.stem, Status.FAILED, str(error))
    return Outcome(header.image_id, Status.DONE, facts={"tiles": header.n_tiles, "dim": header.dim})


def _check_moments(header: BagHeader, rows: Features) -> None:
    if header.moments is None:
        return
    found = moments_of(rows)
    for own, taken in ((header.moments.sum_D, found.sum_D), (header.moments.spread_D, found.spread_D)):
        if not np.allclose(own, taken, rtol=1e-9, atol=1e-9 * max(1.0, float(np.abs(taken).max(initial=0.0)))):
            raise BagError(f"{header.path}: its moments are not those of its rows: extract it again")


def _check_recipe(header: BagHeader) -> None:
    if header.recipe and recipe_hash(header.recipe) != header.recipe_hash:
        raise BagError(f"{header.path}: its recipe is not the one of its hash: extract it again")


def _check_tiles(header: BagHeader) -> None:
    # micrometres (STAMP's form) stay such: whether tiles stand twice, any unit tells
    yx = read_coords(header.path, l0_mpp=1.0)
    rows_per_tile = _rows_per_tile(header)
    found, expected = len(np.unique(yx, axis=0)), len(yx) // rows_per_tile
    if found != expected:
        raise BagError(f"{header.path}: expected {expected} different tiles, found {found}: extract it again")
    if header.level0_shape_yx is None:
        return
    outside = np.flatnonzero((yx < 0).any(axis=1) | (yx >= header.level0_shape_yx).any(axis=1))
    if len(outside):
        y, x = yx[outside[0]].tolist()
        raise BagError(
            f"{header.path}: {plural(len(outside), 'tile', verb='are')} not on the slide, the first at (y, x) = "
            f"({y}, {x}) of {header.level0_shape_yx[0]} x {header.level0_shape_yx[1]}: extract it again"
        )


def _rows_per_tile(header: BagHeader) -> int:
    views = header.recipe.get("views", {})
    if not isinstance(views, dict) or (views.get("kept") and views.get("kind") not in VIEWS):
        raise BagError(f"{header.path}: its recipe tells views that are not known: extract it again")
    return len(VIEWS[views["kind"]]) if views.get("kept") else 1

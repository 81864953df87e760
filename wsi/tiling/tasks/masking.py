"""From the overview to the tiles that are wanted: bands, mask, regions drawn by hand, scores.

Each function here is one Dask task: module-level, idempotent, its argument and result small and picklable.
"""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.scores.artefacts import assess
from wsi.store.grid import tile_means
from wsi.tiling.opened import slide_errors
from wsi.tiling.overview import overview_band
from wsi.tiling.plan import SlidePlan
from wsi.tiling.tile_recipe import select_tiles
from wsi.tissue.mask import fill_holes, find_tissue
from wsi.tissue.roi import roi_file, roi_mask
from wsi.units import YX


def make_band(plan: SlidePlan, index: int) -> None:
    """Make one band of the overview and put it into the work folder."""
    place = YX(index, 0)
    if plan.work.has_part(place):
        return
    with slide_errors(plan.path):
        rgb, damaged = overview_band(plan.slide(), plan.overview, index)
    plan.refuse_damage(damaged)
    plan.work.write_part(place, rgb, damaged)


def make_tissue(plan: SlidePlan) -> tuple[YX, ...]:
    """Find the tissue on the overview; put mask, tissue fractions and the overview's scores into the work folder.

    Returns
    -------
    tuple
        Regions that hold anything to store, row by row.
    """
    rgb, damaged = plan.work.overview(plan.overview.shape, plan.overview_parts)

    def over_tiles(picture: NDArray[Any]) -> NDArray[np.float32]:
        tile_o, extent_o = plan.tiles_in_overview
        return tile_means(picture, tile_o, plan.grid.tiles, extent_o)

    tissue = find_tissue(rgb, plan.mask_mpp, damaged)
    mask = _final_mask(plan, tissue.mask, damaged, filled=plan.options.fill_holes)
    filled = plan.options.fill_holes and (mask != _final_mask(plan, tissue.mask, damaged, filled=False)).any()
    tissue = replace(tissue, mask=mask)
    fractions = over_tiles(mask)
    assessed = assess(rgb, tissue, plan.mask_mpp, fractions, over_tiles)
    # Damaged places are stored, too, so that they show as such and are listed.
    listed, stored = select_tiles(fractions, plan.options.min_tissue, plan.options.keep_background)
    wanted = stored | (over_tiles(damaged) > 0)
    scores = {f"score_{name}": grid for name, grid in assessed.scores.items()}
    facts = asdict(tissue) | assessed.facts
    del facts["mask"]
    plan.work.write_tissue(
        {"mask": mask, "fractions": fractions, "wanted": wanted, "listed": listed, **scores},
        facts
        | {
            "notes": (*tissue.notes, *assessed.notes),
            "holes_filled": bool(filled),
            "damaged_overview": bool(damaged.any()),
        },
    )
    return tuple(region for region in plan.regions if plan.in_region(region, wanted).any())


def _final_mask(
    plan: SlidePlan, mask: NDArray[np.uint8], damaged: NDArray[np.uint8], *, filled: bool
) -> NDArray[np.uint8]:
    """Join the tissue that was found with the regions that were drawn, the holes of both filled or not."""
    options = plan.options
    if filled:
        mask = fill_holes(mask)
    if options.roi is not None:
        file = roi_file(options.roi, plan.image_id)
        drawn = roi_mask(file, plan.slide_shape, plan.overview.shape, plan.overview.l0_per_o, options.roi_class)
        if filled:
            drawn = fill_holes(drawn)
        mask = drawn if options.roi_mode == "replace" else drawn & mask
    return np.where(damaged > 0, 0, mask).astype(np.uint8)

"""The last task of a slide: coarse levels, mask, overview, tile list, root metadata; then the store is whole."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.errors import DamagedSlideError, StoreError
from wsi.files.atomic import PARTIAL, write_bytes
from wsi.files.replace import discard, put
from wsi.pages import plural
from wsi.progress.step_times import StepTimes
from wsi.recipe import Recipe, recipe_hash
from wsi.scores.artefacts import OVERVIEW_SCORES
from wsi.scores.drop import Rule, dropped
from wsi.scores.quality import TILE_SCORES, focus_notes
from wsi.store.grid import SHARD_TILES, any_under
from wsi.store.layout import (
    ICC_KEY,
    group,
    image_multiscales,
    meta_hash,
    omero,
    shard_path,
    write_json,
    write_small_array,
)
from wsi.store.metadata import FORMAT_VERSION, is_our_store
from wsi.store.shards import ShardFile
from wsi.store.side_images import write_overview, write_tissue_label
from wsi.tiling.opened import slide_errors
from wsi.tiling.options import AREA, DCT
from wsi.tiling.plan import SlidePlan
from wsi.tiling.tasks.region import copied_tile
from wsi.tiling.tile_recipe import finished
from wsi.tiling.work import Receipt
from wsi.units import YX, ceil_div

_PACKAGES = ("gigamil", "imagecodecs", "numpy", "opencv-python-headless", "openslide-python", "tifffile", "zarr")


def finish(plan: SlidePlan, regions: Sequence[YX]) -> dict[str, Any]:
    """Complete the store and rename it to its final name; return facts for the summary.

    Raises
    ------
    StoreError
        A region's shards are not there or not whole.
    DamagedSlideError
        Every tissue tile of the slide is damaged.
    """
    receipts = [_receipt(plan, region) for region in regions]
    total, damaged = sum(r.n_tiles for r in receipts), sum(len(r.damaged) for r in receipts)
    if total and damaged == total:
        raise DamagedSlideError(f"{plan.path.name}: not one of its {total} tissue tiles can be decoded")
    _coarse_levels(plan, receipts)
    listed = _write_tiles(plan, receipts)
    um, mpp = plan.mask_mpp, plan.scaling.mpp
    write_tissue_label(plan.partial, plan.work.tissue("mask")["mask"], um, mpp, plan.grid.factors())
    write_overview(plan.partial, plan.work.overview(plan.overview.shape, plan.overview_parts)[0], um, mpp)
    if plan.icc:
        write_bytes(plan.partial / ICC_KEY, plan.icc)
    facts = _facts(plan, receipts, listed)
    for left_over in plan.partial.rglob(f".*{PARTIAL}"):  # by a worker that was killed
        discard(left_over)
    meta = _meta(plan, facts, _recipe(plan, facts, listed))
    meta["sha256"] = meta_hash(json.loads(json.dumps(meta)))
    write_json(plan.partial / "zarr.json", group({"ome": _ome(plan), "gigamil": meta}))
    plan.work.end()
    put(plan.partial, plan.out, is_our_store)
    return facts


def _receipt(plan: SlidePlan, region: YX) -> Receipt:
    receipt = plan.work.receipt(region)
    if receipt is None:
        raise StoreError(f"{plan.partial}: region {tuple(region)} is not whole: run the same command again")
    return receipt


def _coarse_levels(plan: SlidePlan, receipts: Sequence[Receipt]) -> None:
    """Copy the levels after those of the tasks where the slide has them, or make them from the tasks' last one."""
    first, end = plan.grid.task_levels(), len(plan.grid.levels())
    heads = [level for level in range(first, end) if plan.copies[level] is not None]
    if first < end and first not in heads:
        _halve_last(plan, receipts, range(first - 1, heads[0] if heads else end))
    for head, stop in pairwise([*heads, end]):
        _copy_level(plan, range(head, stop))


def _copy_level(plan: SlidePlan, levels: range) -> None:
    """Copy the slide's own tiles of a level over the wanted ones, and make the levels below it."""
    source, slide = plan.copies[levels.start], plan.slide()
    tiles = None if source is None else slide.tiles(source)
    assert tiles is not None
    present = any_under(plan.work.tissue("wanted")["wanted"], plan.grid.factors()[levels.start])
    end = plan.grid.level_tiles(levels.start)
    with plan.writing(levels, StepTimes()) as (writer, _):
        for place in np.argwhere(present[: end.y, : end.x]).tolist():
            with slide_errors(plan.path):
                data, pixels, _ = copied_tile(plan, tiles, YX(*place), writer, wanted=writer.wants_pixels)
            writer.put_stored(YX(*place), data, pixels)


def _halve_last(plan: SlidePlan, receipts: Sequence[Receipt], levels: range) -> None:
    """Make levels from the tasks' last one, the first of them, whose shards hold one chunk each."""
    last = levels.start
    with plan.writing(levels, StepTimes()) as (writer, _):
        for receipt in receipts:
            if last in receipt.shards:
                data = ShardFile(shard_path(plan.partial, last, *receipt.region), 1).chunk(0)
                assert data is not None
                writer.pass_on(receipt.region, writer.decoded(receipt.region, data))


@dataclass(frozen=True, slots=True)
class _TileList:
    """The tile list of a store."""

    yx: NDArray[np.int32]
    """int32 (n, 2), row and column."""
    scores: dict[str, NDArray[np.float32]]
    """float32 (n,) each."""
    looked_at: dict[str, NDArray[np.float32]]
    """Scores of the tiles whose pixels were looked at: a few where tiles are copied."""
    dropped: int
    """Tiles that rules left out."""
    dropping: tuple[Rule, ...]
    """The rules that left any out."""


def _write_tiles(plan: SlidePlan, receipts: Sequence[Receipt]) -> _TileList:
    """Write the tile list, its scores and the list of damaged tiles."""
    tissue = plan.work.tissue()
    fractions, listed = tissue["fractions"], tissue["listed"]
    damaged = np.array(sorted(tile for r in receipts for tile in r.damaged), np.int32).reshape(-1, 2)
    listed[damaged[:, 0], damaged[:, 1]] = False
    every = _scores(tissue, receipts, np.argwhere(listed))
    scores = {name: values for name, values in every.items() if not np.isnan(values).any()}
    kept = ~dropped(plan.options.rules, scores, int(listed.sum()))
    dropping = tuple(rule for rule in plan.options.rules if dropped([rule], scores, int(listed.sum())).any())
    yx = np.argwhere(listed)[kept].astype(np.int32)
    scores = {name: values[kept] for name, values in scores.items()}
    folder = plan.partial / "tiles"
    write_json(folder / "zarr.json", group({}))
    write_small_array(folder / "yx", yx, ("tile", "yx"))
    write_small_array(folder / "tissue", fractions[listed][kept], ("tile",))
    write_small_array(folder / "damaged", damaged, ("tile", "yx"))
    for name, values in scores.items():
        write_small_array(folder / name, values, ("tile",))
    looked_at = {name: values[~np.isnan(values)] for name, values in every.items()}
    return _TileList(yx, scores, looked_at, int((~kept).sum()), dropping)


def _scores(
    tissue: dict[str, NDArray[Any]], receipts: Sequence[Receipt], listed: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Return each score of the listed tiles, float32 (n,); NaN for tiles whose pixels were not looked at."""
    rows, columns = listed[:, 0], listed[:, 1]
    scores: dict[str, NDArray[np.float32]] = {}
    for name in TILE_SCORES:
        grid = np.full(tissue["fractions"].shape, np.nan, np.float32)
        for receipt in receipts:
            if receipt.scored:
                places = np.array(receipt.scored)
                grid[places[:, 0], places[:, 1]] = receipt.scores[name]
        scores[name] = grid[rows, columns]
    for name in OVERVIEW_SCORES:
        scores[name] = tissue[f"score_{name}"][rows, columns].astype(np.float32)
    return scores


def _ome(plan: SlidePlan) -> dict[str, Any]:
    scales = image_multiscales(plan.image_id, plan.grid, plan.scaling.mpp)
    return {"version": "0.5", "multiscales": [scales], "omero": omero()}


def _facts(plan: SlidePlan, receipts: Sequence[Receipt], listed: _TileList) -> dict[str, Any]:
    tissue = plan.work.tissue_facts()
    damaged = sum(len(r.damaged) for r in receipts)
    warnings = [*plan.notes, *tissue["notes"], *plan.resolution.rejected]
    if damaged:
        warnings.append(f"{plural(damaged, 'tile', verb='are')} damaged and left out")
    warnings += focus_notes(listed.looked_at["focus"], plan.scaling.mpp)
    if listed.dropped:
        rules = ", ".join(str(rule) for rule in plan.options.rules)
        warnings.append(f"{plural(listed.dropped, 'tile', verb='are')} left out by --drop {rules}")
    medians_of = listed.looked_at | listed.scores
    steps = sorted({step for r in receipts for step in r.seconds})
    return {
        "tiles": len(listed.yx),
        "stored_tiles": sum(r.n_tiles for r in receipts),
        "damaged_tiles": damaged,
        "dropped_tiles": listed.dropped,
        "scores": list(listed.scores),
        "median_scores": {n: round(float(np.median(v)), 6) if len(v) else None for n, v in medians_of.items()},
        "mpp": plan.scaling.mpp,
        "mpp_source": plan.resolution.source,
        "reader": plan.reader,
        "bytes_in": plan.bytes,
        "bytes_out": sum(r.bytes_written for r in receipts),
        "seconds": {step: round(sum(r.seconds.get(step, 0.0) for r in receipts), 3) for step in steps},
        "tissue": tissue,
        "warnings": warnings,
    }


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((name, version(name)) for name in _PACKAGES)


def _recipe(plan: SlidePlan, facts: dict[str, Any], listed: _TileList) -> Recipe:
    damaged = bool(facts["damaged_tiles"] or facts["tissue"]["damaged_overview"] or plan.missing)
    filled = bool(facts["tissue"]["holes_filled"])
    return finished(plan.recipe, plan.options, damaged=damaged, dropping=listed.dropping, filled=filled)


def _meta(plan: SlidePlan, facts: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return our own attributes: an allow-list; nothing that the scanner wrote as free text is copied."""
    profile = {"sha256": hashlib.sha256(plan.icc).hexdigest(), "applied": "icc" in plan.recipe} if plan.icc else None
    levels = {"levels": [[factor, *shape] for factor, shape in plan.grid.coarser]} if plan.grid.coarser else {}
    return (
        ({"icc": profile} if profile else {})
        | levels
        | {
            "format": FORMAT_VERSION,
            "complete": True,
            "image_id": plan.image_id,
            "tile_px": plan.grid.tile_px,
            "mpp": plan.scaling.mpp,
            "l0_px_per_px": plan.scaling.l0_per_s,
            "slide_shape_yx": list(plan.slide_shape),
            "shape_yx": list(plan.grid.shape),
            "mask_mpp": plan.mask_mpp,
            "codec": plan.codecs[0],
            "codecs": list(plan.codecs),
            "jpeg_checksum": "crc32c",
            "n_tiles": facts["tiles"],
            "scores": facts["scores"],
            "recipe": recipe,
            "recipe_hash": recipe_hash(recipe),
            "provenance": {
                "format": plan.format,
                "reader": plan.reader,
                "reader_because": plan.chosen_because,
                "level": plan.scaling.level,
                "downscale": DCT if plan.reduction > 1 else AREA,
                "single_pass": plan.single_pass is not None,
                "mpp_source": plan.resolution.source,
                "slide_mpp": plan.resolution.mpp,
                "tissue": facts["tissue"],
                "median_scores": facts["median_scores"],
                "damaged_tiles": facts["damaged_tiles"],
                "warnings": facts["warnings"],
                "versions": dict(_versions()),
                "regions": [
                    SHARD_TILES,
                    ceil_div(plan.grid.tiles.y, SHARD_TILES),
                    ceil_div(plan.grid.tiles.x, SHARD_TILES),
                ],
            },
        }
    )

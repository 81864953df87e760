"""From a slide file to the list of regions to be tiled: open, resolve um/px, overview, tissue, grid.

Each function here is one Dask task: module-level, idempotent, its argument and result small and picklable. What passes
between tasks lies in the work folder inside the unfinished store.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from socket import gethostname
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.cohort.fingerprint import fingerprint, slide_bytes
from wsi.cohort.slides import Job
from wsi.errors import DamagedSlideError, RequestError, SlideError
from wsi.files.atomic import PARTIAL, replacing, write_text
from wsi.files.replace import remove
from wsi.memory import keep_freed_memory
from wsi.pixels.icc import SRGB
from wsi.readers.protocol import Slide
from wsi.readers.resolution import ASSUMED, Resolution, resolve_mpp
from wsi.recipe import Recipe, canonical
from wsi.scores.artefacts import assess
from wsi.slide import open_slide
from wsi.store.codecs import AUTO
from wsi.store.grid import SHARD_TILES, TASK_LEVELS, Grid, tile_means
from wsi.store.layout import SUFFIX, write_image_arrays
from wsi.store.metadata import is_our_partial
from wsi.tiling.options import DCT, NATIVE, TileOptions
from wsi.tiling.overview import OverviewPlan, overview_band, plan_overview
from wsi.tiling.passthrough import copied_levels
from wsi.tiling.reduced_jpeg import can_reduce
from wsi.tiling.scaling import Scaling, choose_scaling
from wsi.tiling.single_pass import SinglePass, plan_single_pass
from wsi.tiling.tile_recipe import ALGORITHM, effect, select_tiles
from wsi.tissue.mask import fill_holes, find_tissue
from wsi.tissue.roi import roi_file, roi_hash, roi_mask
from wsi.units import YX

_OPEN_SLIDES = 6


@dataclass(frozen=True, slots=True)
class SlidePlan:
    """Everything that the tasks of one slide need to know."""

    image_id: str
    path: Path
    """Of the slide."""
    out: Path
    """The finished store's path."""
    options: TileOptions
    reader: str
    """The reader that took the file."""
    scaling: Scaling
    grid: Grid
    codecs: tuple[str, ...]
    """Codec of each level's chunks."""
    copies: tuple[int | None, ...]
    """For each level that a task writes, the slide's level whose JPEG tiles are copied, None where they are made."""
    overview: OverviewPlan
    reduction: int
    """How many times smaller JPEG tiles are decoded for level 0; 1 where pixels are averaged."""
    single_pass: SinglePass | None
    """Set where overview and tiles are made in one pass."""
    resolution: Resolution
    slide_shape: YX
    """Level-0 pixels."""
    format: str
    icc: bytes
    """The slide's ICC profile; may be empty."""
    notes: tuple[str, ...]
    missing: bool
    """The file lacks bytes that it declares."""
    chosen_because: str
    recipe: dict[str, Any]
    bytes: int
    """Size of the slide file."""

    @property
    def partial(self) -> Path:
        """The unfinished store."""
        return partial_path(self.out)

    @property
    def work(self) -> Path:
        """What passes between the tasks; gone when the store is finished."""
        return self.partial / ".work"

    @property
    def overview_parts(self) -> YX:
        """Parts in which the overview is made, down and across."""
        return self.grid.regions if self.single_pass else YX(self.overview.bands, 1)

    @property
    def mask_mpp(self) -> float:
        """um/px of overview and mask."""
        return self.resolution.mpp * self.overview.l0_per_o


def store_path(out: Path, image_id: str) -> Path:
    """Return the path of a finished store."""
    return out / f"{image_id}{SUFFIX}"


def partial_path(store: Path) -> Path:
    """Return the path of a store that is being written."""
    return store.with_name(store.name + PARTIAL)


@lru_cache(maxsize=_OPEN_SLIDES)
def _cached(
    path: Path, reader: str | None, scene: int | None, srgb: bool, _size: int, _mtime_ns: int, _process: int
) -> Slide:
    return open_slide(path, reader, scene=scene, srgb=srgb)


def cached_slide(path: Path, reader: str | None, options: TileOptions) -> Slide:
    """Return an open slide; each worker process keeps the last few open, for its tasks come from several slides."""
    keep_freed_memory()
    try:
        stat = os.stat(path)
    except OSError:
        return open_slide(path, reader, scene=options.scene)  # raises, with its reason
    return _cached(path, reader, options.scene, options.icc == SRGB, stat.st_size, stat.st_mtime_ns, os.getpid())


def make_plan(job: Job, options: TileOptions) -> SlidePlan:
    """Open the slide and decide how it is tiled; nothing is written.

    Raises
    ------
    SlideError
        The slide cannot be read, or its um/px is not known or too coarse.
    """
    if not options.out.is_dir():
        raise RequestError(f"--out {options.out}: the worker on {gethostname()} does not see this folder")
    slide = cached_slide(job.path, options.reader, options)
    if slide.missing and options.on_damage == "fail":
        raise DamagedSlideError(f"{slide.missing}: copy the file again, or give --on-damage skip")
    resolution = resolve_mpp(
        slide.mpp_claims,
        objective_power=slide.objective_power,
        manifest_mpp=job.mpp,
        assume_mpp=options.assume_mpp,
    )
    scaling = choose_scaling(slide.levels, resolution.mpp, options.target_mpp)
    grid = Grid(scaling.shape, _tile_px(slide, scaling, options))
    converted = bool(options.icc and slide.icc)
    copies = (
        copied_levels(slide, scaling, grid)
        if options.codec in {AUTO, "jpeg"} and not converted
        else (None,) * TASK_LEVELS
    )
    overview = plan_overview(slide, resolution.mpp)
    apart = options.roi is not None or any(source is not None for source in copies)
    by_dct = options.downscale == DCT and can_reduce(slide, scaling.level, scaling.factor)
    reduction = int(scaling.factor) if by_dct else 1
    codecs = _codecs(options.codec, copies, len(grid.levels()))
    recipe = _recipe(job, options, slide, resolution)
    recipe["effect"] = effect(options, scaling, grid.tile_px, codecs, copies, reduction)
    return SlidePlan(
        image_id=job.image_id,
        path=job.path,
        out=store_path(options.out, job.image_id),
        options=options,
        reader=slide.reader,
        scaling=scaling,
        grid=grid,
        codecs=codecs,
        copies=copies,
        overview=overview,
        reduction=reduction,
        single_pass=None if apart else plan_single_pass(slide, scaling, grid, overview),
        resolution=resolution,
        slide_shape=slide.levels[0].shape,
        format=slide.format,
        icc=slide.icc,
        notes=tuple(slide.notes),
        missing=bool(slide.missing),
        chosen_because=slide.chosen_because,
        recipe=recipe,
        bytes=slide_bytes(job.path),
    )


def _recipe(job: Job, options: TileOptions, slide: Slide, resolution: Resolution) -> Recipe:
    """Return what is asked of this slide; what stands there only where it matters: scene, profile, a um/px assumed."""
    recipe = options.recipe() | {
        "algorithm": ALGORITHM,
        "reader": slide.reader,
        "slide_mpp": resolution.mpp,
        "slide": fingerprint(job.path),
        "roi": roi_hash(roi_file(options.roi, job.image_id)) if options.roi is not None else None,
    }
    if len(slide.scenes) > 1:
        recipe["scene"] = slide.scene
    if options.icc and slide.icc:
        recipe["icc"] = options.icc
    if resolution.source == ASSUMED:
        recipe["assume_mpp"] = options.assume_mpp
    return recipe


def _codecs(wanted: str, copies: tuple[int | None, ...], n_levels: int) -> tuple[str, ...]:
    made = wanted
    if wanted == AUTO:  # what is made from copied JPEG tiles has lost what it can lose, and would be ten times as large
        made = "zstd" if copies[0] is None else "jpeg"
    copied = [source is not None for source in copies]
    return tuple("jpeg" if i < len(copied) and copied[i] else made for i in range(n_levels))


def _tile_px(slide: Slide, scaling: Scaling, options: TileOptions) -> int:
    if options.tile_px != NATIVE:
        return int(options.tile_px)
    tile = slide.levels[scaling.level].tile
    if tile is None or tile.y != tile.x or tile.y % 2 or not 32 <= tile.y <= 4096:
        raise RequestError(
            f"--tile-px native: {slide.path.name} has tiles of {tile}: expected squares of an even 32 to 4096 px"
        )
    return tile.y


def start_partial(plan: SlidePlan) -> None:
    """Make the unfinished store, or take up one that an earlier run with the same recipe left."""
    marker = plan.work / "recipe.json"
    wanted = canonical(plan.recipe | {"on_damage": plan.options.on_damage})
    if marker.is_file() and marker.read_text("utf-8") == wanted:
        return
    remove(plan.partial, is_our_partial)
    plan.work.mkdir(parents=True)  # the mark, before anything else
    write_image_arrays(plan.partial, plan.grid, plan.codecs)
    write_text(marker, wanted)


def make_band(plan: SlidePlan, index: int) -> None:
    """Make one band of the overview and put it into the work folder."""
    if part_path(plan, YX(index, 0)).is_file():
        return
    with slide_errors(plan):
        rgb, damaged = overview_band(cached_slide(plan.path, plan.reader, plan.options), plan.overview, index)
    refuse_damage(plan, damaged)
    write_part(plan, YX(index, 0), rgb, damaged)


def refuse_damage(plan: SlidePlan, damaged: NDArray[np.uint8]) -> None:
    """Raise `DamagedSlideError` where cells of the overview, uint8 (h, w), are damaged and the options forbid it."""
    if damaged.any() and plan.options.on_damage == "fail":
        raise DamagedSlideError(
            f"{plan.path.name}: pixels cannot be decoded (in {int(damaged.sum())} of {damaged.size} overview cells): "
            "copy the file again, or give --on-damage skip"
        )


def part_path(plan: SlidePlan, place: YX) -> Path:
    """Return where a part of the overview lies: a band's, or a region's where the slide is decoded once."""
    return plan.work / f"overview-{place.y}-{place.x}.npz"


def write_part(plan: SlidePlan, place: YX, rgb: RGB, damaged: NDArray[np.uint8]) -> None:
    """Put a part of the overview into the work folder: uint8 (h, w, 3), and its damage, uint8 (h, w)."""
    with replacing(part_path(plan, place)) as temporary, temporary.open("wb") as file:
        np.savez(file, rgb=rgb, damaged=damaged)


def read_overview(plan: SlidePlan) -> tuple[RGB, NDArray[np.uint8]]:
    """Return the whole overview, uint8 (h, w, 3), and its damage, uint8 (h, w)."""
    rgb, damaged = np.empty((*plan.overview.shape, 3), np.uint8), np.empty(plan.overview.shape, np.uint8)
    y = 0
    for row in range(plan.overview_parts.y):
        x = 0
        for column in range(plan.overview_parts.x):
            with np.load(part_path(plan, YX(row, column))) as part:
                height, width = part["damaged"].shape
                rgb[y : y + height, x : x + width] = part["rgb"]
                damaged[y : y + height, x : x + width] = part["damaged"]
            x += width
        y += height
    return rgb, damaged


@dataclass(frozen=True, slots=True)
class TissuePlan:
    """Where the tissue is, in tiles."""

    regions: tuple[YX, ...]
    """Regions that hold anything to store, row by row."""
    n_wanted: int
    """Tiles to store."""
    notes: tuple[str, ...]


def make_tissue(plan: SlidePlan) -> TissuePlan:
    """Find the tissue on the overview; put mask, tissue fractions and the overview's scores into the work folder."""
    rgb, damaged = read_overview(plan)
    tissue = find_tissue(rgb, plan.mask_mpp, damaged)
    mask = _final_mask(plan, tissue.mask, damaged, filled=plan.options.fill_holes)
    filled = plan.options.fill_holes and (mask != _final_mask(plan, tissue.mask, damaged, filled=False)).any()
    tissue = replace(tissue, mask=mask)
    fractions = means_over_tiles(plan, tissue.mask)
    assessed = assess(rgb, tissue, plan.mask_mpp, fractions, partial(means_over_tiles, plan))
    notes = (*tissue.notes, *assessed.notes)
    # Damaged places are stored, too, so that they show as such and are listed.
    listed, stored = select_tiles(fractions, plan.options.min_tissue, plan.options.keep_background)
    wanted = stored | (means_over_tiles(plan, damaged) > 0)
    scores = {f"score_{name}": grid for name, grid in assessed.scores.items()}
    with replacing(plan.work / "tissue.npz") as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            mask=tissue.mask,
            fractions=fractions,
            wanted=wanted,
            listed=listed,
            **scores,  # type: ignore[arg-type]  # no score is called allow_pickle
        )
    facts = (
        asdict(tissue)
        | assessed.facts
        | {"notes": notes, "holes_filled": bool(filled), "damaged_overview": bool(damaged.any())}
    )
    del facts["mask"]
    write_text(plan.work / "tissue.json", json.dumps(facts))
    regions = [
        YX(y, x)
        for y in range(plan.grid.regions.y)
        for x in range(plan.grid.regions.x)
        if wanted[y * SHARD_TILES : (y + 1) * SHARD_TILES, x * SHARD_TILES : (x + 1) * SHARD_TILES].any()
    ]
    return TissuePlan(tuple(regions), int(wanted.sum()), notes)


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


def means_over_tiles(plan: SlidePlan, picture: NDArray[Any]) -> NDArray[np.float32]:
    """Return the mean of a picture in the overview's frame over every tile of the grid, float32 (rows, columns)."""
    tile, extent = tiles_in_overview(plan)
    return tile_means(picture, tile, plan.grid.tiles, extent)


def tiles_in_overview(plan: SlidePlan) -> tuple[float, tuple[float, float]]:
    """Return the side of a tile, and height and width of the store, in overview pixels."""
    o_per_s = plan.scaling.l0_per_s / plan.overview.l0_per_o
    return plan.grid.tile_px * o_per_s, (plan.grid.shape.y * o_per_s, plan.grid.shape.x * o_per_s)


def read_tissue(plan: SlidePlan, *names: str) -> dict[str, NDArray[Any]]:
    """Return what `make_tissue` put into the work folder, all of it or the arrays that are named.

    ``mask``; ``fractions``, ``wanted``, ``listed`` and ``score_<name>`` of every tile of the grid.
    """
    with np.load(plan.work / "tissue.npz") as file:
        return {name: file[name] for name in names or file.files}


@contextmanager
def slide_errors(plan: SlidePlan) -> Iterator[None]:
    """Turn a file that vanished, or a disk that fails, into a `SlideError`: that is no damage, and is tried again."""
    try:
        yield
    except OSError as error:
        raise SlideError(
            f"{plan.path.name}: reading failed: {error.strerror or error}: run the same command again"
        ) from None

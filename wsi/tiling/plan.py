"""How one slide is to be tiled: its um/px, the grid, the codecs, and the ways through it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname

import numpy as np
from numpy.typing import NDArray

from wsi.arrays import Bools
from wsi.cohort.fingerprint import fingerprint, slide_bytes
from wsi.cohort.slides import Job
from wsi.errors import DamagedSlideError, RequestError
from wsi.files.atomic import PARTIAL
from wsi.progress.step_times import StepTimes
from wsi.readers.protocol import Slide
from wsi.readers.resolution import ASSUMED, Resolution, resolve_mpp
from wsi.recipe import Recipe
from wsi.store.codecs import AUTO, SUBSAMPLING
from wsi.store.grid import SHARD_TILES, Grid
from wsi.store.layout import SUFFIX
from wsi.store.pyramid import LevelWriter, write_levels
from wsi.store.shards import ShardWriter
from wsi.tiling.opened import opened_slide
from wsi.tiling.options import DCT, HALVES, NATIVE, SOURCE, TileOptions
from wsi.tiling.overview import OverviewPlan, plan_overview
from wsi.tiling.scaling import Scaling, choose_scaling, copied_levels, copyable_levels, own_levels
from wsi.tiling.single_pass import SinglePass, plan_single_pass
from wsi.tiling.tile_recipe import ALGORITHM, effect
from wsi.tiling.work import Work
from wsi.tissue.roi import roi_file, roi_hash
from wsi.units import YX

_BY_TILES = ("tiff", "ndpi")
"""Readers of whose slides the overview is made tile by tile in any case."""


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
    """For each level, the slide's level whose JPEG tiles are copied, None where they are made."""
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
    recipe: Recipe
    bytes: int
    """Size of the slide file."""

    @property
    def partial(self) -> Path:
        """The unfinished store."""
        return partial_path(self.out)

    @property
    def work(self) -> Work:
        """What passes between the tasks."""
        return Work(self.partial, self.grid)

    def slide(self) -> Slide:
        """Return the slide, open."""
        return opened_slide(self.path, self.reader, self.options)

    @property
    def regions(self) -> tuple[YX, ...]:
        """Every region, row by row."""
        return tuple(YX(y, x) for y in range(self.grid.regions.y) for x in range(self.grid.regions.x))

    def in_region(self, region: YX, t_grid: Bools) -> Bools:
        """Return a region's part of the tile grid, bool (16, 16), False beyond the grid's end."""
        tiles = self.grid.region_tiles(region)
        part = np.zeros((SHARD_TILES, SHARD_TILES), bool)
        part[: tiles.shape.y, : tiles.shape.x] = t_grid[tiles.y0 : tiles.y1, tiles.x0 : tiles.x1]
        return part

    def task_levels(self, region: YX) -> range:
        """Return the levels of which a region is a shard."""
        levels = range(self.grid.task_levels())
        return range(max(level for level in levels if self.grid.has_shard(level, region)) + 1)

    @property
    def overview_parts(self) -> YX:
        """Parts in which the overview is made, down and across."""
        return self.grid.regions if self.single_pass else YX(self.overview.bands, 1)

    @property
    def mask_mpp(self) -> float:
        """um/px of overview and mask."""
        return self.resolution.mpp * self.overview.l0_per_o

    @property
    def tiles_in_overview(self) -> tuple[float, tuple[float, float]]:
        """The side of a tile, and height and width of the store, in overview pixels."""
        o_per_s = self.scaling.l0_per_s / self.overview.l0_per_o
        return self.grid.tile_px * o_per_s, (self.grid.shape.y * o_per_s, self.grid.shape.x * o_per_s)

    def writing(
        self, levels: range, times: StepTimes, region: YX | None = None
    ) -> AbstractContextManager[tuple[LevelWriter, dict[int, ShardWriter]]]:
        """Return what writes levels of the unfinished store; see `wsi.store.pyramid.write_levels`."""
        subsampling = self.options.subsampling
        return write_levels(self.partial, self.grid, self.codecs, levels, times, region, subsampling=subsampling)

    def start(self) -> None:
        """Make the unfinished store, or take up one that an earlier run with the same recipe left."""
        self.work.start(self.recipe | {"on_damage": self.options.on_damage}, self.codecs)

    def refuse_damage(self, damaged: NDArray[np.uint8]) -> None:
        """Raise `DamagedSlideError` where cells of the overview, uint8 (h, w), are damaged and that is not allowed."""
        if damaged.any() and self.options.on_damage == "fail":
            raise DamagedSlideError(
                f"{self.path.name}: pixels cannot be decoded (in {int(damaged.sum())} of {damaged.size} overview "
                "cells): copy the file again, or give --on-damage skip"
            )


def store_path(out: Path, image_id: str) -> Path:
    """Return the path of a finished store."""
    return out / f"{image_id}{SUFFIX}"


def partial_path(store: Path) -> Path:
    """Return the path of a store that is being written."""
    return store.with_name(store.name + PARTIAL)


def make_plan(job: Job, options: TileOptions) -> SlidePlan:
    """Open the slide and decide how it is tiled; nothing is written.

    Raises
    ------
    SlideError
        The slide cannot be read, or its um/px is not known or too coarse.
    """
    if not options.out.is_dir():
        raise RequestError(f"--out {options.out}: the worker on {gethostname()} does not see this folder")
    slide = opened_slide(job.path, options.reader, options)
    if slide.missing and options.on_damage == "fail":
        raise DamagedSlideError(f"{slide.missing}: copy the file again, or give --on-damage skip")
    resolution = resolve_mpp(
        slide.mpp_claims,
        objective_power=slide.objective_power,
        manifest_mpp=job.mpp,
        assume_mpp=options.assume_mpp,
    )
    scaling = choose_scaling(slide.levels, resolution.mpp, options.target_mpp)
    grid, copies = _pyramid(slide, scaling, Grid(scaling.shape, _tile_px(slide, scaling, options)), options)
    reduction = _reduction(slide, scaling, options)
    copied = any(source is not None for source in copies)
    # Of other readers' slides only where the recipe tells their stores from those that were made without it.
    by_tiles = slide.reader in _BY_TILES or reduction > 1 or copied
    overview = plan_overview(slide, resolution.mpp, by_tiles=by_tiles)
    codecs = _codecs(options.codec, copies)
    told = effect(options, scaling, grid.tile_px, codecs, copies, reduction)
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
        single_pass=None if copied or options.roi else plan_single_pass(slide, scaling, grid, overview),
        resolution=resolution,
        slide_shape=slide.levels[0].shape,
        format=slide.format,
        icc=slide.icc,
        notes=slide.notes,
        missing=bool(slide.missing),
        chosen_because=slide.chosen_because,
        recipe=_recipe(job, options, slide, resolution)
        | ({"pyramid": SOURCE} if grid.coarser else {})
        | ({"subsampling": options.subsampling} if _subsamples(codecs, copies, options) else {})
        | {"effect": told},
        bytes=slide_bytes(job.path),
    )


def _subsamples(codecs: tuple[str, ...], copies: tuple[int | None, ...], options: TileOptions) -> bool:
    """Tell whether JPEG is made, and not copied, with other subsampling than the usual."""
    copied = [source is not None for source in copies] + [False] * len(codecs)
    made = any(name == "jpeg" and not same for name, same in zip(codecs, copied, strict=False))
    return made and options.subsampling != SUBSAMPLING


def _pyramid(slide: Slide, scaling: Scaling, grid: Grid, options: TileOptions) -> tuple[Grid, tuple[int | None, ...]]:
    """Return the grid with its levels, and what is copied for each of them.

    Raises
    ------
    RequestError
        The slide's own levels are asked for, and not even its level at the store's scale can be copied.
    """
    made = options.codec == "zstd" or (options.icc and slide.icc)
    copyable = {} if made else copyable_levels(slide, grid.tile_px)
    if options.pyramid != HALVES:
        own = own_levels(scaling, grid, copyable)
        copies = copied_levels(scaling, own, copyable)
        if copies[0] is not None:
            return own, copies
        if options.pyramid == SOURCE:
            raise RequestError(
                f"--pyramid source: {slide.path.name} has no colour JPEG tiles of {grid.tile_px} px that can be copied "
                f"at {scaling.mpp:.4g} um/px: give --tile-px native, another --mpp, or --pyramid auto"
            )
    return grid, copied_levels(scaling, grid, copyable)


def _reduction(slide: Slide, scaling: Scaling, options: TileOptions) -> int:
    """Return how many times smaller JPEG tiles are decoded for level 0."""
    tiles = slide.tiles(scaling.level) if options.downscale == DCT else None
    return int(scaling.factor) if tiles and tiles.can_reduce(scaling.factor) else 1


def _recipe(job: Job, options: TileOptions, slide: Slide, resolution: Resolution) -> Recipe:
    """Return what is asked of this slide; only where they matter: scene, profile, colours by looks, assumed um/px."""
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
    if slide.colours:  # stores of before they were told so are made anew
        recipe["colours"] = slide.colours
    if resolution.source == ASSUMED:
        recipe["assume_mpp"] = options.assume_mpp
    return recipe


def _codecs(wanted: str, copies: tuple[int | None, ...]) -> tuple[str, ...]:
    made = wanted
    if wanted == AUTO:  # what is made from copied JPEG tiles has lost what it can lose, and would be ten times as large
        made = "zstd" if copies[0] is None else "jpeg"
    return tuple(made if source is None else "jpeg" for source in copies)


def _tile_px(slide: Slide, scaling: Scaling, options: TileOptions) -> int:
    if options.tile_px != NATIVE:
        return int(options.tile_px)
    tile = slide.levels[scaling.level].tile
    if tile is None or tile.y != tile.x or tile.y % 2 or not 32 <= tile.y <= 4096:
        found = f"tiles of {tile.x} x {tile.y} px" if tile else "no tiles that it tells of"
        raise RequestError(
            f"--tile-px native: {slide.path.name} has {found}: expected squares of an even 32 to 4096 px"
        )
    return tile.y

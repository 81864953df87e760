"""One slide tiled in part, by the tiler's own tasks, each of them timed: what the rest of it will cost.

Where the tissue is, is told by a sketch of the overview: of a large slide only some tiles are decoded, evenly spread.
Then a few regions are made in full, and a store is finished that holds these alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mil.accounting.spent import disk_use, own_peak_bytes
from mil.planning.headers import SlideFacts, facts_of
from mil.planning.trials.clock import Clock
from wsi.arrays import RGB, Bools
from wsi.cohort.slides import Job
from wsi.readers.protocol import Slide
from wsi.tiling.options import TileOptions
from wsi.tiling.overview import OverviewPlan, average_tiles, overview_band
from wsi.tiling.plan import SlidePlan, make_plan
from wsi.tiling.single_pass import region_part
from wsi.tiling.tasks.finish import finish
from wsi.tiling.tasks.masking import make_tissue
from wsi.tiling.tasks.region import make_region
from wsi.tiling.tasks.settle import make_region_once, settle_region
from wsi.units import YX, Box, ceil_div

_SKETCHED = 2048
"""Tiles that are decoded for a sketch, about."""
_REGIONS, _BANDS = 3, 3
"""Regions with tissue that are made, and bands of the overview."""


@dataclass(slots=True)
class Piece:
    """Some work of a slide, and what it took."""

    mpx: float
    """Level-0 pixels that it covers, 1e6."""
    tiles: int
    """That it stored."""
    seconds: float
    """Of one worker that has a processor to itself."""


@dataclass(slots=True)
class Sample:
    """What a slide that was tiled in part tells."""

    facts: SlideFacts
    serial_seconds: float = 0.0
    bands: list[Piece] = field(default_factory=list)
    regions: list[Piece] = field(default_factory=list)
    stored: float = 0.0
    """Tiles that the whole store would hold."""
    listed: float = 0.0
    """Of these, those that would be encoded."""
    tile_bytes: float = 0.0
    """Of the regions' shards."""
    side_bytes: float = 0.0
    """Of what else the store holds."""
    worker_bytes: int = 0
    seconds: float = 0.0
    """Of all of it; as `Clock` counts it."""
    wall: float = 0.0
    store: Path | None = None
    """The finished store of a part of the slide; None where it has no tissue."""

    @contextmanager
    def serially(self) -> Iterator[None]:
        """Count the block's time."""
        clock = Clock()
        yield
        self.serial_seconds += clock.seconds


def sample_slide(job: Job, options: TileOptions) -> Sample:
    """Tile a part of a slide into ``options.out``; one Dask task.

    Raises
    ------
    SlideError
        It cannot be read, or its pixels cannot be decoded.
    """
    cv2.setNumThreads(1)
    clock = Clock()
    plan = make_plan(job, replace(options, overwrite=True))
    sample = Sample(facts_of(job, plan))
    plan.start()
    sample.serial_seconds += clock.seconds
    _sketch(plan)
    with sample.serially():
        make_tissue(plan)
    if plan.single_pass is None:
        sample.bands = [_band(plan, index) for index in _spread(plan.overview.bands, _BANDS)]
    _regions(plan, sample)
    sample.worker_bytes = own_peak_bytes()
    sample.seconds, sample.wall = clock.seconds, clock.wall
    return sample


def _spread(count: int, most: int) -> list[int]:
    """Return up to so many numbers below a count, evenly spread."""
    return sorted({int((i + 0.5) * count / most) for i in range(most)}) if count > most else list(range(count))


def _band(plan: SlidePlan, index: int) -> Piece:
    clock = Clock()
    rgb, _ = overview_band(plan.slide(), plan.overview, index)
    share = rgb.shape[0] / plan.overview.shape.y
    return Piece(share * plan.slide_shape.y * plan.slide_shape.x / 1e6, 0, clock.seconds)


def _regions(plan: SlidePlan, sample: Sample) -> None:
    """Choose regions, make them, finish the store that holds no others."""
    tissue = plan.work.tissue()
    sample.stored, sample.listed = float(tissue["wanted"].sum()), float(tissue["listed"].sum())
    chosen = _chosen(plan, tissue["wanted"])
    inside = np.zeros(tissue["wanted"].shape, bool)
    for region in chosen:
        part = plan.grid.region_tiles(region)
        inside[part.y0 : part.y1, part.x0 : part.x1] = True
    held = {name: tissue[name] & inside for name in ("wanted", "listed")}
    plan.work.write_tissue(tissue | held, plan.work.tissue_facts())
    kept = 0
    for region in chosen:
        piece, written = _region(plan, region)
        sample.regions.append(piece)
        sample.tile_bytes += written
        kept += piece.tiles
    if held["wanted"].any():
        sample.stored *= kept / held["wanted"].sum()  # a single pass keeps a few tiles too many
        with sample.serially():
            finish(plan, [region for region in chosen if plan.in_region(region, held["wanted"]).any()])
        sample.store = plan.out
        sample.side_bytes = max(0.0, disk_use([plan.out]) - sample.tile_bytes)


def _chosen(plan: SlidePlan, wanted: Bools) -> list[YX]:
    """Return regions with much, some and little tissue; of a slide that is decoded in one pass also one without."""
    counts = {region: int(plan.in_region(region, wanted).sum()) for region in plan.regions}
    filled = sorted((region for region in plan.regions if counts[region]), key=lambda region: -counts[region])
    chosen = [filled[i] for i in _spread(len(filled), _REGIONS)]
    empty = [region for region in plan.regions if not counts[region]] if plan.single_pass else []
    return chosen + [empty[i] for i in _spread(len(empty), 1)]


def _region(plan: SlidePlan, region: YX) -> tuple[Piece, int]:
    """Make a region; return what it took, and the bytes of its shards.

    A region that finds its own tiles is then made to fit the mask. That is not counted: the mask of a sketch misses the
    tiles by some, so that regions are made anew that would be left as they are. A tile is taken to cost what it did.
    """
    clock = Clock()
    if not plan.single_pass:
        make_region(plan, region)
        seconds, receipt = clock.seconds, plan.work.receipt(region)
    else:
        make_region_once(plan, region)
        seconds, found = clock.seconds, plan.work.receipt(region)
        settle_region(plan, region)
        receipt = plan.work.receipt(region)
        if found and receipt and found.n_tiles:
            seconds *= receipt.n_tiles / found.n_tiles
    tiles = plan.grid.region_tiles(region).shape
    mpx = tiles.y * tiles.x * (plan.grid.tile_px * plan.scaling.l0_per_s) ** 2 / 1e6
    return (
        Piece(mpx, receipt.n_tiles if receipt else 0, seconds),
        receipt.bytes_written if receipt else 0,
    )


def _sketch(plan: SlidePlan) -> None:
    """Put an overview into the work folder of which only some tiles were decoded: each stands for its neighbours."""
    rgb, damaged = sketched(plan.slide(), plan.overview)
    plan.refuse_damage(damaged)
    if plan.single_pass:
        parts = {region: region_part(plan.overview, plan.scaling, plan.grid, region) for region in plan.regions}
    else:
        step, end = plan.overview.band, plan.overview.shape
        bands = range(plan.overview.bands)
        parts = {YX(i, 0): Box(i * step, 0, min((i + 1) * step, end.y), end.x) for i in bands}
    for place, box in parts.items():
        cut = np.s_[box.y0 : box.y1, box.x0 : box.x1]
        plan.work.write_part(place, np.ascontiguousarray(rgb[cut]), np.ascontiguousarray(damaged[cut]))


def sketched(slide: Slide, plan: OverviewPlan, most: int = _SKETCHED) -> tuple[RGB, NDArray[np.uint8]]:
    """Return an overview, uint8 (h, w, 3), and its damage, uint8 (h, w), by at most about so many of its tiles.

    Of a slide that has no more it is the overview itself. Else every k-th tile of every k-th row is repeated k x k
    times, so that shares of areas are those of the slide, but for the chance of what lies under the tiles.
    """
    source, factor = slide.levels[plan.level], plan.factor
    own = source.tile or YX(256, 256)
    side = YX(*(ceil_div(max(length, factor), factor) for length in own))  # overview pixels
    grid = YX(ceil_div(plan.shape.y, side.y), ceil_div(plan.shape.x, side.x))
    step = max(1, ceil_div(int(np.ceil((grid.y * grid.x / most) ** 0.5 * 16)), 16))
    rgb, damaged = np.empty((*plan.shape, 3), np.uint8), np.zeros(plan.shape, np.uint8)
    for row in range(0, grid.y, step):
        for column in range(0, grid.x, step):
            at = YX(min(row + step // 2, grid.y - 1) * side.y, min(column + step // 2, grid.x - 1) * side.x)
            patch, damage = _patch(slide, plan, at, side)
            cut = np.s_[row * side.y : (row + step) * side.y, column * side.x : (column + step) * side.x]
            for picture, piece in ((rgb, patch), (damaged, damage)):
                view = picture[cut]
                view[:] = _repeated(piece, YX(*view.shape[:2]))
    return rgb, damaged


def _repeated(piece: NDArray[np.uint8], shape: YX) -> NDArray[np.uint8]:
    rows, columns = np.arange(shape.y) % piece.shape[0], np.arange(shape.x) % piece.shape[1]
    return piece[rows][:, columns]


def _patch(slide: Slide, plan: OverviewPlan, o_at: YX, side: YX) -> tuple[RGB, NDArray[np.uint8]]:
    """Return a tile's part of the overview, and its damage."""
    shape = YX(min(side.y, plan.shape.y - o_at.y), min(side.x, plan.shape.x - o_at.x))
    rgb, damaged, factor = np.empty((*shape, 3), np.uint8), np.zeros(shape, np.uint8), plan.factor
    tiles = plan.tiles(slide)
    if tiles and tiles.cut.tile == YX(side.y * factor, side.x * factor):
        average_tiles(tiles, factor, o_at, rgb, damaged)
        return rgb, damaged
    corner = YX(o_at.y * factor, o_at.x * factor)
    box = Box(*corner, corner.y + shape.y * factor, corner.x + shape.x * factor).clipped(slide.levels[plan.level].shape)
    found: list[Box] = []
    pixels = np.ascontiguousarray(slide.read(plan.level, box, found))
    rgb[:] = cv2.resize(pixels, (shape.x, shape.y), interpolation=cv2.INTER_AREA)
    damaged[:] = bool(found)
    return rgb, damaged

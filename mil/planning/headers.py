"""What the slides' headers tell: how large each is, which kind of work it makes, and which cannot be read."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wsi.cohort.fingerprint import slide_bytes
from wsi.cohort.slides import Job
from wsi.progress.outcome import Progress
from wsi.readers.tiff.reader import TiffReader
from wsi.tiling.engine import reason
from wsi.tiling.options import TileOptions
from wsi.tiling.plan import SlidePlan, make_plan, store_path

HEADER_SECONDS = 25.0
"""What reading headers may take; of a cohort that needs more, a part is read and stands for the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideFacts:
    """One slide, as its header tells it."""

    job: Job
    kind: str
    """Slides of one kind cost alike for each pixel and tile: format, compression, what is made of it, and how."""
    mpx: float
    """Of level 0, 1e6 pixels."""
    grid_tiles: int
    """Of the store's whole grid: no more can be listed."""
    overview_px: int
    bytes: int
    """Of the file."""


@dataclass(frozen=True, slots=True)
class Headers:
    """The slides of a cohort that are still to be tiled."""

    slides: tuple[SlideFacts, ...] = ()
    """Those whose header was read."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Image id -> why it cannot be tiled."""
    unread: int = 0
    """Slides whose header was not read, for there are so many."""
    scale: float = 1.0
    """All slides by those read, in bytes."""

    @property
    def todo(self) -> int:
        """Return how many slides are expected to be tiled."""
        return len(self.slides) + self.unread


def read_headers(jobs: Sequence[Job], options: TileOptions, scratch: Path, progress: Progress) -> Headers:
    """Read the headers of slides in a random order, all of them or as many as there is time for.

    Parameters
    ----------
    jobs
        The slides that are to be tiled.
    options
        Of the tiling.
    scratch
        A folder that exists; nothing is written there.
    progress
        Told of each header.
    """
    began, slides, failures = time.monotonic(), dict[int, SlideFacts](), dict[str, str]()
    unread, options = list[Job](), replace(options.absolute(), out=scratch)
    progress.begin("read headers", len(jobs), "slides")
    for number in np.random.default_rng(0).permutation(len(jobs)).tolist():
        job = jobs[number]
        if job.problem:
            failures[job.image_id] = job.problem
        elif time.monotonic() - began > HEADER_SECONDS and slides:
            unread.append(job)
        else:
            try:
                slides[number] = facts_of(job, make_plan(job, options))
            except Exception as error:  # as in tiling: whatever is raised belongs to this slide alone
                failures[job.image_id] = reason(error)
        progress.advance(1)
    progress.end()
    known = [slides[number] for number in sorted(slides)]
    read = sum(own.bytes for own in known)
    rest = sum(slide_bytes(job.path) for job in unread)
    return Headers(tuple(known), failures, len(unread), 1 + rest / read if read else 1.0)


def facts_of(job: Job, plan: SlidePlan) -> SlideFacts:
    """Return what a plan tells of a slide."""
    tiles = plan.grid.tiles
    return SlideFacts(
        job=job,
        kind=kind_of(plan),
        mpx=plan.slide_shape.y * plan.slide_shape.x / 1e6,
        grid_tiles=tiles.y * tiles.x,
        overview_px=plan.overview.shape.y * plan.overview.shape.x,
        bytes=plan.bytes,
    )


def kind_of(plan: SlidePlan) -> str:
    """Return the kind of work that a slide makes, for a person and as a key: what is read, how, and what is made."""
    made = f"{plan.grid.tile_px} px {plan.codecs[0]}"
    if plan.copies[0] is not None:
        return f"{_source(plan)}, copied to {made}"
    factor = plan.scaling.factor
    how = [f"1:{factor:.3g}"] if factor != 1 else []
    how += ["by DCT"] if plan.reduction > 1 else []
    how += ["in one pass"] if plan.single_pass else []
    return f"{_source(plan)}, {' '.join([*how, 'decoded'])} to {made}"


def _source(plan: SlidePlan) -> str:
    slide, level = plan.slide(), plan.scaling.level
    tile = slide.levels[level].tile
    size = f" {tile.x} px" if tile else ""
    if isinstance(slide, TiffReader):
        return f"{slide.stored_levels[level].page.compression.name.lower().replace('_', ' ')}{size} TIFF"
    tiles = slide.tiles(level)
    return f"{'jpeg ' if tiles and tiles.jpeg else ''}{slide.format}{size} by {slide.reader}"


def is_tiled(out: Path, job: Job) -> bool:
    """Tell whether a slide's store is there."""
    return store_path(out, job.image_id).exists()

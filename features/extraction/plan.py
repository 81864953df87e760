"""What an extraction has to do: the cohort's tiles in one order, cut into batches, the batches into work items.

The order is that of the request (tile size, then image id, then the store's tile order); batches cross from slide to
slide. They are cut from the whole request, finished slides included: so a tile shares its batch with the same tiles in
a first run, in a resumed one, and with any number of ranks, and its features are the same to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsi.arrays import Ints
from wsi.recipe import Recipe

LARGEST_ITEM = 64
"""Batches in a work item, at most: what a rank that dies can lose."""
ITEMS_PER_RANK = 4
"""An item is at most this part of a rank's share of what remains, so that ranks finish together."""

RowRange = tuple[int, int]
"""Rows [start, stop) of a slide's tile list."""


@dataclass(frozen=True, slots=True)
class Target:
    """One bag of a slide."""

    path: Path
    encoder: str
    recipe: Recipe
    provenance: dict[str, Any]
    columns: slice
    """Those of the job's features that the bag holds."""


@dataclass(frozen=True, slots=True)
class SlideJob:
    """One slide of the request."""

    image_id: str
    store: Path | str
    targets: tuple[Target, ...]
    """Its bags: one, or one for each of several encoders."""
    n_tiles: int
    tile_px: int
    recipe: Recipe
    """Of all columns together; its parts are kept under its hash."""
    wanted: bool
    """False where the bag is there already, or cannot be made."""
    chosen: Ints | None = field(default=None, compare=False)
    """Rows of the store's tile list that are encoded, ascending; None: all. ``n_tiles`` counts them."""
    covered: tuple[RowRange, ...] = ()
    """Rows whose features an earlier run left as parts; sorted, apart from each other."""

    @property
    def bag(self) -> Path:
        """Return the first bag's path; parts lie beside it."""
        return self.targets[0].path

    def store_rows(self, start: int, stop: int) -> Ints:
        """Return where rows [start, stop) stand in the store's tile list."""
        return np.arange(start, stop) if self.chosen is None else self.chosen[start:stop]

    def missing(self) -> int:
        """Return how many rows are still to be computed."""
        return self.n_tiles - sum(stop - start for start, stop in self.covered) if self.wanted else 0

    def uncovered(self, rows: RowRange) -> list[RowRange]:
        """Return the parts of ``rows`` that are still to be computed."""
        if not self.wanted:
            return []
        position, end = rows
        pieces = []
        for start, stop in self.covered:
            if position < start and position < end:
                pieces.append((position, min(start, end)))
            position = max(position, stop)
        return pieces + ([(position, end)] if position < end else [])


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of one slide within a batch."""

    slide: int
    """Index in the job's slides."""
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Tiles that go through the encoder together: fixed by the request, whoever reads them."""

    tile_px: int
    spans: tuple[Span, ...]

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return sum(span.stop - span.start for span in self.spans)

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels."""
        return self.n_tiles * 3 * self.tile_px**2


Item = tuple[Batch, ...]
"""A run of batches: what a rank takes at once."""


@dataclass(frozen=True, slots=True)
class Job:
    """The whole request, as every rank knows it."""

    slides: tuple[SlideJob, ...]
    """Sorted by tile size, then image id."""
    batch_size: int
    dim: int
    """Length of a feature vector."""
    encoder: str
    weights_sha256: str
    """Every rank checks that its encoder is the same."""
    stain: str = "none"
    """`features.stain`."""
    kept_views: int = 1
    """Rows of a bag for each tile; more than one where test-time views are kept."""
    views: str = "none"
    """`features.views`; the mean over them, unless each is kept."""
    precision: str = "fp32"
    """Decided once for all ranks, as is the type of the device: ``cpu`` or ``cuda``."""
    device_type: str = "cpu"
    compiled: bool = False
    channels_last: bool = True
    bag_dtype: str = "float16"
    """Of the features in bags and parts: ``float16`` or ``float32``."""

    @property
    def width(self) -> int:
        """Return how many numbers a tile has: ``dim`` for each view that is kept."""
        return self.dim * self.kept_views

    def batches(self) -> list[Batch]:
        """Cut the request into batches; tiles of different sizes never share one."""
        batches: list[Batch] = []
        spans: list[Span] = []
        room = self.batch_size
        for index, slide in enumerate(self.slides):
            if spans and self.slides[spans[-1].slide].tile_px != slide.tile_px:
                batches.append(self._batch(spans))
                spans, room = [], self.batch_size
            row = 0
            while row < slide.n_tiles:
                stop = min(slide.n_tiles, row + room)
                spans.append(Span(index, row, stop))
                room -= stop - row
                row = stop
                if room == 0:
                    batches.append(self._batch(spans))
                    spans, room = [], self.batch_size
        return [*batches, self._batch(spans)] if spans else batches

    def _batch(self, spans: list[Span]) -> Batch:
        return Batch(self.slides[spans[0].slide].tile_px, tuple(spans))

    def items(self, n_ranks: int) -> list[Item]:
        """Return the work still to do, largest items first, so that ``n_ranks`` ranks finish together."""
        needed = [
            batch
            for batch in self.batches()
            if any(self.slides[span.slide].uncovered((span.start, span.stop)) for span in batch.spans)
        ]
        items, position = [], 0
        while position < len(needed):
            fair = (len(needed) - position) // (n_ranks * ITEMS_PER_RANK)
            size = max(1, min(LARGEST_ITEM, fair))
            items.append(tuple(needed[position : position + size]))
            position += size
        return items

    def runs(self, item: Item) -> list[Span]:
        """Return the item's rows that are still to be computed, neighbouring batches joined."""
        runs: list[Span] = []
        for span in (span for batch in item for span in batch.spans):
            for start, stop in self.slides[span.slide].uncovered((span.start, span.stop)):
                if runs and (runs[-1].slide, runs[-1].stop) == (span.slide, start):
                    runs[-1] = Span(span.slide, runs[-1].start, stop)
                else:
                    runs.append(Span(span.slide, start, stop))
        return runs


def joined(rows: Sequence[RowRange]) -> tuple[RowRange, ...]:
    """Sort row ranges and join those that touch or overlap."""
    result: list[RowRange] = []
    for start, stop in sorted(rows):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(stop, result[-1][1]))
        else:
            result.append((start, stop))
    return tuple(result)

"""Features back to where they belong: rows gathered into runs, runs written as bags or as parts of bags."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from features.bags.content import check_finite
from features.distributed import Group
from features.extraction.ledger import Ledger
from features.extraction.parts import assemble, write_part, write_whole
from features.extraction.plan import Item, Job, RowRange, Span, joined
from features.extraction.stream import Task
from wsi.arrays import Features
from wsi.errors import ItemError
from wsi.store.tile_store import TileStore


@dataclass(slots=True)
class _Run:
    """Rows of one slide that one item computes."""

    span: Span
    features_ND: Features
    filled: list[RowRange]
    """Rows of the slide that are there."""

    @property
    def whole(self) -> bool:
        """Tell whether no row is missing."""
        return sum(stop - start for start, stop in self.filled) == len(self.features_ND)


class Collector:
    """Takes encoded batches of one rank; writes a bag at once where the rank has all its rows, else a part.

    The rank that adds a slide's last part makes the bag of it.
    """

    def __init__(self, job: Job, items: list[Item], group: Group, ledger: Ledger) -> None:
        self._job, self._items, self._group, self._ledger = job, items, group, ledger
        self._open: dict[int, list[_Run]] = {}
        self._failed: set[int] = set()
        self._begun: set[int] = set()

    def take(self, task: Task) -> None:
        """Store the features of one batch, and write what is complete with them."""
        for slide, reason in task.failures.items():
            self._fail(slide, reason)
        row = 0
        new = 0
        for span in task.batch.spans:
            rows = span.stop - span.start
            new += self._take_span(task, span, row)
            row += rows
        self._ledger.tiles(new)
        if task.item in self._open and not self._open[task.item]:
            del self._open[task.item]

    def _take_span(self, task: Task, span: Span, first_row: int) -> int:
        """Copy one slide's rows of a batch into its runs; return how many were wanted."""
        assert task.features is not None
        if span.slide not in self._begun:
            self._begun.add(span.slide)
            self._ledger.started(span.slide)
        new = 0
        runs = self._runs(task.item)
        for run in [run for run in runs if run.span.slide == span.slide]:
            start, stop = max(run.span.start, span.start), min(run.span.stop, span.stop)
            if start >= stop:
                continue
            source = task.features[first_row + start - span.start : first_row + stop - span.start]
            rows = run.features_ND[start - run.span.start : stop - run.span.start]
            with np.errstate(over="ignore", invalid="ignore"):
                rows[:] = source
            if not np.isfinite(rows).all() and span.slide not in self._failed:
                self._fail(span.slide, self._why_not_finite(span.slide, rows, start, source))
            run.filled.append((start, stop))
            new += stop - start
            if run.whole:
                runs.remove(run)
                self._finish(run)
        return new

    def _why_not_finite(self, index: int, rows: Features, first_row: int, computed: Features) -> str:
        """Return the tile, the value that the encoder gave, and what to do."""
        slide = self._job.slides[index]
        try:
            coords_l0_yx = TileStore(slide.store).coords_l0_yx()[slide.store_rows(0, slide.n_tiles)]
            check_finite(slide.bag.name, rows, first_row, coords_l0_yx, computed)
        except ItemError as error:
            return str(error)
        raise AssertionError("a value that is not finite was there")

    def keep(self) -> None:
        """Leave what is there of runs that are not whole as parts, for the run that goes on."""
        for runs in self._open.values():
            for run in runs:
                for start, stop in joined(run.filled) if run.span.slide not in self._failed else ():
                    with suppress(ItemError, OSError):
                        rows = run.features_ND[start - run.span.start : stop - run.span.start]
                        write_part(self._job.slides[run.span.slide], start, rows)

    def _runs(self, item: int) -> list[_Run]:
        if item not in self._open:
            spans = self._job.runs(self._items[item])
            sizes = [span.stop - span.start for span in spans]
            self._open[item] = [
                _Run(span, np.empty((size, self._job.width), self._job.bag_dtype), [])
                for span, size in zip(spans, sizes, strict=True)
            ]
        return self._open[item]

    def _finish(self, run: _Run) -> None:
        index, slide = run.span.slide, self._job.slides[run.span.slide]
        if index in self._failed:
            return
        rows: RowRange = (run.span.start, run.span.stop)
        try:
            if rows == (0, slide.n_tiles):
                write_whole(self._job, slide, [run.features_ND])
            else:
                write_part(slide, run.span.start, run.features_ND)
                if self._group.add(f"rows/{index}", rows[1] - rows[0]) < slide.missing():
                    return
                assemble(self._job, slide)
        except (ItemError, OSError) as error:
            self._fail(index, str(error))
        else:
            self._ledger.finished(index)

    def _fail(self, slide: int, reason: str) -> None:
        if slide not in self._failed:
            self._failed.add(slide)
            self._ledger.failed(slide, reason)

"""`gigamil run`: the stages of a cohort file as far as they are needed, in their order, by the verbs' own functions.

A slide or an experiment that fails is named, and the others go on. What is finished is skipped; what was stopped goes
on where it was. What another process is at is waited for, or, of one stage alone, left to it.
"""

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path

from features.extraction.options import ExtractOptions
from mil.accounting.kept import accounted
from mil.pipeline.afterwards import claims_of, make_after
from mil.pipeline.cohort.cohort_file import CohortFile, read_cohort_file
from mil.pipeline.cohort.slides import bags_under_way, cohort_slides, stores_there, without_store
from mil.pipeline.experiments import DONE, FAILED, Experiments
from mil.pipeline.options import RunOptions
from mil.pipeline.outputs import rows_of_file
from mil.pipeline.patience import is_held, shared_with_others
from mil.pipeline.rehearsed import check_rehearsal, why_not_rehearsed
from mil.pipeline.training import work_through
from wsi.errors import GigamilError, ItemError, RequestError
from wsi.files.claim import held_by
from wsi.files.documents import parse_json, read_document
from wsi.machine.memory import give_back_freed
from wsi.options import in_environment, stage
from wsi.pages import agreeing, plural
from wsi.progress.events import EVENTS
from wsi.progress.outcome import CLAIMED, Outcome, Progress, Silent, Status, Summary
from wsi.store.shards import open_shard
from wsi.tiling.options import TileOptions

__all__ = ["RunOptions", "run"]

STAGE = "stage"
"""Fact of each outcome: the stage that it is of."""
LOG = "events.jsonl"


def _into_log(function: Callable[[RunOptions, Progress | None], Summary]) -> Callable[..., Summary]:
    """Have a run and its stages write their events into the cohort's log, unless another one is named."""

    @wraps(function)
    def logged(options: RunOptions, progress: Progress | None = None) -> Summary:
        folder = read_cohort_file(options.cohort).folder
        _make(folder)
        with _variable(EVENTS, os.environ.get(EVENTS) or str(folder / LOG)):
            return function(options, progress)

    return logged


@_into_log
@stage
def run(options: RunOptions, progress: Progress | None = None) -> Summary:
    """Do what is left to do of a cohort file.

    Items that failed only because another process is at them carry the fact ``claimed``: of one stage alone they are
    not waited for.

    Raises
    ------
    RequestError
        The file is wrong, a stage cannot be carried out as it was put, or no rehearsal was passed and one is required.
    ItemError
        A stage left nothing for the next one.
    """
    start, file = time.monotonic(), read_cohort_file(options.cohort)
    if options.require_rehearsal:
        check_rehearsal(file)
    own = _Run(file, options, progress or Silent())
    with in_environment(file.tile):
        outcomes = own.all_stages() if options.stage == "all" else own.one(options.stage)
    return Summary("run", outcomes, time.monotonic() - start)


@dataclass(frozen=True)
class _Run:
    """One run of a cohort file."""

    file: CohortFile
    options: RunOptions
    progress: Progress

    def all_stages(self) -> list[Outcome]:
        """Do all stages; raise `ItemError` where one leaves nothing for the next."""
        if why := why_not_rehearsed(self.file):
            self.progress.note(f"note: {why}")
        done = self.one("tile")
        if not stores_there(self.file, cohort_slides(self.file)):
            raise ItemError(f"tile: not one slide could be tiled: {_first_reason(done)}")
        done += self.one("extract")
        self._check_bags(done)
        done += self.one("train")
        if self._is_trained():
            done += self.one("after")
        return done

    def one(self, name: str) -> list[Outcome]:
        """Do one stage; its errors begin with its name."""
        stages = {"tile": self.tile, "extract": self.extract, "train": self.train, "after": self.after}
        try:
            with accounted(self.file.folder, name, [self.file.folder]) as account:  # beside what was planned
                found = [replace(own, facts=own.facts | {STAGE: name}) for own in stages[name]()]
                account.done = sum(own.status is Status.DONE for own in found)
        except GigamilError as error:
            raise type(error)(f"{name}: {error}") from None
        open_shard.cache_clear()  # the pages of mapped stores count for this process
        give_back_freed()
        self.progress.note("; ".join(filter(None, [f"{name}: {counts(found)}", account.line])))
        return found

    def tile(self) -> Iterable[Outcome]:
        """Tile the slides."""
        from wsi.tiling.tiler import tile

        own = [self._tiling(tiling) for tiling in self.file.tilings]
        return self._shared(
            lambda: _once(outcome for tiling in own for outcome in tile(tiling, self.progress).outcomes),
            lambda image_id: self.file.store(image_id),
            "slides",
        )

    def _tiling(self, tiling: TileOptions) -> TileOptions:
        workers = tiling.workers if self.options.workers is None else self.options.workers
        scheduler = address_of(self.options.scheduler) if self.options.scheduler else tiling.scheduler
        return replace(tiling, overwrite=self.options.overwrite, workers=workers, scheduler=scheduler)

    def extract(self) -> Iterator[Outcome]:
        """Extract with each encoder from the stores that are there."""
        jobs = cohort_slides(self.file)
        stores = stores_there(self.file, jobs)
        if not stores:
            raise ItemError(f"no tile store of the cohort in {self.file.stores}: tile first (--stage tile)")
        if self.options.stage == "extract":  # otherwise tiling has named them
            for image_id, holder in without_store(self.file, jobs).items():
                why = f"its tile store is being written by {holder}" if holder else "left out: it has no tile store"
                yield Outcome(image_id, Status.FAILED, why, {CLAIMED: True} if holder else {})
        for options in self.file.extract:
            for some in self._turns(options, stores):
                yield from self._extracted(replace(options, stores=some))

    def _turns(self, options: ExtractOptions, stores: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
        """Give all stores at once, or a few that nobody has in hand until there are no more; then the others."""
        if not self.options.take:
            yield tuple(stores)
            return
        start = random.randrange(len(stores))  # two jobs that begin together look in different places
        left = [*stores[start:], *stores[:start]]
        while some := [store for store in left if _is_free(options.out / f"{store.stem}.h5")][: self.options.take]:
            left = [store for store in left if store not in some]
            yield tuple(some)
        if left:
            yield tuple(left)

    def _extracted(self, options: ExtractOptions) -> list[Outcome]:
        from features.extraction.extract import extract

        own = replace(options, overwrite=self.options.overwrite, nproc=self.options.nproc or options.nproc)
        return self._shared(
            lambda: extract(own, self.progress).outcomes, lambda image_id: own.out / f"{image_id}.h5", "bags"
        )

    def train(self) -> Iterator[Outcome]:
        """Train the experiments; of this stage alone, not before others have made the bags that they are at."""
        held = bags_under_way(self.file) if self.options.stage == "train" else {}
        if not held:
            yield from work_through(self.file, self.options, self.progress, patient=self.options.stage == "all")
        for image_id, holder in held.items():
            yield Outcome(image_id, Status.FAILED, f"its bag is being made by {holder}", {CLAIMED: True})

    def after(self) -> Iterator[Outcome]:
        """Make predictions, heat maps, pages and reports; not while others train: the best may change."""
        table, rows = Experiments(self.file.folder), rows_of_file(self.file)
        left = {row.name: table.holder(row.name) for row in rows if row.state not in (DONE, FAILED)}
        held = {name: holder for name, holder in left.items() if holder and self.file.after}
        for name, holder in held.items():
            yield Outcome(name, Status.FAILED, f"is being trained by {holder}", {CLAIMED: True})
        if held or not self.file.after:
            return
        verbs, done = ", ".join(self.file.after), sum(row.state == DONE for row in rows)
        if not done:
            self.progress.note(f"{verbs}: not made, for no experiment is trained")
        elif left:
            self.progress.note(
                f"{verbs}: of the {plural(done, 'experiment', 'that', 'are')} trained; {len(left)} "
                f"{agreeing(len(left), 'are')} not"
            )
        claimed = claims_of(self.file)
        yield from self._shared(
            lambda: list(make_after(self.file, self.options, self.progress)), claimed.__getitem__, "outputs"
        )

    def _shared(self, do: Callable[[], Sequence[Outcome]], output: Callable[[str], Path], what: str) -> list[Outcome]:
        if self.options.stage != "all":
            return list(do())
        return shared_with_others(do, lambda item: held_by(output(item)), what, self.progress)

    def _check_bags(self, done: Sequence[Outcome]) -> None:
        if not any(any(options.out.glob("*.h5")) for options in self.file.extract):
            raise ItemError(f"extract: not one bag could be made: {_first_reason(done)}")

    def _is_trained(self) -> bool:
        """Tell whether no experiment is left to train; otherwise nothing is made of the best one yet."""
        left = [row.name for row in rows_of_file(self.file) if row.state not in (DONE, FAILED)]
        if left and self.file.after:
            self.progress.note(
                f"{', '.join(self.file.after)}: not yet, {plural(len(left), 'experiment', verb='are')} not trained"
            )
        return not left


def counts(outcomes: Sequence[Outcome]) -> str:
    """Return how many items ended in which way, for a person."""
    names = {Status.DONE: "done", Status.SKIPPED: "already done", Status.FAILED: "FAILED"}
    held = sum(map(is_held, outcomes))
    found = {status: sum(own.status is status for own in outcomes) for status in Status}
    found[Status.FAILED] -= held
    told = [f"{count} {names[status]}" for status, count in found.items() if count]
    return ", ".join(told + [f"{held} held by others"] * bool(held)) or "nothing to do"


def address_of(scheduler: str) -> str:
    """Return the address of a Dask scheduler from itself or from its scheduler file.

    Raises
    ------
    RequestError
        It is neither.
    """
    if "://" in scheduler:
        return scheduler
    try:
        found = parse_json(read_document(Path(scheduler), RequestError))
        return str(found["address"])
    except (ValueError, KeyError, TypeError):
        raise RequestError(
            f"--scheduler {scheduler}: expected tcp://..., or the file that `dask scheduler --scheduler-file` wrote"
        ) from None


def _make(folder: Path) -> None:
    """Make the cohort's folder; `RequestError` where it cannot be one, or nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"folder {folder}: cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise RequestError(f"folder {folder}: nothing may be written there: name another one")


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable while the block runs."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _is_free(bag: Path) -> bool:
    """Tell whether a bag is still to be made, and nobody makes it."""
    return not bag.exists() and not held_by(bag)


def _once(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the first outcome of each item: a slide may stand in both tables."""
    found: dict[str, Outcome] = {}
    for own in outcomes:
        found.setdefault(own.item_id, own)
    return list(found.values())


def _first_reason(outcomes: Sequence[Outcome]) -> str:
    bad = [own for own in outcomes if own.status is Status.FAILED]
    return f"{bad[0].item_id}: {bad[0].reason}" if bad else "nothing failed"

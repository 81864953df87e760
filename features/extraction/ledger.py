"""How each slide of a request ended, kept by whoever answers for it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from features.extraction.plan import SlideJob
from features.extraction.stream import Times
from wsi.progress.outcome import CLAIMED, Outcome, Progress, Status
from wsi.progress.stage_events import item_ended, item_started, known_ended

EMPTY = "no tile with tissue: its bag has no rows"


class Ledger:
    """Keeps the outcomes and feeds the progress bar; ranks tell it what they have done."""

    def __init__(self, slides: Sequence[SlideJob], progress: Progress, trained: bool) -> None:
        self._slides, self._progress, self._trained = slides, progress, trained
        self._outcomes: dict[int, Outcome] = {}
        self._begun: dict[int, float] = {}
        self._seen = 0
        self._total: Callable[[int], int] = lambda count: self._seen + count
        self.times = Times()

    def share_bar(self, total: Callable[[int], int]) -> None:
        """Let the bar show the tiles of all ranks: ``total`` adds to their count and returns it."""
        self._total = total

    def tiles(self, count: int) -> None:
        """Move the bar by so many tiles more that were encoded."""
        total = self._total(count)
        self._progress.advance(total - self._seen)
        self._seen = total

    def started(self, slide: int) -> None:
        """Take note that a slide's first tiles have been encoded."""
        if slide not in self._begun:
            self._begun[slide] = time.monotonic()
            item_started(self._slides[slide].image_id, tiles=self._slides[slide].n_tiles)

    def finished(self, slide: int, status: Status = Status.DONE) -> None:
        """Enter a slide whose bag is there."""
        tiles = self._slides[slide].n_tiles
        facts = {"tiles": tiles, "bag": self._slides[slide].bag.name, "encoder_trained": self._trained}
        self._enter(slide, status, "" if tiles else EMPTY, facts)

    def failed(self, slide: int, reason: str, *, claimed: bool = False) -> None:
        """Enter a slide whose bag cannot be made, perhaps for another process makes it; its first reason stays."""
        self._enter(slide, Status.FAILED, reason, {CLAIMED: True} if claimed else {})

    def note(self, line: str) -> None:
        """Show a line."""
        self._progress.note(line)

    def spent(self, times: Times) -> None:
        """Add up where time went."""
        for name, seconds in asdict(times).items():
            setattr(self.times, name, getattr(self.times, name) + seconds)

    def is_open(self, slide: int) -> bool:
        """Tell whether nothing is known of the slide yet."""
        return slide not in self._outcomes

    def close(self, reason: str) -> None:
        """Enter the slides of which nothing is known as failed for ``reason``."""
        for slide in filter(self.is_open, range(len(self._slides))):
            self.failed(slide, reason)

    def known(self) -> list[Outcome]:
        """Return the outcomes so far, by image id."""
        order = sorted(self._outcomes, key=lambda slide: self._slides[slide].image_id)
        return [self._outcomes[slide] for slide in order]

    def packed(self) -> tuple[dict[int, Outcome], Times]:
        """Return what another ledger of the same request needs to take this one in."""
        return self._outcomes, self.times

    def take_in(self, packed: tuple[dict[int, Outcome], Times]) -> None:
        """Enter what another rank's ledger holds."""
        outcomes, times = packed
        known_ended(outcome.item_id for outcome in outcomes.values())
        self.spent(times)
        self._outcomes = outcomes | self._outcomes

    def _enter(self, slide: int, status: Status, reason: str, facts: dict[str, object]) -> None:
        if self.is_open(slide):
            self._outcomes[slide] = outcome = Outcome(self._slides[slide].image_id, status, reason, facts)
            item_ended(outcome, time.monotonic() - self._begun[slide] if slide in self._begun else None)

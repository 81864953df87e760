"""Where the time of a task goes: seconds by step, the only place that counts them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from wsi.progress.stalls import moved


class Reads(Protocol):
    """A slide, as far as it is asked here."""

    seconds_reading: float


class StepTimes:
    """Adds up the steps of a task."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Wall time by step: read, decode, scale, score, encode, write."""

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the block's time to a step."""
        start = time.perf_counter()
        yield
        self._add(step, time.perf_counter() - start)

    @contextmanager
    def decoding(self, slide: Reads) -> Iterator[None]:
        """Add the block's time to reading, as far as the slide tells it apart, and to decoding."""
        before, start = slide.seconds_reading, time.perf_counter()
        yield
        reading = slide.seconds_reading - before
        self._add("read", reading)
        self._add("decode", time.perf_counter() - start - reading)

    def _add(self, step: str, seconds: float) -> None:
        moved()
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

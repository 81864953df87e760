"""Stalls: work that lives and moves no more, told apart from work that is slow.

Whoever works says `moved` at each step: a tile, a layer, a batch. What counts is the time since the last one, not how
old the work is. A read from a disk that went away blocks in the kernel: its thread cannot be ended, only left behind.
"""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from wsi.errors import StalledError
from wsi.progress.events import emit

Result = TypeVar("Result")
_LONGEST_TICK = 1.0

_steps: dict[int, int] = {}
"""Steps of each thread that `watched` runs."""
_left: set[int] = set()
"""Threads that were left behind."""
_told: list[Callable[[], None]] = []
"""Who else wants to know of steps of this process."""


class Left(BaseException):
    """Raised in a thread that was left behind, once it moves again: nobody waits for it any more."""


def moved() -> None:
    """Say that this thread's work goes on."""
    thread = threading.get_ident()
    if thread in _steps:
        _steps[thread] += 1
        if thread in _left:
            raise Left
    for tell in _told:
        tell()


def tell_steps(tell: Callable[[], None]) -> None:
    """Let ``tell`` be called at each step of this process."""
    _told.append(tell)


class Patience:
    """How long nothing has moved, as far as this process itself was awake to see it."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._steps, self._idle, self._looked = seconds, -1, 0.0, time.monotonic()
        self.tick = min(_LONGEST_TICK, seconds / 8)
        """Seconds between two looks."""

    def ends(self, steps: int) -> bool:
        """Look; tell whether ``steps`` have stood still for too long. A pause of this process counts as one tick."""
        now = time.monotonic()
        self._idle = self._idle + min(now - self._looked, 2 * self.tick) if steps == self._steps else 0.0
        self._steps, self._looked = steps, now
        return self._idle > self._seconds


def watched(what: str, seconds: float, work: Callable[..., Result], *arguments: Any) -> Result:
    """Return what the work returns, done in a thread of its own; 0 seconds: done here, unwatched.

    Raises
    ------
    StalledError
        It has not `moved` for so long. The stacks of all threads stand on standard error; its thread is left behind.
    """
    if not seconds:
        return work(*arguments)
    box: list[Result | BaseException] = []
    ended = threading.Event()

    def run() -> None:
        thread = threading.get_ident()
        _steps[thread] = 0
        try:
            box.append(work(*arguments))
        except BaseException as error:
            box.append(error)
        finally:
            ended.set()
            del _steps[thread]
            _left.discard(thread)

    thread = threading.Thread(target=run, daemon=True, name="gigamil-watched")
    thread.start()
    patience = Patience(seconds)
    while not ended.wait(patience.tick):
        if thread.ident is not None and patience.ends(_steps.get(thread.ident, 0)):
            _left.add(thread.ident)
            tell_stall(what, seconds)
            raise StalledError(f"{what}: nothing moved for {seconds:g} s")
    (found,) = box
    if isinstance(found, BaseException):
        raise found
    return found


def tell_stall(what: str, seconds: float) -> None:
    """Tell the event log, and write the stacks of all threads to standard error."""
    emit("stalled", id=what, seconds=seconds)
    with suppress(OSError, ValueError, AttributeError):  # a standard error that is no file has no stacks
        print(f"gigamil: {what}: nothing moved for {seconds:g} s; what the threads do:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)

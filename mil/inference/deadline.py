"""Work that must end by a given time: done in a process of its own, which is stopped, with all that it started."""

import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from wsi.errors import GigamilError, ItemError
from wsi.machine.interrupt import end_with_parent
from wsi.progress.outcome import Progress

Told = tuple[str, tuple[Any, ...]]
"""A method of the progress, or ``found`` or ``raised``, and its arguments."""


class Channel:
    """Where the work tells how far it is, from inside its process: a `Progress`, and results as they are found."""

    def __init__(self, send: Callable[[Told], None]) -> None:
        self._send = send

    def begin(self, title: str, total: float, unit: str) -> None:
        """Start a bar."""
        self._send(("begin", (title, total, unit)))

    def grow(self, amount: float) -> None:
        """Raise the bar's total."""
        self._send(("grow", (amount,)))

    def advance(self, amount: float) -> None:
        """Add to the bar."""
        self._send(("advance", (amount,)))

    def note(self, line: str) -> None:
        """Show one line."""
        self._send(("note", (line,)))

    def end(self) -> None:
        """Close the bar."""
        self._send(("end", ()))

    def found(self, result: Any) -> None:
        """Hand over a result that counts even if the work is stopped later."""
        self._send(("found", (result,)))


Work = Callable[[Channel], None]
"""Pickles; finished pieces lie on the disk or are handed over by `Channel.found`."""


def work_until(work: Work, deadline: float, progress: Progress) -> tuple[list[Any], bool]:
    """Do the work until the deadline (`time.monotonic`); return what it found, and whether it was done.

    Raises
    ------
    GigamilError
        What the work raised; `ItemError` where its process died.
    """
    here, there = mp.get_context("spawn").Pipe(duplex=False)
    process = mp.get_context("spawn").Process(target=_run, args=(work, there), name="gigamil-work")
    process.start()
    there.close()
    found: list[Any] = []
    try:
        while here.poll(max(0.0, deadline - time.monotonic())):
            try:
                name, arguments = here.recv()
            except EOFError:
                process.join()
                if process.exitcode:
                    raise ItemError(f"the process at work ended with {process.exitcode}: run it again") from None
                return found, True
            if name == "raised":
                raise arguments[0]
            _take(found, progress, (name, arguments))
        progress.end()
        return found, False
    finally:
        _stop(process)
        here.close()


def work_here(work: Work, progress: Progress) -> list[Any]:
    """Do the work in this process, however long it takes; return what it found."""
    found: list[Any] = []
    work(Channel(partial(_take, found, progress)))
    return found


def _take(found: list[Any], progress: Progress, told: Told) -> None:
    name, arguments = told
    if name == "found":
        found.append(arguments[0])
    else:
        getattr(progress, name)(*arguments)


def _stop(process: Any) -> None:
    """End the process and the group that it leads."""
    if process.is_alive():
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.join()


def _run(work: Work, pipe: Connection) -> None:
    os.setsid()
    end_with_parent(lambda: os.killpg(os.getpid(), signal.SIGKILL))
    try:
        work(Channel(pipe.send))
    except GigamilError as error:
        pipe.send(("raised", (error,)))
    finally:
        pipe.close()

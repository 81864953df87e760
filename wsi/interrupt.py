"""Stopping at once: who gets Ctrl-C, and signals that interrupt a process that we start."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def interrupt_on_signals() -> None:
    """Let SIGINT and SIGTERM raise `KeyboardInterrupt` with the signal's number; a second SIGINT ends the process.

    Only in the main thread of a process that we start: the command line has its own way.
    """
    stopping = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping and number == signal.SIGINT:
            os._exit(128 + number)
        if not stopping:
            stopping = True
            raise KeyboardInterrupt(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends; threads and processes that are started inside never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

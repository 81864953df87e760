"""Stopping at once: who gets Ctrl-C, and signals that interrupt a process that we start."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
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


def end_with_parent(end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """End this process when the one that started it is gone, killed perhaps: nobody waits for its work."""
    parent = parent_process()
    if parent is not None:
        join = parent.join
        threading.Thread(target=lambda: (join(), end()), daemon=True).start()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends; threads and processes that are started inside never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

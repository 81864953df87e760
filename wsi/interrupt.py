"""Stopping at once: who gets Ctrl-C, signals that interrupt a process that we start, threads that are told to end."""

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

THREAD_PREFIX = "gigamil-"
"""Names of threads that compute: one in the middle of a long product cannot end before it."""


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


def interrupt_thread(thread: threading.Thread) -> None:
    """Raise `SystemExit` in the thread, before its next Python instruction: between two calls of torch, for one."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends; threads and processes that are started inside never get it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""Stopping at once: signals that interrupt, threads that are told to end, and an end that waits for no thread."""

import ctypes
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

THREAD_PREFIX = "gigamil-"
"""Names of threads that compute: one in the middle of a long product cannot end before it."""


def interrupt_on_signals() -> None:
    """Let SIGINT and SIGTERM raise `KeyboardInterrupt` with the signal's number; a second SIGINT ends the process.

    Only in the main thread of a program that is its own master: the command line, and the processes that we start.
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


def interrupt_code(error: KeyboardInterrupt) -> int:
    """Return the exit code that the shell's custom wants for the signal."""
    return 128 + (error.args[0] if error.args else signal.SIGINT)


def interrupt_thread(thread: threading.Thread) -> None:
    """Raise `SystemExit` in the thread, before its next Python instruction: between two calls of torch, for one."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))


def leave(code: str | int | None) -> NoReturn:
    """End the process; at once where a thread of ours still computes, which Python's own end cannot survive."""
    if any(thread.name.startswith(THREAD_PREFIX) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else code is not None)
    raise SystemExit(code)

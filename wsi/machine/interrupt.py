"""Stopping: who gets Ctrl-C, signals that interrupt a process that we start, and signals that ask it to save and leave.

SIGINT and SIGTERM stop at once. SIGUSR1 and SIGUSR2 only leave a note: long work looks at it where its state is whole
(the next batch, region, step or epoch), saves, and raises `Leaving`. Both ways the same command goes on.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType

SAVE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
"""Slurm sends the first before it preempts a job; the second is what NCCL leaves free."""
PASSED_ON = signal.SIGUSR2
SAVED_CODE = os.EX_TEMPFAIL
"""75: state is saved, the same command goes on."""

_asked: list[int] = []


class Leaving(BaseException):
    """State is saved, and this process was asked to leave: no error, and no `Exception`, like `KeyboardInterrupt`."""


def save_on_signals() -> None:
    """Take SIGUSR1 and SIGUSR2 from now on; one that the starter ignores is ignored on."""
    for number in SAVE_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: _asked.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SAVE_SIGNALS)


def asked_to_leave() -> bool:
    """Tell whether one of them has come."""
    return bool(_asked)


def ask_to_leave() -> None:
    """Ask this process to save and leave, as the signals do: another one of the same work does."""
    _asked.append(PASSED_ON)


def leave_if_asked() -> None:
    """Raise `Leaving` where one of the signals has come; to be called where what is done is saved."""
    if _asked:
        raise Leaving


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
    """Hold Ctrl-C and the signals to save back until the block ends.

    Threads and processes that are started inside never get them, unless they take them on purpose.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *SAVE_SIGNALS})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

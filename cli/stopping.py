"""Ctrl-C and SIGTERM: the first one ends the verb in an orderly way, the second one at once.

The first raises where the program stands: what is half-written is removed, claims are given back. Then the process
leaves without waiting for anybody: processes that it started end when it is gone.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []
INTERRUPTED = "interrupted: run the same command again to go on where it stopped"


def listen() -> None:
    """Take both signals from now on; a shell that ignores one of them is obeyed."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    # Python's own helper process would tell of semaphores that nobody closed: it closes them.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _received.append(number)
    if len(_received) > 1:
        os._exit(128 + number)
    raise KeyboardInterrupt


@contextmanager
def in_one_line() -> Iterator[None]:
    """After a signal, tell so and leave with its code, whatever was raised on the way out: it is the signal's echo."""
    try:
        yield
    except BaseException:
        if not _received:
            raise
        sys.stderr.write(f"gigamil: {INTERRUPTED}\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(128 + _received[0])

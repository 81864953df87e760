"""Ctrl-C and SIGTERM: the first one ends the verb in an orderly way, the second one at once.

The first raises where the program stands: what is half-written is removed, claims are given back. Then the process
leaves without waiting for anybody: processes that it started end when it is gone. SIGUSR1 and SIGUSR2 wait until the
verb has saved its state (`wsi.machine.interrupt`).
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from wsi.machine.interrupt import SAVED_CODE, Leaving, save_on_signals

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []
INTERRUPTED = "interrupted: run the same command again to go on where it stopped"
CODES = "GIGAMIL_CODES"
"""Environment variable with a folder in which ranks leave their code, and then end with 0: see `cli.torchrun`."""
SAVED = "saved: give the same command again"


def listen() -> None:
    """Take the signals from now on; a shell that ignores one of them is obeyed."""
    save_on_signals()
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    if os.environ.get(CODES):
        _end_with(os.getppid())
    # Python's own helper process would tell of semaphores that nobody closed: it closes them.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")


def _end_with(parent: int) -> None:
    """End this rank when the torchrun that started it is gone, killed perhaps: nobody waits for its work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
    except BaseException as error:
        if _received:
            _leave(INTERRUPTED, 128 + _received[0])
        if isinstance(error, Leaving):
            _leave(SAVED, left_code(SAVED_CODE))
        raise


def left_code(code: int) -> int:
    """Leave the code for whoever started the ranks, and return 0; where there is nobody, return it."""
    folder = os.environ.get(CODES)
    if not folder:
        return code
    Path(folder, f"{code}-{os.getpid()}").touch()
    return 0


def _leave(line: str, code: int) -> NoReturn:
    """Say the line and end this process; it waits for nobody."""
    sys.stderr.write(f"gigamil: {line}\n")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)

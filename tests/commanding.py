"""Commands as a terminal or a job script starts them: in a session of their own, of which nothing may be left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SOON = 10.0
"""Seconds. It takes 0.1 to 0.5 on an idle machine; tests may have many neighbours."""


def session_members(leader: int) -> list[str]:
    """Return the command lines of the living processes that a command's session still has."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except (OSError, ValueError):
            continue
    return found


def workers_of(parent: int) -> list[int]:
    """Return the workers and ranks of a process: those that it started, and those that its fork server forked."""
    found = []
    for child in psutil.Process(parent).children():
        with suppress(psutil.Error):
            started = " ".join(child.cmdline())
            if "spawn_main" in started:
                found.append(child.pid)
            elif "forkserver" in started:
                found += [own.pid for own in child.children()]
    return sorted(found)


class Command:
    """A gigamil command in a session of its own, as a terminal starts it."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and so
        try:  # would all that it starts
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", *map(str, arguments)],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def wait_for(self, happened: Callable[[], bool]) -> None:
        while not happened():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def stop(self, number: int, times: int = 1, group: bool = True, soon: float = SOON) -> tuple[int, str]:
        """Send the signal, as a terminal does to all of the session; return exit code and standard error."""
        started = time.monotonic()
        for _ in range(times):
            (os.killpg if group else os.kill)(self.process.pid, number)
        _, told = self.process.communicate(timeout=max(60, soon))
        assert time.monotonic() - started < soon
        while session_members(self.process.pid):  # those that watch this one end right after it
            assert time.monotonic() - started < soon, session_members(self.process.pid)
            time.sleep(0.02)
        return self.process.returncode, told

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()

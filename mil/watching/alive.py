"""Whether a process that said it works on something still does, as far as that can be told from here."""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

from wsi.files.claim import holder_of

_CLOCK_SECONDS = 2.0
"""A process that began later than this after it spoke is another one, under the same number."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of who runs where."""

    host: str
    """This one."""
    jobs: Collection[str] | None = None
    """Slurm's jobs that run (``88`` or ``88_3``); None where there is no queue to ask."""

    def alive(self, host: str, pid: int, job: str, spoke: float) -> bool | None:
        """Tell whether a process that spoke at that time still runs; None where that cannot be known from here."""
        if host == self.host:
            return _runs(pid, spoke)
        if job and self.jobs is not None:
            return job in self.jobs
        return None

    def holds(self, output: Path, job: str = "") -> bool | None:
        """Tell whether somebody alive holds the claim on an output; False where nobody does."""
        holder = holder_of(output)
        if holder is None:
            return False
        host, pid, since = holder
        return self.alive(host, pid, job, since)


def here() -> str:
    """Return this host's name, as events and claims write it."""
    return os.uname().nodename


def _runs(pid: int, spoke: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= spoke + _CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True

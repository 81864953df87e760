"""Time as it would be on an idle machine: without what this thread waited for a processor that others had."""

import time
from pathlib import Path

_STAT = Path("/proc/thread-self/schedstat")


class Clock:
    """Counts from when it is made, in the thread that makes it."""

    def __init__(self) -> None:
        self._began, self._waited, self._cpu = time.perf_counter(), _waited(), time.thread_time()

    @property
    def seconds(self) -> float:
        """Wall time less the waiting for a processor, as far as the system tells it (Linux)."""
        return max(time.thread_time() - self._cpu, self.wall - (_waited() - self._waited))

    @property
    def wall(self) -> float:
        """Wall time."""
        return time.perf_counter() - self._began


def _waited() -> float:
    """Return the seconds that this thread was ready to run and did not."""
    try:
        return int(_STAT.read_text("ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0

"""What a stage took, measured from beside it: wall and processor time, memory of all its processes, disk."""

import os
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

_EVERY_S = 0.2
"""Between two looks at the memory: each costs some milliseconds."""


@dataclass(slots=True)
class Spent:
    """What was spent until now; filled when the block ends."""

    seconds: float = 0.0
    """Wall time."""
    cpu_seconds: float = 0.0
    """Of this process and all below it, ended or not."""
    peak_bytes: int = 0
    """Most resident memory of this process and all below it, at one moment; pages that they share count for each."""
    disk_bytes: int = 0
    """By which the folders have grown."""
    gpu_bytes: int = 0
    """Most memory of the GPU that this process had; 0 where torch was not used."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


@contextmanager
def measured(folders: Sequence[Path] = ()) -> Iterator[Spent]:
    """Measure what a block takes; ``folders`` are those whose growth counts."""
    spent, watch = Spent(), _Watch()
    began, cpu, disk = time.perf_counter(), cpu_seconds(), disk_use(folders)
    watch.start()
    try:
        yield spent
    finally:
        spent.seconds = time.perf_counter() - began
        watch.end.set()
        watch.join()
        spent.cpu_seconds = cpu_seconds() - cpu
        spent.peak_bytes = watch.peak
        spent.disk_bytes = disk_use(folders) - disk
        spent.gpu_bytes = _gpu_bytes()


class _Watch(threading.Thread):
    """Looks at the memory of the processes again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="gigamil-memory")
        self.end = threading.Event()
        self.peak = tree_bytes()

    def run(self) -> None:
        while not self.end.wait(_EVERY_S):
            self.peak = max(self.peak, tree_bytes())
        self.peak = max(self.peak, tree_bytes())


def tree_bytes() -> int:
    """Return the resident memory of this process and of all below it."""
    own, found = psutil.Process(), 0
    for process in [own, *own.children(recursive=True)]:
        try:
            found += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return found


def own_peak_bytes() -> int:
    """Return the most resident memory that this process had.

    Not that of `getrusage`, which a process inherits of the one that started it.
    """
    try:
        status = Path("/proc/self/status").read_text("utf-8")
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return int(psutil.Process().memory_info().rss)


def cpu_seconds() -> float:
    """Return what this process and all below it have used; ranks are below a fork server, which lives on."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found = sum(own.ru_utime + own.ru_stime for own in spent)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            found += sum(process.cpu_times()[:4])  # its own, and that of those which it has seen end
    return found


def _gpu_bytes() -> int:
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    return max(int(torch.cuda.max_memory_reserved(device)) for device in range(torch.cuda.device_count()))


def disk_use(folders: Sequence[Path]) -> int:
    """Return the bytes on disk of all files in folders, in whole blocks; a folder that is not there holds none."""
    return sum(_blocks(folder) for folder in folders)


def _blocks(folder: Path) -> int:
    found = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                found += os.lstat(os.path.join(base, name)).st_blocks * 512
            except FileNotFoundError:  # a temporary file that has just got its name
                continue
    return found

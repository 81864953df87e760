"""What the machine has: processors, memory (a container's, where one sets a limit), disk, GPU."""

import os
import platform
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from wsi.machine.cpu import usable_cpus

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine, as far as costs depend on it."""

    name: str
    processor: str
    cpus: int
    """That this process may use."""
    memory_bytes: int
    """That this process may use: the machine's, or less where a cgroup says so."""
    gpu: str = ""
    gpus: int = 0
    gpu_bytes: int = 0
    """Of one GPU."""

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        gpu = f", {self.gpus} x {self.gpu} ({self.gpu_bytes / 2**30:.0f} GiB)" if self.gpus else ", no GPU"
        return f"{self.name}: {self.cpus} CPUs, {self.memory_bytes / 2**30:.0f} GiB{gpu}"


def this_machine() -> Machine:
    """Return this machine; without its GPU, which `with_gpu` adds: that takes torch, and seconds."""
    return Machine(name=platform.node(), processor=_processor(), cpus=usable_cpus(), memory_bytes=memory_limit())


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def memory_limit() -> int:
    """Return the bytes that the processes here may take together."""
    return min([int(psutil.virtual_memory().total), *cgroup_limits(_own_groups())])


def _own_groups() -> list[Path]:
    """Return the files that may hold a limit: of the group of this process and of all above it."""
    files = [Path(name) for name in _LIMITS]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
            kind, _, group = line.partition(":")[2].partition(":")
            root, name = (
                ("/sys/fs/cgroup", "memory.max") if not kind else ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            )
            own = Path(root) / group.strip("/")
            if not kind or "memory" in kind.split(","):
                files += [above / name for above in (own, *own.parents) if str(above).startswith(root)]
    return files


def cgroup_limits(files: list[Path]) -> list[int]:
    """Return the limits that the files hold; ``max`` is none."""
    found = []
    for file in files:
        with suppress(OSError, ValueError):
            found.append(int(file.read_text("utf-8")))
    return found


def free_disk(folder: Path) -> int:
    """Return the free bytes where a folder is, or will be."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free if os.access(place, os.R_OK) else 0

"""What a stretch of work took: time, processor time, and the energy, counted or estimated, always with how.

Counted: the processor packages' own counters (RAPL, ``/sys/class/powercap``), where the system lets them be read; they
count the whole machine, whoever worked. Estimated otherwise: `WATTS_PER_CORE` for each second that a core was busy, the
value for processors in general of Lannelongue et al., Green Algorithms, Advanced Science 2021. A GPU is taken at its
board's power limit for the whole time, which it does not exceed. Memory, disks and cooling are left out of both.
"""

import os
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mil.accounting.spent import cpu_seconds

RAPL = Path("/sys/class/powercap")
WATTS_PER_CORE = 12.0
JOULES_PER_KWH = 3.6e6
_SECONDS = 10.0
"""That nvidia-smi may take."""
_EVERY_S = 60.0
"""Between two looks at the counters, which begin again after a quarter of a megajoule: minutes of a large machine."""
_NOT_COUNTED = "memory, disks and cooling are left out"


@dataclass(frozen=True, slots=True)
class Energy:
    """An amount of energy, and how it was found."""

    joules: float | None
    """None where nothing can be said."""
    how: str


@dataclass(frozen=True, slots=True)
class Counter:
    """One processor package's counter."""

    microjoules: int
    wraps_at: int
    """From where it begins at 0 again."""

    def until(self, later: "Counter") -> float:
        """Return the joules between two readings, of which less than one round lies between."""
        spent = later.microjoules - self.microjoules
        return (spent if spent >= 0 else spent + self.wraps_at) / 1e6


def read_rapl(root: Path = RAPL) -> dict[str, Counter]:
    """Return the packages' counters by name; none where the system has none or does not let them be read."""
    found = {}
    for zone in sorted(root.glob("intel-rapl:*")):
        if zone.name.count(":") != 1:  # a part of a package, counted with it
            continue
        with suppress(OSError, ValueError):
            numbers = ((zone / name).read_text() for name in ("energy_uj", "max_energy_range_uj"))
            found[zone.name] = Counter(*map(int, numbers))
    return found


def gpu_watts(device: str, most: int) -> list[float] | None:
    """Return the power limits of the GPUs that work on ``device`` uses, ``most`` at most; None where not known."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return []
    program = shutil.which("nvidia-smi")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if program is None or visible == "":
        return None
    only = ["-i", visible] if visible else []
    command = [program, "--query-gpu=power.limit", "--format=csv,noheader,nounits", *only]
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        told = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
        watts = [float(line) for line in told.splitlines() if line.strip()]
        return [watts[int(number)]] if number and most == 1 else watts[:most]
    return None


class Meter:
    """Measures a block from where it begins.

    Parameters
    ----------
    device
        What the work runs on, as torch names it.
    processes
        That work side by side; each may have a GPU of its own.
    """

    def __init__(self, device: str = "cpu", processes: int = 1) -> None:
        self._device, self._processes = device, processes
        self._rapl = _Packages(read_rapl())
        self._began, self._cpu = time.perf_counter(), cpu_seconds()

    def __enter__(self) -> "Meter":
        if self._rapl.there:
            self._rapl.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rapl.end.set()

    def read(self) -> tuple[float, float, Energy]:
        """Return wall seconds, processor seconds of this process and all below it, and the energy until now."""
        seconds, cpu = time.perf_counter() - self._began, cpu_seconds() - self._cpu
        joules, how = self._of_processors(cpu)
        watts = gpu_watts(self._device, self._processes)
        if watts is None:
            return seconds, cpu, Energy(None, "not known: the driver does not tell the GPU's power limit")
        if watts:
            joules += sum(watts) * seconds
            how += f"; {len(watts)} GPU at the power limit of {', '.join(f'{own:g} W' for own in watts)} all the time"
        return seconds, cpu, Energy(joules, f"{how}; {_NOT_COUNTED}")

    def _of_processors(self, cpu: float) -> tuple[float, str]:
        if self._rapl.there and self._rapl.look():
            return self._rapl.joules, "processors by their own counters (RAPL), with whatever else ran on the machine"
        return WATTS_PER_CORE * cpu, f"processors taken at {WATTS_PER_CORE:g} W for each busy core"


class _Packages(threading.Thread):
    """Looks at the counters often enough that none begins at 0 again twice between two looks."""

    def __init__(self, first: dict[str, Counter]) -> None:
        super().__init__(daemon=True, name="gigamil-energy")
        self.there, self.joules, self.end = bool(first), 0.0, threading.Event()
        self._last, self._lock = first, threading.Lock()

    def look(self) -> bool:
        """Add what was spent since the last look; False where the counters cannot be read any more."""
        with self._lock:
            now = read_rapl()
            if now.keys() != self._last.keys():
                self.there = False
                return False
            self.joules += sum(own.until(now[name]) for name, own in self._last.items())
            self._last = now
            return True

    def run(self) -> None:
        while self.there and not self.end.wait(_EVERY_S):
            self.look()

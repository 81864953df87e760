"""How many processors this process may really use: affinity, cgroup quota and Slurm, not the machine's total."""

import os
from contextlib import suppress
from pathlib import Path


def usable_cpus() -> int:
    """Return the number of CPUs this process may use, at least 1."""
    limits = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    limits += [quota for quota in (_cgroup2(), _cgroup1(), _slurm()) if quota is not None]
    return max(1, int(min(limits)))


def _cgroup2() -> float | None:
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(1.0, float(quota) / float(period))
    return None


def _cgroup1() -> float | None:
    folder = Path("/sys/fs/cgroup/cpu")
    with suppress(OSError, ValueError):
        quota = float((folder / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else max(1.0, quota / float((folder / "cpu.cfs_period_us").read_text()))
    return None


def _slurm() -> float | None:
    with suppress(KeyError, ValueError):
        return float(os.environ["SLURM_CPUS_PER_TASK"])
    return None

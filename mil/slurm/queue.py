"""The queue: which jobs of a cohort wait or run. Asked of squeue alone, as not every cluster keeps accounts."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mil.pipeline.cohort.cohort_file import CohortFile
from mil.slurm.command import has_slurm, slurm

WORKERS = "tile-workers"
"""The jobs that tile for the one named tile."""
JOBS = ("tile", WORKERS, "extract", "train", "after")
_COLUMNS = "%F|%K|%j|%T|%M|%N|%r|%Z"
"""Array's job, task, name, state, time, nodes, reason, folder: what may hold any character comes last."""


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """One job, or one task of an array."""

    job_id: str
    """Of the array, where it is one."""
    task: str
    """In the array; empty where there is none."""
    stage: str
    """One of `JOBS`."""
    state: str
    """Slurm's word: PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Why it waits, in Slurm's word: Resources, Dependency, BeginTime, ...; empty where there is no reason."""
    node: str
    """Where it runs."""
    elapsed_s: int
    """How long it has been running."""

    @property
    def name(self) -> str:
        """Slurm's name of it: 12 or 12_3."""
        return f"{self.job_id}_{self.task}" if self.task else self.job_id


def job_name(file: CohortFile, job: str) -> str:
    """Return the name that a cohort's job has in the queue."""
    return f"gigamil-{re.sub(r'[^A-Za-z0-9._-]', '_', file.name)}-{job}"


def jobs(file: CohortFile, *, ask: bool = False) -> list[SlurmJob]:
    """Return a cohort's jobs that wait or run, of whoever submitted them; none where there is no Slurm.

    Where no script was written nothing was submitted: Slurm is not asked, unless ``ask``.

    Raises
    ------
    RequestError
        Slurm does not answer.
    """
    folder = scripts_folder(file)
    if not has_slurm() or not (ask or any(Path(folder).glob("*.sh"))):
        return []
    known = {job_name(file, job): job for job in JOBS}
    told = slurm(["squeue", "--noheader", "--array", f"--name={','.join(known)}", f"--format={_COLUMNS}"])
    found = []
    for line in told.splitlines():
        job_id, task, name, state, elapsed, node, reason, where = line.split("|", 7)
        if name in known and os.path.realpath(where) == os.path.realpath(folder):
            task, reason = ("" if task == "N/A" else task), ("" if reason == "None" else reason)
            found.append(SlurmJob(job_id, task, known[name], state, reason, node, _seconds(elapsed)))
    return sorted(found, key=lambda job: (int(job.job_id), int(job.task or 0)))


def scripts_folder(file: CohortFile) -> str:
    """Return the folder of a cohort's scripts and logs, in which its jobs run."""
    return os.path.join(file.folder.absolute(), "slurm")


def _seconds(elapsed: str) -> int:
    """Return the seconds of squeue's days-hours:minutes:seconds; 0 where it says that it knows none."""
    if not re.fullmatch(r"[\d:-]+", elapsed):
        return 0
    days, _, clock = elapsed.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return seconds + 86400 * int(days or 0)

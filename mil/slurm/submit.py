"""Submission: each stage's jobs in a chain, less what is done and what is in the queue already."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from mil.pipeline.cohort.cohort_file import CohortFile, read_cohort_file
from mil.pipeline.rehearsed import check_rehearsal
from mil.pipeline.stages import states
from mil.slurm.command import slurm
from mil.slurm.options import SubmitOptions
from mil.slurm.queue import WORKERS, SlurmJob, jobs, scripts_folder
from mil.slurm.scripts import (
    ENDED,
    SCHEDULER_FILE,
    Script,
    after_script,
    extract_script,
    functions,
    tile_scripts,
    train_script,
)
from mil.slurm.settings import STAGES
from wsi.errors import RequestError
from wsi.files.atomic import write_text
from wsi.files.claim import claim
from wsi.files.replace import remove
from wsi.options import stage

_AFTER = ("predict", "heatmap", "page", "report")


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of one job, or of a stage that needs none."""

    job: str
    """One of `mil.slurm.queue.JOBS`."""
    job_ids: tuple[str, ...] = ()
    """Of the new job; of those in the queue, where there is no new one; empty where nothing is left to do."""
    new: bool = False
    told: str = ""
    """For a person."""
    script: Script | None = None
    """Of a new one."""
    after: str = ""
    """The dependency, as sbatch takes it."""

    def as_dict(self) -> dict[str, object]:
        """Return JSON values."""
        told = {"job": self.job, "job_ids": list(self.job_ids), "new": self.new, "told": self.told, "after": self.after}
        return told | ({"script": str(self.script.file)} if self.script else {})


@stage
def submit(options: SubmitOptions) -> list[Submission]:
    """Write the scripts of what is left to do and submit them, each stage after the one before it.

    With ``dry_run`` nothing is written and submitted: job ids are then words such as ``TILE``.

    Raises
    ------
    RequestError
        The file is wrong; there is no Slurm here; or it refuses, in its own words. What it had taken before is named.
    ClaimedError
        Somebody else is submitting the same cohort.
    """
    file = read_cohort_file(options.cohort)
    if options.require_rehearsal:
        check_rehearsal(file)
    wanted = [own for own in STAGES if options.stage in ("all", own)]
    with nullcontext() if options.dry_run else claim(Path(scripts_folder(file)) / "submit"):
        chain = _Chain(file, jobs(file, ask=not options.dry_run), dry=options.dry_run)
        left = waiting(file)
        for own in wanted:
            last = not any(left[later] for later in wanted[wanted.index(own) + 1 :])
            _submit_stage(chain, own, left[own], last=last)
    return chain.made


def waiting(file: CohortFile) -> dict[str, int]:
    """Return how many items of each stage are not done."""
    left = dict.fromkeys(STAGES, 0)
    for own in states(file):
        name = own.stage.split()[0]
        left["after" if name in _AFTER else name] += len(own.waiting)
    return left


@dataclass(slots=True)
class _Chain:
    """What is submitted one after the other."""

    file: CohortFile
    queue: Sequence[SlurmJob]
    dry: bool
    made: list[Submission] = field(default_factory=list)
    before: tuple[str, ...] = ()
    """Jobs that the next stage waits for."""

    def in_queue(self, job: str) -> list[SlurmJob]:
        return [own for own in self.queue if own.stage == job]

    def add(self, script: Script, after: str) -> str:
        """Submit a script; return the job's id."""
        made = Submission(script.job, new=True, script=script, after=after)
        job_id = script.job.upper() if self.dry else self._submitted(made)
        told = f"job {job_id}{after and f', {after}'}"
        self.made.append(replace(made, job_ids=(job_id,), told=told))
        return job_id

    def _submitted(self, made: Submission) -> str:
        assert made.script is not None
        write_text(*functions(self.file))
        write_text(made.script.file, made.script.text)
        try:
            return slurm(words(made)).strip().split(";")[0]
        except RequestError as error:
            ids = [own.job_ids[0] for own in self.made if own.new]
            first = f"; submitted before it: {' '.join(ids)} (scancel ends them)" if ids else ""
            raise RequestError(f"{made.job}: {error}{first}") from None

    def told(self, job: str, why: str, found: Sequence[SlurmJob] = ()) -> tuple[str, ...]:
        """Note what needs no new job; return the ids of the jobs that are there."""
        ids = tuple(dict.fromkeys(own.job_id for own in found))
        self.made.append(Submission(job, ids, told=why))
        return ids


def words(made: Submission) -> list[str]:
    """Return the command that submits a script."""
    assert made.script is not None
    *command, script = made.script.command
    return [*command, *([f"--dependency={made.after}"] if made.after else []), script]


def _submit_stage(chain: _Chain, name: str, left: int, *, last: bool) -> None:
    found = chain.in_queue(name)
    if not left and not found:
        chain.told(name, "nothing left to do")
        return
    after = f"afterok:{':'.join(chain.before)}" if chain.before else ""
    here = chain.told(name, f"in the queue already: {_named(found)}", found) if found else ()
    if name == "tile":
        chain.before = _submit_tiling(chain, here, last=last)
    elif name == "train" and left > len(found):
        chain.before = (*here, chain.add(train_script(chain.file, left - len(found), last=last), after))
    elif found:
        chain.before = here
    elif name == "extract":
        chain.before = (chain.add(extract_script(chain.file, last=last), after),)
    else:
        chain.before = (chain.add(after_script(chain.file), after),)


def _submit_tiling(chain: _Chain, here: tuple[str, ...], *, last: bool) -> tuple[str, ...]:
    """Submit the driver and its workers, as far as they are not in the queue; return the driver's id."""
    driver, workers = tile_scripts(chain.file, last=last)
    if not here and not chain.dry:
        for name in (ENDED, SCHEDULER_FILE):
            remove(Path(scripts_folder(chain.file)) / name)
    driver_ids = here or (chain.add(driver, ""),)
    found = chain.in_queue(WORKERS)
    if found:
        chain.told(WORKERS, f"in the queue already: {_named(found)}", found)
    else:
        chain.add(workers, f"after:{driver_ids[0]}")
    return driver_ids


def _named(found: Sequence[SlurmJob]) -> str:
    shown = ", ".join(f"{job.name} {job.state}{job.node and f' on {job.node}'}" for job in found[:3])
    return f"{shown} and {len(found) - 3} more" if len(found) > 3 else shown

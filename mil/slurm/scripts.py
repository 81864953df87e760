"""Job scripts: what each stage asks of Slurm, and the commands that it runs there."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mil.pipeline.cohort.cohort_file import CohortFile
from mil.slurm import shell
from mil.slurm.queue import WORKERS, job_name, scripts_folder
from mil.slurm.settings import SlurmSettings, settings_of
from wsi.errors import RequestError

FUNCTIONS, SCHEDULER_FILE, ENDED = "functions.sh", "scheduler.json", "tile-ended"
"""In the folder of scripts: what all share, where the workers find the driver, and that they need not look any more."""
WRITER = "`gigamil submit`, which writes it anew each time."
_EARLIER_S = 60
"""By which Slurm may send a signal too early."""

_WORKER = """\
await_scheduler
{worker} --local-directory "${{TMPDIR:-/tmp}}" &
program=$!
await
[ "$code" -eq 0 ] || [ "$SECONDS" -gt 60 ] || [ -e "$ended" ] || exit "$code" # it did not even start
no_scheduler
"""


@dataclass(frozen=True, slots=True)
class Script:
    """One job's script."""

    job: str
    """One of `mil.slurm.queue.JOBS`."""
    text: str
    file: Path

    @property
    def command(self) -> list[str]:
        """The words that submit it."""
        return ["sbatch", "--parsable", str(self.file)]


def tile_scripts(file: CohortFile, *, last: bool) -> list[Script]:
    """Return the driver's script and the workers'."""
    workers, driver = settings_of(file.slurm, "tile"), settings_of(file.slurm, "driver")
    places = f"scheduler_file={_quoted(file, SCHEDULER_FILE)}\nended={_quoted(file, ENDED)}\n"
    verb = _program(_run(file, driver, "tile", "--scheduler", "FILE"))
    leads = [places, f"begin_scheduler {_joined(_scheduler(driver))}\n", verb, "await\nend_scheduler\n", _end(last)]
    follows = [f"{places}driver={shlex.quote(job_name(file, 'tile'))}\nsoft=TERM\n", _worker(workers)]
    return [
        _script(file, "tile", driver, leads, array=0),
        _script(file, WORKERS, workers, follows, array=workers.jobs or 1),
    ]


def extract_script(file: CohortFile, *, last: bool) -> Script:
    """Return the script of extraction: jobs of one node each, or of several that torchrun makes one."""
    settings = settings_of(file.slurm, "extract")
    if settings.nodes > 1:
        body = [_on_nodes(file, settings), "await\n", '[ -z "$ever" ] || [ "$code" -ne 1 ] || code=75\n', _end(last)]
    else:
        ranks = ("--nproc", str(settings.gpus)) if settings.gpus else ()
        share = ("--take", str(settings.take)) if (settings.jobs or 1) > 1 else ()
        body = _one_verb(_run(file, settings, "extract", *ranks, *share), last)
    return _script(file, "extract", settings, body, array=settings.jobs or 1)


def train_script(file: CohortFile, rows: int, *, last: bool) -> Script:
    """Return the script of training: a job for each of so many experiments, or fewer that take one after the other."""
    settings = settings_of(file.slurm, "train")
    jobs = min(rows, settings.jobs or rows)
    each = "1" if jobs == rows else "0"
    return _script(file, "train", settings, _one_verb(_run(file, settings, "train", "--rows", each), last), array=jobs)


def after_script(file: CohortFile) -> Script:
    """Return the script of what comes after training."""
    settings = settings_of(file.slurm, "after")
    return _script(file, "after", settings, _one_verb(_run(file, settings, "after"), last=True), array=0)


def _run(file: CohortFile, settings: SlurmSettings, stage: str, *more: str) -> list[str]:
    return [*settings.program, "-m", "cli", "run", str(file.path.absolute()), "--stage", stage, *more]


def _one_verb(words: Sequence[str], last: bool) -> list[str]:
    return [_program(words), "await\n", _end(last)]


def _program(words: Sequence[str]) -> str:
    return f"{_joined(words)} &\nprogram=$!\n"


def _joined(words: Sequence[str]) -> str:
    """Return words quoted for the shell; FILE stands for the scheduler's file."""
    return " ".join('"$scheduler_file"' if word == "FILE" else shlex.quote(word) for word in words)


def _end(last: bool) -> str:
    return "\n".join(["go_on"] * (not last) + ['leave "$code"', ""])


def _network(settings: SlurmSettings) -> list[str]:
    return ["--interface", settings.interface] if settings.interface else []


def _scheduler(settings: SlurmSettings) -> list[str]:
    words = [*settings.program, "-m", "dask", "scheduler", "--scheduler-file", "FILE", "--port", "0"]
    return [*words, "--dashboard-address", ":0", *_network(settings)]


def _worker(settings: SlurmSettings) -> str:
    words = [*settings.program, "-m", "dask", "worker", "--scheduler-file", "FILE", "--nanny"]
    words += ["--nworkers", str(settings.cpus or 1), "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
    words += ["--death-timeout", "120", *_lifetime(settings), *_network(settings)]
    return _WORKER.format(worker=_joined(words))


def _lifetime(settings: SlurmSettings) -> list[str]:
    """Let workers leave in good order before their walltime ends, and not all at once."""
    if settings.seconds is None:
        return []
    stagger = min(600, settings.seconds // 10)
    lifetime = settings.seconds - settings.signal - _EARLIER_S - stagger
    return ["--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"] if lifetime > stagger else []


def _on_nodes(file: CohortFile, settings: SlurmSettings) -> str:
    """Let torchrun start ranks on every node; the batch script's own node is where they meet."""
    torchrun = [*settings.program, "-m", "cli.torchrun", "--nnodes", str(settings.nodes)]
    torchrun += ["--nproc-per-node", str(settings.gpus or 1), "--rdzv-backend", "c10d"]
    meeting = '--rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$(hostname):$((20000 + SLURM_JOB_ID % 10000))"'
    verb = ["run", str(file.path.absolute()), "--stage", "extract"]
    return f"srun --kill-on-bad-exit=0 {_joined(torchrun)} {meeting} {_joined(verb)} &\nprogram=$!\n"


def _quoted(file: CohortFile, name: str) -> str:
    return shlex.quote(str(Path(scripts_folder(file)) / name))


def _script(file: CohortFile, job: str, settings: SlurmSettings, body: Sequence[str], *, array: int) -> Script:
    head = ["#!/bin/bash", *directives(file, job, settings, array), f"# Written by {WRITER}"]
    shared = f"most_requeues={settings.requeues}\n. {_quoted(file, FUNCTIONS)}\n"
    setup = ["\n".join(settings.setup) + "\n"] if settings.setup else []
    parts = ["\n".join(head) + "\n", *setup, shared, *body]
    return Script(job, "\n".join(parts), Path(scripts_folder(file)) / f"{job}.sh")


def functions(file: CohortFile) -> tuple[Path, str]:
    """Return where the functions of all scripts lie, and their text."""
    return Path(scripts_folder(file)) / FUNCTIONS, shell.FUNCTIONS


def directives(file: CohortFile, job: str, settings: SlurmSettings, array: int) -> list[str]:
    """Return the #SBATCH lines of a job.

    Raises
    ------
    RequestError
        The cohort's folder has a name that no such line can hold.
    """
    folder = scripts_folder(file)
    if not folder.isprintable() or any(own in folder for own in '"\\'):
        raise RequestError(f"folder {folder!r}: expected one without quotes, backslashes and control characters")
    asked = {
        "job-name": job_name(file, job),
        "chdir": f'"{folder}"',
        "output": "%x-%A_%a.log" if array else "%x-%j.log",
        "array": f"0-{array - 1}{f'%{settings.array}' if settings.array else ''}" if array else "",
        **{
            name: getattr(settings, name)
            for name in ("partition", "account", "qos", "time", "gres", "constraint", "mem")
        },
        "nodes": settings.nodes if job == "extract" else 1,
        "ntasks-per-node": 1,
        "cpus-per-task": settings.cpus,
        "gpus-per-node": "" if settings.gres else settings.gpus,
        "signal": f"B:USR1@{settings.signal}",
        "open-mode": "append",
        "kill-on-invalid-dep": "yes",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in asked.items() if value]
    return [*lines, "#SBATCH --requeue", *(f"#SBATCH {line}" for line in settings.sbatch)]

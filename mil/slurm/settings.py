"""What [slurm] and its tables by stage say: what each stage's jobs ask for, and how they find gigamil."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from wsi.errors import RequestError
from wsi.option_groups import Count
from wsi.options import Option, Spec, at_least, check, specs

STAGES = ("tile", "extract", "train", "after")
TABLES = (*STAGES, "driver")
"""Tables in [slurm] that say something else for one stage; the driver is the job that leads the tiling's workers."""
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"tile": {"jobs": 4}, "driver": {"cpus": 2}}
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?", re.ASCII)

Word = Annotated[str, Option(check="mil.slurm.settings:check_word")]
Lines = Annotated[tuple[str, ...], Option(check="mil.slurm.settings:check_lines")]


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """One stage's jobs."""

    partition: Word = ""
    """As sbatch takes it; so with all that follow, up to mem."""
    account: Word = ""
    qos: Word = ""
    time: Annotated[str, Option(check="mil.slurm.settings:seconds_of")] = ""
    """Walltime of one job; who is not done by then goes on in the next one."""
    gres: Word = ""
    constraint: Word = ""
    mem: Word = ""
    """Of each node."""
    cpus: Count | None = None
    """Of each job and node."""
    gpus: Annotated[int, at_least(0)] = 0
    """Of each node; extraction starts a process for each. Where gres asks for them, they are not asked for again."""
    nodes: Count = 1
    """Of each job of extraction; of several, torchrun makes one."""
    jobs: Count | None = None
    """Jobs that share the stage's work; otherwise 4 of tiling, 1 of extraction, of training one for each experiment."""
    take: Count = 16
    """Slides that a job of extraction takes at a time, where several share them."""
    array: Annotated[int, at_least(0)] = 0
    """How many of them run at once; 0: all."""
    setup: Lines = ()
    """Lines of shell before anything else: module load, conda activate, export."""
    container: Annotated[str, Option(check="mil.slurm.settings:check_line")] = ""
    """An image that Apptainer runs the programs in."""
    container_options: Lines = ()
    """Words for apptainer exec: --nv, --bind, /data."""
    python: Annotated[str, Option(check="mil.slurm.settings:check_line")] = ""
    """The Python that has gigamil; otherwise the one that submits, in a container: python3."""
    sbatch: Annotated[tuple[str, ...], Option(check="mil.slurm.settings:check_directives")] = ()
    """Further #SBATCH lines, --mail-type=FAIL."""
    signal: Annotated[int, Option(least=10, most=65535)] = 120
    """Seconds before its end at which a job is told to save and leave."""
    requeues: Annotated[int, at_least(0)] = 100
    """How often a job goes back into the queue at most."""
    interface: Word = ""
    """Network over which the tiling's workers speak, such as ib0."""

    def __post_init__(self) -> None:
        check(self)
        if self.nodes > 1 and (self.jobs or 1) > 1:
            raise RequestError("[slurm.extract] nodes or jobs: one job of several nodes, or several jobs of one")

    @property
    def seconds(self) -> int | None:
        """The walltime; None where there is none."""
        return seconds_of(self.time) if self.time else None

    @property
    def program(self) -> tuple[str, ...]:
        """The words that start Python."""
        if not self.container:
            return (self.python or sys.executable,)
        return ("apptainer", "exec", *self.container_options, self.container, self.python or "python3")


def settings_of(slurm: Mapping[str, Any], table: str) -> SlurmSettings:
    """Return what holds for one of `TABLES`: its own table over [slurm], the driver's over the one of tiling.

    Raises
    ------
    RequestError
        An unknown key, or a value that does not fit.
    """
    known = {spec.key: spec for spec in specs(SlurmSettings)}
    values = _values({key: own for key, own in slurm.items() if key not in TABLES}, "slurm", known)
    for name in TABLES:  # whichever is asked for: a wrong word in any is told at once
        own = slurm.get(name, {})
        if not isinstance(own, Mapping):
            raise RequestError(f"[slurm] {name}: expected a table [slurm.{name}]")
        read = _values(own, f"slurm.{name}", known)
        if name == table:
            values = dict(_DEFAULTS.get(table, {})) | values | read
    return SlurmSettings(**values)


def _values(table: Mapping[str, Any], name: str, known: Mapping[str, Spec]) -> dict[str, Any]:
    values = {}
    for key, value in table.items():
        if key not in known:
            raise RequestError(f"[{name}] {key} is no key of it: expected one of {', '.join([*known, *TABLES])}")
        try:
            values[known[key].field] = known[key].read(value)
        except RequestError as error:
            told = str(error).removeprefix("--")
            raise RequestError(f"[{name}] {told if told.startswith(key) else f'{key} {told}'}") from None
    return values


def seconds_of(time: str) -> int:
    """Return the seconds of a walltime as sbatch takes it: minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s."""
    found = _TIME.fullmatch(time)
    if found is None:
        raise RequestError(f"time {time}: expected minutes, hours:minutes:seconds or days-hours:minutes:seconds")
    days, *parts = (int(own) if own else None for own in found.groups())
    first, second, third = parts
    if days is not None:
        return days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    if third is not None:
        return (first or 0) * 3600 + (second or 0) * 60 + third
    return (first or 0) * 60 + (second or 0)


def check_line(line: str) -> None:
    """Raise `RequestError` where a text is not one line."""
    if not line.isprintable():
        raise RequestError(f"{line!r}: expected one line without control characters")


def check_lines(lines: tuple[str, ...]) -> None:
    """Raise `RequestError` where one of the texts is not one line."""
    for line in lines:
        check_line(line)


def check_word(word: str) -> None:
    """Raise `RequestError` where a text is not one word that sbatch takes as it stands."""
    if not re.fullmatch(r"[^\s\"'\\#$`]+", word) or not word.isprintable():
        raise RequestError(f"{word!r}: expected one word, without spaces, quotes and #")


_OURS = re.compile(r"--(?:job-name|chdir|output|error|array|dependency|signal|requeue|no-requeue|parsable)\b|-[JDoead]")


def check_directives(lines: tuple[str, ...]) -> None:
    """Raise `RequestError` where one of the texts is no option of sbatch."""
    for line in lines:
        check_line(line)
        if not re.match(r"--?[A-Za-z]", line):
            raise RequestError(f"sbatch {line!r}: expected an option of sbatch, such as --mail-type=FAIL")
        if _OURS.match(line):
            raise RequestError(f"sbatch {line!r}: gigamil sets it itself")

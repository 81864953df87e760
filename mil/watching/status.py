"""How far everything is, as values: stages, what runs, what failed; and the exit code that follows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mil.watching.tally import Tally

NOT_ALL_DONE = 75
"""EX_TEMPFAIL: not everything is done, and not because something failed: ask again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An item that somebody works on, or seems to."""

    id: str
    where: str
    """Host and process, and Slurm's job."""
    since: float
    heard: float
    """When anything was last heard of it."""
    stuck: bool
    """Nothing was heard of it for long."""
    note: str = ""
    """The last epoch of a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """How far a stage is."""

    stage: str
    done: int
    waiting: int
    """Neither done, nor failed, nor begun by somebody who is still there."""
    running: tuple[Work, ...]
    failed: Mapping[str, str]
    """Item -> its one line."""
    rate: float
    """Per second, in ``unit``; 0 where it is not known."""
    unit: str
    eta_seconds: float | None
    """Until the stage is through; None where it is not known."""
    trouble: str = ""
    """Why the stage as a whole could not go on."""

    @property
    def total(self) -> int:
        """All items."""
        return self.done + self.waiting + len(self.running) + len(self.failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far everything is."""

    name: str
    time: float
    stages: tuple[StageStatus, ...]
    queue: tuple[Mapping[str, Any], ...]
    """Slurm's jobs: id, stage, state, reason, node, elapsed_s."""
    notes: tuple[str, ...]
    tally: Tally

    @property
    def works(self) -> bool:
        """Whether anybody works, or will, because Slurm has a job."""
        return bool(self.queue or any(stage.running for stage in self.stages))

    @property
    def exit_code(self) -> int:
        """0: all is done. 1: something failed, and nobody works any more. 75: not everything is done yet."""
        if self.works:
            return NOT_ALL_DONE
        if any(stage.failed or stage.trouble for stage in self.stages):
            return 1
        return NOT_ALL_DONE if any(stage.waiting for stage in self.stages) else 0

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "name": self.name,
            "time": round(self.time, 3),
            "stages": [asdict(stage) | {"running": [asdict(work) for work in stage.running]} for stage in self.stages],
            "queue": [dict(job) for job in self.queue],
            "spent": {stage: {k: round(v, 3) for k, v in steps.items()} for stage, steps in self.tally.spent.items()},
            "bytes_read": dict(self.tally.bytes_read),
            "gpus": [{"host": host, **gpu} for (host, _), gpu in self.tally.gpus.items()],
            "last_event": self.tally.last or None,
            "notes": list(self.notes),
            "exit_code": self.exit_code,
        }

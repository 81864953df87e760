"""record.json: what only the moment of training knows, kept for whoever reports the run.

    {"format": "gigamil-record-1", "hardware": {...}, "flow": {...}, "division": "drawn",
     "sessions": [{"models": 5, "seconds": ..., "cpu_seconds": ..., "joules": ..., "how": "...", "whole": true}]}

A session is one start of `gigamil train`; a run that was stopped has several. One that was killed left nothing behind:
its models are among those that no session counts. Seconds differ from run to run: nothing else of a run rests on them.
"""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from mil.accounting.energy import JOULES_PER_KWH, Meter
from mil.data.flow import Flow
from mil.run.checks import damaged, run_json
from wsi.files.atomic import write_text

FILE = "record.json"
FORMAT = "gigamil-record-1"


@dataclass(frozen=True, slots=True)
class Session:
    """One start of the training."""

    models: int
    """That were finished in it."""
    seconds: float
    cpu_seconds: float
    joules: float | None
    how: str
    """How the energy was found."""
    whole: bool
    """Whether it came to its end."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of the training."""

    hardware: dict[str, Any] = field(default_factory=dict)
    """Of the last session."""
    flow: Flow | None = None
    division: str = ""
    """Of the patients into folds: ``given`` as a table or ``drawn`` here; empty where not known."""
    sessions: tuple[Session, ...] = ()

    @property
    def models(self) -> int:
        """Return how many models the sessions finished."""
        return sum(own.models for own in self.sessions)

    @property
    def seconds(self) -> float:
        """Return the wall time of all sessions."""
        return sum(own.seconds for own in self.sessions)

    @property
    def cpu_seconds(self) -> float:
        """Return the processor time of all sessions."""
        return sum(own.cpu_seconds for own in self.sessions)

    @property
    def kwh(self) -> float | None:
        """Return the energy of all sessions; None where that of one is not known."""
        known = [own.joules for own in self.sessions if own.joules is not None]
        return sum(known) / JOULES_PER_KWH if known and len(known) == len(self.sessions) else None

    @property
    def how(self) -> list[str]:
        """Return how the energy was found, each way once."""
        return list(dict.fromkeys(own.how for own in self.sessions))


def read_record(run: Path) -> Record:
    """Return what is kept; an empty record of a run of an earlier version, which kept nothing.

    Raises
    ------
    RequestError
        The file is damaged.
    """
    path = run / FILE
    if not path.exists():
        return Record()
    told = run_json(path, finite=True)
    try:
        if told["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}")
        flow = None if told["flow"] is None else Flow.from_dict(told["flow"])
        sessions = tuple(_session(own) for own in told["sessions"])
        hardware = {str(name): own for name, own in told["hardware"].items()}
        numbers = ("cores", "memory_gib")
        hardware |= {name: float(hardware[name]) for name in numbers if hardware.get(name) is not None}
        return Record(hardware, flow, str(told["division"]), sessions)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise damaged(path, str(error)) from None


def _session(told: dict[str, Any]) -> Session:
    joules = None if told["joules"] is None else float(told["joules"])
    numbers = int(told["models"]), float(told["seconds"]), float(told["cpu_seconds"])
    return Session(*numbers, joules, str(told["how"]), bool(told["whole"]))


def write_record(run: Path, record: Record) -> None:
    """Write the file."""
    told = {
        "format": FORMAT,
        "hardware": record.hardware,
        "flow": None if record.flow is None else record.flow.as_dict(),
        "division": record.division,
        "sessions": [asdict(own) for own in record.sessions],
    }
    write_text(run / FILE, json.dumps(told, indent=1, allow_nan=False) + "\n")


@contextmanager
def session_recorded(run: Path, device: str, processes: int, finished: dict[str, Any]) -> Iterator[None]:
    """Add a session to the record, however the block ends.

    ``finished``: a collection to which the block adds one entry for each model. Under torchrun only this process is
    measured, so that the energy of all is not known.
    """
    whole, ranks = False, int(os.environ.get("WORLD_SIZE", "1"))
    with Meter(device, processes) as meter:
        try:
            yield
            whole = True
        finally:
            seconds, cpu, energy = meter.read()
            joules, how = energy.joules and round(energy.joules, 3), energy.how
            if ranks > 1:
                joules, how = None, f"not known: torchrun started {ranks} processes, of which one was measured"
            own = Session(len(finished), round(seconds, 3), round(cpu, 3), joules, how, whole)
            earlier = read_record(run)
            write_record(run, replace(earlier, hardware=hardware(device), sessions=(*earlier.sessions, own)))


def hardware(device: str) -> dict[str, Any]:
    """Return what this machine is, without its name: processor, cores, memory, and the GPU where one is used."""
    found: dict[str, Any] = {
        "system": platform.system(),
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
    }
    if device.startswith("cuda"):
        import torch

        with suppress(RuntimeError, AssertionError, ValueError):
            found["gpu"] = torch.cuda.get_device_name(torch.device(device))
            found["gpus"] = torch.cuda.device_count()
    return found


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()

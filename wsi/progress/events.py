"""What happens while gigamil works, as one JSON line each in the file that ``GIGAMIL_EVENTS`` names.

    {"time": "2026-11-27T12:40:01.123Z", "kind": "item_ended", "host": "n1", "pid": 4711, "job": "88_3", "id": ...}

Several processes of several hosts write into one file: a line goes there whole, in one write to the file's end, under a
lock where the file system has them. The log never stops the work: what cannot be written is told once, and left out.
"""

import fcntl
import json
import logging
import math
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsi.errors import masked

EVENTS = "GIGAMIL_EVENTS"
"""Environment variable with the path of the log; without it, nothing is written."""
WITHIN = "GIGAMIL_EVENTS_WITHIN"
"""Environment variable with facts (JSON) that every event carries, in this process and in those that it starts."""
LONGEST_TEXT = 1000
"""Characters of one fact."""
_OWN = ("time", "kind", "host", "pid", "job")
_PATIENCE_SECONDS = 1.0
"""How long a line waits for the lock: a process that is stopped while it holds it would keep all others waiting."""

_log = logging.getLogger("gigamil.events")
_told: set[str] = set()
"""Files of which was told that they cannot be written."""
_waits = True
"""False once the lock was waited for in vain, until it is free again."""


def is_on() -> bool:
    """Tell whether events are written."""
    return bool(os.environ.get(EVENTS))


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write events into that file while the block runs, unless another is named already."""
    if is_on():
        yield
        return
    os.environ[EVENTS] = str(path.absolute())
    try:
        yield
    finally:
        os.environ.pop(EVENTS, None)


def emit(kind: str, **facts: Any) -> None:
    """Write one event: its time, host, process and Slurm job, and the facts, JSON values.

    Texts are cut at 1,000 characters and credentials in them starred; numbers that are not finite become null.
    """
    path = os.environ.get(EVENTS)
    if not path:
        return
    line = json.dumps(_plain(_head(kind) | within_now() | facts | _head(kind)), separators=(",", ":"), default=str)
    try:
        _append(path, line.encode() + b"\n")
    except OSError as error:
        if path not in _told:
            _told.add(path)
            _log.warning("%s", f"{path}: events are not written ({error.strerror or error}); the work goes on")


@contextmanager
def within(**facts: Any) -> Iterator[None]:
    """Let every event carry these facts while the block runs, those of processes started in it, too."""
    if not is_on():
        yield
        return
    before = os.environ.get(WITHIN)
    os.environ[WITHIN] = json.dumps(_plain(within_now() | facts), default=str)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(WITHIN, None)
        else:
            os.environ[WITHIN] = before


def within_now() -> dict[str, Any]:
    """Return the facts of `within`."""
    with suppress(ValueError):
        found = json.loads(os.environ.get(WITHIN) or "{}")
        if isinstance(found, dict):
            return found
    return {}


def _head(kind: str) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    job = slurm_job()
    return {"time": now, "kind": kind, "host": os.uname().nodename, "pid": os.getpid(), **({"job": job} if job else {})}


def slurm_job() -> str:
    """Return the Slurm job that this process belongs to, as squeue writes it (``88`` or ``88_3``), or nothing."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    match value:
        case Mapping():
            return {str(key): _plain(own) for key, own in value.items()}
        case list() | tuple():
            return [_plain(own) for own in value]
        case str():
            return masked(str(value)[:LONGEST_TEXT])
        case float():
            return round(float(value), 6) if math.isfinite(value) else None
    return value


def _append(path: str, line: bytes) -> None:
    """Add a line to the file's end; one that a full disk has torn before it is closed first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "expected a file")
        _lock(descriptor)
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) not in (b"\n", b"")
        data = b"\n" * torn + line
        if os.write(descriptor, data) < len(data):
            raise OSError(0, "no room for a whole line")
    finally:
        os.close(descriptor)  # gives the lock back, and lets other hosts see the line


def _lock(descriptor: int) -> None:
    """Take the lock; go on without it where there are none, or where somebody keeps it."""
    global _waits
    until = time.monotonic() + (_PATIENCE_SECONDS if _waits else 0.0)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(0.002)
                continue
            _waits = False
        except OSError:  # a file system without locks: a write to the end is all that it offers
            pass
        else:
            _waits = True
        return


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log."""

    time: float
    """Seconds since 1970, by the clock of the host that wrote it."""
    kind: str
    host: str
    pid: int
    job: str
    """Slurm's, or nothing."""
    facts: Mapping[str, Any]

    @property
    def stage(self) -> str:
        """The stage that it belongs to, or nothing."""
        return str(self.facts.get("stage", ""))


class Events:
    """The events of a file in the order of its lines; iterated over again, those that were added since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        """Lines so far that are no events; a last line without its end is not yet counted."""
        self._offset = 0

    def __iter__(self) -> Iterator[Event]:
        """Give what is new; nothing where there is no file. A line that is not yet whole waits for the next time."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_size < self._offset:
                self._offset = 0  # begun anew
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                event = event_of(line)
                if event is not None:
                    yield event
                elif line.strip():
                    self.damaged += 1


def read_events(path: Path | str) -> Events:
    """Return the events of a log; ``damaged`` of what is returned says how many lines were none.

    Raises
    ------
    OSError
        While iterated over: the file cannot be read.
    """
    return Events(Path(path))


def event_of(line: bytes) -> Event | None:
    """Return the event of a line, or None where it is damaged."""
    try:
        found = json.loads(line)
        facts = {name: value for name, value in found.items() if name not in _OWN}
        moment = datetime.fromisoformat(found["time"]).timestamp()
        return Event(
            moment, str(found["kind"]), str(found["host"]), int(found["pid"]), str(found.get("job", "")), facts
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None

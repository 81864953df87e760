"""What a stage tells the event log: that it began, how far it is, how each item and it itself ended."""

import inspect
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from wsi.errors import GigamilError
from wsi.machine.gpu_use import gpu_use
from wsi.machine.interrupt import Leaving
from wsi.progress.events import emit, is_on, within
from wsi.progress.outcome import CLAIMED, Outcome, Progress, Silent, Status, Summary

PROGRESS_SECONDS = 10.0
"""Between two events that tell how far a stage is."""
GPU_SECONDS = 30.0
"""Between two looks at the GPUs."""
_NUMBERS = (
    "tiles",
    "stored_tiles",
    "damaged_tiles",
    "bytes_out",
    "best_epoch",
    "epochs_run",
    "best_val_loss",
    "patients",
)
"""Facts of an outcome that its event tells, where they are there: numbers alone, no free text."""

_ended: list[set[str]] = []
"""For each stage that runs in this process, the items whose end has been told."""


def item_started(item_id: str, **facts: Any) -> None:
    """Tell that an item (slide, bag, model) is begun."""
    emit("item_started", id=item_id, **facts)


def item_ended(outcome: Outcome, seconds: float | None = None, **facts: Any) -> None:
    """Tell how an item ended; once for each stage, so whoever knows it first and best tells it.

    Parameters
    ----------
    outcome
        Its status and reason; of its facts those that are known to be numbers.
    seconds
        Wall time since it was begun.
    facts
        More JSON values: ``fold``, ``seed``.
    """
    if not is_on():
        return
    known_ended([outcome.item_id])
    spent, read = outcome.facts.get("seconds"), outcome.facts.get("bytes_in")
    told = {name: outcome.facts[name] for name in _NUMBERS if isinstance(outcome.facts.get(name), int | float)}
    told |= {"seconds": round(seconds, 3)} if seconds is not None else {}
    told |= {"spent": spent} if isinstance(spent, Mapping) else {}
    told |= {"bytes": read} if isinstance(read, int) else {}
    why = {"reason": outcome.reason} if outcome.reason else {}
    told |= {"claimed": True} if outcome.facts.get(CLAIMED) else {}
    emit("item_ended", id=outcome.item_id, status=outcome.status.value, **why, **told, **facts)


def known_ended(items: Iterable[str]) -> None:
    """Take note that another process has told how these items ended."""
    for told in _ended[-1:]:
        told.update(items)


class Telling:
    """A `Progress` that tells the log, too, seldom: at each beginning, and every ten seconds in which it went on."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._title, self._unit = "", ""
        self._done = self._total = 0.0
        self._told = time.monotonic()
        self._gpus = _Gpus()

    def begin(self, title: str, total: float, unit: str) -> None:
        self._title, self._total, self._unit, self._done = title, total, unit, 0.0
        self._shown.begin(title, total, unit)
        self._tell()

    def grow(self, amount: float) -> None:
        self._total += amount
        self._shown.grow(amount)

    def advance(self, amount: float) -> None:
        self._done += amount
        self._shown.advance(amount)
        if time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._tell()

    def note(self, line: str) -> None:
        self._shown.note(line)

    def end(self) -> None:
        self._shown.end()
        if self._title and self._done:
            self._tell()
        self._title = ""

    def _tell(self) -> None:
        self._told = time.monotonic()
        gpus = self._gpus.latest()
        more = {"gpus": gpus} if gpus else {}
        emit("progress", title=self._title, done=round(self._done), total=round(self._total), unit=self._unit, **more)


class _Gpus:
    """The last sample of the GPUs, taken beside the work: a driver that hangs must not stop it."""

    def __init__(self) -> None:
        self._sample: list[dict[str, Any]] = []
        self._begun = -GPU_SECONDS
        self._thread: threading.Thread | None = None

    def latest(self) -> list[dict[str, Any]]:
        """Return the last sample, and have the next one taken where it is time."""
        now = time.monotonic()
        if now - self._begun >= GPU_SECONDS and not (self._thread and self._thread.is_alive()):
            self._begun = now
            self._thread = threading.Thread(target=self._look, daemon=True, name="gigamil-gpu-use")
            self._thread.start()
        return self._sample

    def _look(self) -> None:
        self._sample = gpu_use()


def ran(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a stage's function; with a log, tell it of the beginning, of how far it is, and of the end."""
    if not is_on():
        return function(*arguments, **named)
    with within(**_which(function.__name__, arguments[0] if arguments else None)):
        emit("stage_started")
        began = time.monotonic()
        _ended.append(set())
        try:
            found = function(*_listened(function, arguments, named), **named)
            _tell_end(found, time.monotonic() - began)
        except BaseException as error:
            emit("stage_ended", status=_how(error), reason=_why(error), seconds=round(time.monotonic() - began, 3))
            raise
        finally:
            known_ended(_ended.pop())  # a stage that this one is part of need not tell them again
    return found


def _which(name: str, options: object) -> dict[str, Any]:
    """Return what all events of a stage carry: its name, its process, the last part of its output's path, its rank."""
    out, rank = getattr(options, "out", None), os.environ.get("RANK", "")
    told: dict[str, Any] = {"stage": name, "of": f"{os.uname().nodename}/{os.getpid()}"}
    told |= {"into": out.name} if isinstance(out, Path) else {}
    return told | ({"rank": int(rank)} if rank.isdigit() else {})


def _listened(function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """Return the arguments with a `Telling` about their `Progress`; ``named`` is changed where it stands there."""
    if "progress" not in inspect.signature(function).parameters:
        return arguments
    shown = (arguments[1] if len(arguments) > 1 else named.get("progress")) or Silent()
    telling = shown if isinstance(shown, Telling) else Telling(shown)
    if len(arguments) > 1:
        return (arguments[0], telling, *arguments[2:])
    named["progress"] = telling
    return arguments


def _tell_end(found: object, seconds: float) -> None:
    if not isinstance(found, Summary):
        emit("stage_ended", status="done", seconds=round(seconds, 3))
        return
    told = _ended[-1].copy()
    for outcome in found.outcomes:
        if outcome.item_id not in told:
            item_ended(outcome)
    counts = {status.value: len(found.ended(status)) for status in Status}
    spent = {"spent": {step: round(value, 3) for step, value in found.spent.items()}} if found.spent else {}
    emit(
        "stage_ended", status="failed" if found.exit_code else "done", seconds=round(seconds, 3), counts=counts, **spent
    )


def _how(error: BaseException) -> str:
    return "stopped" if isinstance(error, KeyboardInterrupt | SystemExit | Leaving) else "failed"


def _why(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, Leaving):
        return "saved on a signal"
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, GigamilError) else f"{type(error).__name__}: {text}"

"""What an event log adds up to: the processes that work, each item's last state, rates, where the time went.

Pure: events go in one by one, in the order of the log. A process that begins a stage anew, under the same number,
replaces the one before it.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wsi.progress.events import Event

Stage = tuple[str, str]
"""A stage, and the last part of its output's path: two encoders are two stages."""
RATE_SECONDS = 600.0
"""Over how long a rate is taken."""
RUNNING, DONE, SKIPPED, FAILED, LEFT = "running", "done", "skipped", "failed", "left"
"""States of an item; left: begun by a process whose stage has ended without telling how."""


@dataclass(slots=True)
class Process:
    """A process at work on a stage."""

    stage: Stage
    host: str
    pid: int
    job: str
    began: float
    heard: float
    """When it, or a process that it started, last told anything; like all times seconds since 1970."""
    title: str = ""
    unit: str = ""
    done: float = 0.0
    total: float = 0.0
    history: deque[tuple[float, float]] = field(default_factory=deque)
    """Time and amount done, of the last `RATE_SECONDS` of what it does now."""

    @property
    def rate(self) -> float:
        """Units a second; 0 where it is not yet known."""
        (first, before), (last, now) = (self.history[0], self.history[-1]) if self.history else ((0.0, 0.0), (0.0, 0.0))
        return (now - before) / (last - first) if last > first else 0.0

    def told(self, event: Event) -> None:
        """Take in how far it is."""
        facts = event.facts
        if facts.get("title") != self.title or number(facts.get("done")) < self.done:
            self.history.clear()
        self.title, self.unit = str(facts.get("title", "")), str(facts.get("unit", ""))
        self.done, self.total = number(facts.get("done")), number(facts.get("total"))
        self.history.append((event.time, self.done))
        while event.time - self.history[0][0] > RATE_SECONDS and len(self.history) > 2:
            self.history.popleft()


@dataclass(slots=True)
class Item:
    """A slide, bag or model, as the log last told of it."""

    id: str
    state: str
    since: float
    heard: float
    of: str
    """The process of its stage, ``host/pid``."""
    reason: str = ""
    """Why it failed, or what is remarkable."""
    latest: Mapping[str, Any] = field(default_factory=dict)
    """Facts of its last epoch."""


@dataclass(slots=True)
class Tally:
    """Everything that is known from the events taken so far."""

    processes: dict[tuple[Stage, str], Process] = field(default_factory=dict)
    """Those whose stage has not ended, by stage and ``host/pid``."""
    items: dict[Stage, dict[str, Item]] = field(default_factory=dict)
    ends: dict[Stage, deque[float]] = field(default_factory=dict)
    """When items were finished, newest last."""
    spent: dict[str, dict[str, float]] = field(default_factory=dict)
    """Seconds by stage and step."""
    bytes_read: dict[str, int] = field(default_factory=dict)
    """By stage."""
    gpus: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    """The last sample of each, by host and index."""
    failures: dict[Stage, str] = field(default_factory=dict)
    """Stages that ended as a whole, and why; until they are begun again."""
    last: float = 0.0
    """Time of the newest event."""

    def take(self, event: Event) -> None:
        """Take in one event."""
        self.last = max(self.last, event.time)
        stage, of = (event.stage, str(event.facts.get("into", ""))), str(event.facts.get("of", ""))
        process = self.processes.get((stage, of))
        if process is not None:
            process.heard = max(process.heard, event.time)
        match event.kind:
            case "stage_started":
                self._leave(stage, of)
                self.failures.pop(stage, None)
                self.processes[stage, of] = Process(stage, event.host, event.pid, event.job, event.time, event.time)
            case "stage_ended":
                self._ended(event, stage, of)
            case "progress" if process is not None:
                process.told(event)
                for gpu in event.facts.get("gpus") or ():
                    self.gpus[event.host, int(number(gpu.get("index")))] = gpu
            case "item_started" | "item_ended" | "epoch":
                self._item(event, stage, of)

    def _ended(self, event: Event, stage: Stage, of: str) -> None:
        self._leave(stage, of)
        self.processes.pop((stage, of), None)
        self._add_spent(event)
        if event.facts.get("status") == FAILED and "counts" not in event.facts:  # one with counts is through
            self.failures[stage] = str(event.facts.get("reason", ""))

    def _leave(self, stage: Stage, of: str) -> None:
        """Nobody works any more on what that process had begun."""
        for item in self.items.get(stage, {}).values():
            if item.of == of and item.state == RUNNING:
                item.state = LEFT

    def _item(self, event: Event, stage: Stage, of: str) -> None:
        items, name = self.items.setdefault(stage, {}), str(event.facts.get("id", ""))
        item = items.get(name)
        if event.kind == "item_started" or item is None:
            if event.facts.get("claimed"):
                return  # another process works on it: it is that one's to tell
            item = items[name] = Item(name, RUNNING, event.time, event.time, of)
        if event.facts.get("claimed") and item.of != of:
            return
        item.heard, item.of = event.time, of
        if event.kind == "epoch":
            item.latest = event.facts
        elif event.kind == "item_ended":
            item.state, item.reason = str(event.facts.get("status", DONE)), str(event.facts.get("reason", ""))
            self.bytes_read[stage[0]] = self.bytes_read.get(stage[0], 0) + int(number(event.facts.get("bytes")))
            self._add_spent(event)
            if item.state == DONE:
                ends = self.ends.setdefault(stage, deque())
                ends.append(event.time)
                while ends[-1] - ends[0] > RATE_SECONDS and len(ends) > 2:
                    ends.popleft()

    def _add_spent(self, event: Event) -> None:
        steps = event.facts.get("spent")
        if isinstance(steps, Mapping):
            known = self.spent.setdefault(event.stage, {})
            for step, seconds in steps.items():
                known[step] = known.get(step, 0.0) + number(seconds)

    def items_per_second(self, stage: Stage) -> float:
        """Return how many items were finished a second, lately; 0 below two of them."""
        ends = self.ends.get(stage, deque[float]())
        return (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 and ends[-1] > ends[0] else 0.0


def number(value: object) -> float:
    """Return a number of JSON, or 0 for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0

"""A discrete-event model of tiling on a cluster: one client, one scheduler, many workers, one shared file system.

Each task goes from the client to the scheduler, waits for a free worker, asks the file system for its files and bytes,
computes, and comes back by scheduler and client, which then sends what follows. Whoever is asked serves one after the
other. The client keeps `wsi.tiling.engine`'s window; a slide's steps wait for each other as they do there.
"""

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

WINDOW = 3
STEPS = "too few slides for so many workers"


@dataclass(frozen=True)
class Step:
    """Tasks of one kind that may run side by side."""

    tasks: int
    seconds: Sequence[float]
    """What such tasks took: drawn from."""
    bytes: float = 0.0
    """Read and written by one task."""
    files: float = 0.0
    """Opened, made, renamed or removed by one task."""


@dataclass(frozen=True)
class Costs:
    """Unit costs, as measured."""

    steps: Sequence[Step]
    """Of one slide, in order."""
    client_s: float
    """For one task, to send it and to take its result."""
    scheduler_s: float
    claim_s: float
    """For one slide, at the client: its claim, and to look for what is there."""


@dataclass(frozen=True)
class Cluster:
    """What it runs on."""

    workers: int
    bytes_per_s: float = float("inf")
    files_per_s: float = float("inf")
    clients: int = 1
    """Commands side by side, each with a scheduler and a part of the workers and slides of its own."""


@dataclass
class Server:
    """Serves one after the other."""

    free: float = 0.0
    busy: float = 0.0

    def serve(self, now: float, cost: float) -> float:
        """Return when it is done with what arrives now."""
        self.free = max(now, self.free) + cost
        self.busy += cost
        return self.free


@dataclass(frozen=True)
class Result:
    """What came of it."""

    seconds: float
    tasks: int
    busy: Mapping[str, float]
    """Share of the time that each was busy: workers, client, scheduler, bandwidth, files."""

    @property
    def bottleneck(self) -> str:
        """Who was busiest, where anybody was so most of the time; else the slides' own steps, which wait in a row."""
        name = max(self.busy, key=lambda name: self.busy[name])
        return name if self.busy[name] >= 0.7 else STEPS


@dataclass
class _Slide:
    step: int = -1
    waiting: int = 0


@dataclass
class _Part:
    """One client with its scheduler and workers."""

    workers: int
    slides: int
    client: Server = field(default_factory=Server)
    scheduler: Server = field(default_factory=Server)
    idle: int = 0
    flying: int = 0
    queue: deque[tuple[_Slide, Step]] = field(default_factory=deque)
    ready: deque[tuple[_Slide, Step]] = field(default_factory=deque)


class _Model:
    """The events; each is (time, number, what, part, task)."""

    def __init__(self, costs: Costs, cluster: Cluster, slides: int, seed: int) -> None:
        self.costs, self.cluster = costs, cluster
        self.rng = np.random.default_rng(seed)
        self.disk, self.files = Server(), Server()
        self.computing, self.tasks, self.now = 0.0, 0, 0.0
        self.numbers = count()
        self.events: list[tuple[float, int, str, _Part, tuple[_Slide, Step]]] = []
        n = cluster.clients
        self.parts = [_Part(cluster.workers // n, slides // n + (i < slides % n)) for i in range(n)]
        for part in self.parts:
            part.idle = part.workers
            self.fill(part, 0.0)

    def at(self, when: float, what: str, part: _Part, task: tuple[_Slide, Step]) -> None:
        self.tasks += what == "sent"
        heapq.heappush(self.events, (when, next(self.numbers), what, part, task))

    def fill(self, part: _Part, now: float) -> None:
        """Send tasks until the window is full; take up a slide where none waits."""
        while part.flying < WINDOW * part.workers:
            if not part.queue:
                if not part.slides:
                    return
                part.slides -= 1
                now = part.client.serve(now, self.costs.claim_s)
                self.advance(part, _Slide())
            part.flying += 1
            self.at(part.client.serve(now, self.costs.client_s / 2), "sent", part, part.queue.popleft())

    def advance(self, part: _Part, slide: _Slide) -> None:
        """Queue the slide's next step, if there is one."""
        slide.step += 1
        if slide.step < len(self.costs.steps):
            step = self.costs.steps[slide.step]
            slide.waiting = step.tasks
            part.queue.extend([(slide, step)] * step.tasks)

    def start(self, part: _Part, now: float) -> None:
        """Give ready tasks to idle workers."""
        while part.idle and part.ready:
            part.idle -= 1
            task = part.ready.popleft()
            self.at(self.files.serve(now, task[1].files / self.cluster.files_per_s), "opened", part, task)

    def run(self) -> None:
        """Let everything happen."""
        while self.events:
            self.now, _, what, part, task = heapq.heappop(self.events)
            getattr(self, what)(part, task, self.now)

    def sent(self, part: _Part, task: tuple[_Slide, Step], now: float) -> None:
        self.at(part.scheduler.serve(now, self.costs.scheduler_s / 2), "known", part, task)

    def known(self, part: _Part, task: tuple[_Slide, Step], now: float) -> None:
        part.ready.append(task)
        self.start(part, now)

    def opened(self, part: _Part, task: tuple[_Slide, Step], now: float) -> None:
        self.at(self.disk.serve(now, task[1].bytes / self.cluster.bytes_per_s), "fed", part, task)

    def fed(self, part: _Part, task: tuple[_Slide, Step], now: float) -> None:
        seconds = float(task[1].seconds[int(self.rng.integers(len(task[1].seconds)))])
        self.computing += seconds
        self.at(now + seconds, "computed", part, task)

    def computed(self, part: _Part, task: tuple[_Slide, Step], now: float) -> None:
        part.idle += 1
        self.start(part, now)
        self.at(part.scheduler.serve(now, self.costs.scheduler_s / 2), "told", part, task)

    def told(self, part: _Part, task: tuple[_Slide, Step], now: float) -> None:
        self.at(part.client.serve(now, self.costs.client_s / 2), "settled", part, task)

    def settled(self, part: _Part, task: tuple[_Slide, Step], now: float) -> None:
        part.flying -= 1
        slide = task[0]
        slide.waiting -= 1
        if not slide.waiting:
            self.advance(part, slide)
        self.fill(part, now)


def simulate(costs: Costs, cluster: Cluster, slides: int, seed: int = 0) -> Result:
    """Tile so many slides; return how long it takes and who was busy."""
    model = _Model(costs, cluster, slides, seed)
    model.run()
    shared = {"bandwidth": model.disk.busy, "files": model.files.busy}
    own = {
        "workers": model.computing / cluster.workers,
        "client": sum(part.client.busy for part in model.parts) / cluster.clients,
        "scheduler": sum(part.scheduler.busy for part in model.parts) / cluster.clients,
    }
    busy = {name: seconds / model.now for name, seconds in (own | shared).items()}
    return Result(model.now, model.tasks, busy)


def lifted(costs: Costs, cluster: Cluster, bottleneck: str) -> tuple[str, Costs, Cluster]:
    """Return what would lift a bottleneck, in words, and the costs and cluster with it."""
    match bottleneck:
        case "client" | "scheduler":
            return (
                "four commands, each with its own Dask scheduler and a quarter of the manifest",
                costs,
                replace(cluster, clients=4 * cluster.clients),
            )
        case "bandwidth":
            return (
                "twice the bandwidth, or a codec of half the bytes",
                costs,
                replace(cluster, bytes_per_s=2 * cluster.bytes_per_s),
            )
        case "files":
            return "twice the metadata rate", costs, replace(cluster, files_per_s=2 * cluster.files_per_s)
    return "more nodes", costs, replace(cluster, workers=2 * cluster.workers)

"""Several processes on one request: started by us (`features.started`), or by torchrun on one node or many.

The ranks share a key-value store, through which rank 0 tells the others the job, and in which each gives signs of life:
who waits for another waits as long as that one lives. Work is shared by an atomic counter, so a fast rank takes more,
and no rank waits for another while there is work: one that dies takes only its unfinished items with it; what it had
finished lies on the disk, and the next round does the rest. Ranks that train one model together form a
torch.distributed process group, too: NCCL where each has a GPU of its own, else gloo.
"""

import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from wsi.errors import GigamilError, ItemError, RequestError
from wsi.machine.cpu import usable_cpus
from wsi.machine.interrupt import leave_if_asked

TOGETHER = timedelta(minutes=10)
"""How long a rank that computes something together with others waits for the slowest of them."""
BEAT_SECONDS, SILENCE_SECONDS, JOINING_SECONDS = 5.0, 180.0, 1200.0
"""Between two signs of life; without one, after which a rank is given up; and that it may take to give its first."""
HEARING_SECONDS = 10.0
"""That rank 0 has to hear what stopped another one, before torchrun is let to end it."""
PIECE_BYTES = 4 << 20
"""The store takes no larger values."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands among all."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    def cpus(self) -> int:
        """Return its share of the CPUs that its node may use."""
        return max(1, usable_cpus() // self.local_world)


def torchrun_place(nproc: int = 1) -> Place | None:
    """Return this process's place where torchrun started it, else None.

    Raises
    ------
    RequestError
        It did, and several processes (``nproc``) are asked for on top.
    """
    try:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        place = Place(*(int(os.environ[name]) for name in names)) if "MASTER_ADDR" in os.environ else None
    except (KeyError, ValueError):
        return None
    if place is not None and nproc > 1:
        raise RequestError("--nproc and torchrun exclude each other: torchrun has started the ranks already")
    return place


class Group:
    """The ranks of one request, and what they share through their store; a process alone has one in its memory."""

    def __init__(self, place: Place | None = None, store: Store | None = None) -> None:
        self.place, self._store = place or Place(), PrefixStore("work", store or HashStore())
        self._asked = 0

    def next_item(self) -> int:
        """Return the index of the next item; each goes to one rank."""
        return self.add("item", 1) - 1

    def add(self, count: str, amount: int) -> int:
        """Add to a count that all ranks see; return the new one."""
        return int(self._store.add(count, amount))

    def from_first(self, value: Any) -> Any:
        """Return rank 0's value on every rank; all ask, in the same order, and wait as long as rank 0 lives."""
        self._asked += 1
        key, others = f"first/{self._asked}", self.place.world - 1
        if self.place.rank == 0:
            if others:
                self._put(key, value)
            return value
        found = self._taken(key, 0)
        if int(self._store.add(f"{key}/read", 1)) == others:
            self._remove(key)
        return found

    def from_all(self, value: Any) -> list[Any]:
        """Return every rank's value, by rank, on every rank; all ask, and wait for those that live."""
        self._asked += 1
        self._put(f"all/{self._asked}/{self.place.rank}", value)
        return [self._taken(f"all/{self._asked}/{rank}", rank) for rank in range(self.place.world)]

    def leave(self, message: Any) -> None:
        """Tell rank 0 how this one ended."""
        self._put(f"end/{self.place.rank}", message)

    def ends(self) -> Iterator[tuple[int, Any]]:
        """Yield what each other rank left, waiting for it (on rank 0); None where it is gone without a word."""
        for rank in range(1, self.place.world):
            key = f"end/{rank}"
            yield rank, self._taken(key, rank) if self._comes(key, rank) else None

    def stop(self, error: GigamilError) -> None:
        """Tell all ranks what stopped this one, unless another one has told already; they wait for it no longer."""
        if int(self._store.add("stopping", 1)) == 1:
            self._put("stopped", error)
        if self.place.rank == 0:
            self._store.add("first/knows", 1)

    def stopped(self) -> GigamilError | None:
        """Return what stopped a rank, if one was."""
        return self._taken("stopped", 0) if int(self._store.add("stopped", 0)) else None

    def first_knows(self) -> bool:
        """Tell whether rank 0 has heard what stopped a rank; it is given a few seconds."""
        until = time.monotonic() + HEARING_SECONDS
        while not (known := int(self._store.add("first/knows", 0))) and time.monotonic() < until:
            time.sleep(0.05)
        return bool(known)

    def _put(self, key: str, value: Any) -> None:
        data = pickle.dumps(value)
        starts = range(0, len(data), PIECE_BYTES)
        for number, start in enumerate(starts):
            self._store.set(f"{key}/{number}", data[start : start + PIECE_BYTES])  # type: ignore[arg-type]
        self._store.add(key, len(starts))

    def _taken(self, key: str, rank: int) -> Any:
        if not self._comes(key, rank):
            raise ItemError(
                f"rank {rank} has given no sign of life for {SILENCE_SECONDS / 60:.0f} minutes: see what became of its "
                "process and its node, and run the same command again"
            )
        pieces = int(self._store.add(key, 0))
        return pickle.loads(b"".join(self._store.get(f"{key}/{number}") for number in range(pieces)))

    def _remove(self, key: str) -> None:
        for number in range(int(self._store.add(key, 0))):
            self._store.delete_key(f"{key}/{number}")

    def _comes(self, key: str, rank: int) -> bool:
        """Wait for what a rank puts there; False where the rank has fallen silent."""
        beat, heard, pause = 0, time.monotonic(), 0.01
        while not int(self._store.add(key, 0)):
            if error := self.stopped():
                raise error
            latest = int(self._store.add(f"beat/{rank}", 0))
            if latest != beat:
                beat, heard = latest, time.monotonic()
            elif time.monotonic() - heard > (SILENCE_SECONDS if beat else JOINING_SECONDS):
                return False
            time.sleep(pause)
            pause = min(0.5, 2 * pause)
        return True

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Give signs of life while the block runs."""
        ended = threading.Event()

        def beat() -> None:
            with suppress(RuntimeError):  # the store is gone: whoever needs it is told
                while True:
                    self._store.add(f"beat/{self.place.rank}", 1)
                    if ended.wait(BEAT_SECONDS):
                        return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(1.0)


@contextmanager
def rank_group(place: Place, store: Store | None = None) -> Iterator[Group]:
    """Join the ranks that share ``store``, or the one that torchrun set up."""
    group = Group(place, store or next(rendezvous("env://", timeout=TOGETHER))[0])
    with group.beating():
        try:
            yield group
        except dist.DistNetworkError:
            leave_if_asked()  # as the one that kept the store was, perhaps, and has left
            told = "the rank that keeps the ranks' store is gone: see what became of it, and run the same command again"
            raise ItemError(f"rank {place.rank}: {told}") from None


def gpu_of(device: torch.device) -> str:
    """Return which GPU of which machine the device is; empty for a CPU, or where NCCL cannot use it."""
    if device.type != "cuda" or not dist.is_nccl_available():
        return ""
    return f"{socket.gethostname()}/{torch.cuda.get_device_properties(device).uuid}"


def backend_for(gpus: Sequence[str]) -> str:
    """Return ``nccl`` where every rank has a GPU of its own (`gpu_of`), else ``gloo``: one answer for all ranks."""
    return "nccl" if all(gpus) and len(set(gpus)) == len(gpus) else "gloo"


@contextmanager
def process_group(place: Place, device: torch.device, store: Store | None = None) -> Iterator[Group]:
    """Join the ranks that compute together; ranks that share a GPU can, through gloo.

    What a rank raises on purpose, all raise: the others, whose products wait for it, would only say that it is gone.
    Under torchrun it is rank 0 alone that does, and the others end quietly: to torchrun they would have crashed.
    """
    by_torchrun = store is None
    store = store or next(rendezvous("env://", timeout=TOGETHER))[0]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with rank_group(place, store) as group:
        try:
            with _computing(group, device, store):
                yield group
        except GigamilError:
            # Through gloo the others notice when this process ends; GPUs may wait for minutes, and torchrun ends them.
            if by_torchrun and place.rank and (device.type != "cuda" or group.first_knows()):
                raise SystemExit(0) from None
            raise


@contextmanager
def _computing(group: Group, device: torch.device, store: Store) -> Iterator[None]:
    """Let ranks compute together; an error of one becomes that of all."""
    place, backend = group.place, backend_for(group.from_all(gpu_of(device)))
    members = PrefixStore("group", store)
    dist.init_process_group(backend, store=members, rank=place.rank, world_size=place.world, timeout=TOGETHER)
    try:
        yield
    except GigamilError as error:
        group.stop(error)
        raise
    except RuntimeError as broken:
        known = group.stopped()
        if known is None:
            raise
        group.stop(known)
        raise known from broken
    finally:
        dist.destroy_process_group()

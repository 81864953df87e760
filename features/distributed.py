"""Several processes on one request: started here (``--nproc``), or by torchrun on one node or many.

The ranks form a torch.distributed process group (NCCL where each has a GPU of its own, else gloo), through which rank 0
tells the others the job. Work is shared through the group's key-value store: an atomic counter gives the next item,
so a fast rank takes more. No rank waits for another while there is work, so one that dies takes only its unfinished
items with it; what it had finished lies on the disk, and the next round does the rest.
"""

import multiprocessing as mp
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from wsi.cpu import usable_cpus
from wsi.errors import GigamilError

PATIENCE = timedelta(days=30)
"""How long ranks wait for each other at the very start and end; dead ranks are noticed by whoever started them."""


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


def torchrun_place() -> Place | None:
    """Return this process's place where torchrun started it, else None."""
    try:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return Place(*(int(os.environ[name]) for name in names)) if "MASTER_ADDR" in os.environ else None
    except (KeyError, ValueError):
        return None


class Shares(Protocol):
    """The next item of work, and counts that all ranks see."""

    def next_item(self) -> int:
        """Return the index of the next item; each goes to one rank."""

    def add_rows(self, slide: int, rows: int) -> int:
        """Add to the slide's count of rows; return the new one."""


class OwnShares:
    """A single process's."""

    def __init__(self) -> None:
        self._next = 0
        self._rows: dict[int, int] = {}

    def next_item(self) -> int:
        """Return the index of the next item."""
        self._next += 1
        return self._next - 1

    def add_rows(self, slide: int, rows: int) -> int:
        """Add to the slide's count of rows; return the new one."""
        self._rows[slide] = self._rows.get(slide, 0) + rows
        return self._rows[slide]


class Group:
    """The process group, and the shares in its store."""

    def __init__(self, place: Place, store: Store, device: torch.device) -> None:
        self.place, self._store = place, PrefixStore("work", store)
        self._device = device

    def next_item(self) -> int:
        """Return the index of the next item; each goes to one rank."""
        return int(self._store.add("item", 1)) - 1

    def add_rows(self, slide: int, rows: int) -> int:
        """Add to the slide's count of rows; return the new one."""
        return int(self._store.add(f"rows/{slide}", rows))

    def add_tiles(self, tiles: int) -> int:
        """Add to the count of encoded tiles; return the new one."""
        return int(self._store.add("tiles", tiles))

    def from_first(self, value: Any) -> Any:
        """Return rank 0's value on every rank (a collective)."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self._device if dist.get_backend() == "nccl" else None)
        return box[0]

    def leave(self, message: str) -> None:
        """Tell rank 0 how this one ended."""
        self._store.set(f"end/{self.place.rank}", message)

    def ends(self) -> list[str]:
        """Return what the other ranks left, waiting for each (on rank 0)."""
        return [self._store.get(f"end/{rank}").decode() for rank in range(1, self.place.world)]


def backend_for(device: torch.device, local_world: int) -> str:
    """Return ``nccl`` where every rank of the node has a GPU of its own, else ``gloo``."""
    own = device.type == "cuda" and local_world <= torch.cuda.device_count() and dist.is_nccl_available()
    return "nccl" if own else "gloo"


@contextmanager
def process_group(place: Place, device: torch.device, store: Store | None = None) -> Iterator[Group]:
    """Join the group: through ``store``, or through what torchrun set up."""
    if store is None:
        store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    store.set_timeout(PATIENCE)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = backend_for(device, place.local_world)
    members = PrefixStore("group", store)
    dist.init_process_group(backend, store=members, rank=place.rank, world_size=place.world, timeout=PATIENCE)
    try:
        yield Group(place, store, device)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True, slots=True)
class RankEnd:
    """How a started rank ended."""

    rank: int
    exit_code: int | None
    error: BaseException | None = None
    """What it raised, where it could still tell."""

    @property
    def died(self) -> bool:
        """True where it ended without a word."""
        return self.error is None and self.exit_code != 0

    def told(self) -> str:
        """Return one phrase."""
        code = self.exit_code or 0
        return f"rank {self.rank} was stopped by signal {-code}" if code < 0 else f"rank {self.rank} ended with {code}"


JOINED, RAISED = "joined", "raised"
"""Messages to whoever started the rank: it has the job and waits for nobody from now on; its last words."""
Message = tuple[str, tuple[Any, ...]]
"""A method of the report, and its arguments."""
RankWork = Callable[[Place, Store, Callable[[Message], None]], None]
"""What a rank does: its place, the shared store, and where it sends messages. Pickles."""


def run_ranks(work: list[RankWork], listen: Callable[[Message], None]) -> list[RankEnd]:
    """Start one process for each entry of ``work``, hand their messages to ``listen``, return how each ended.

    A rank that dies does not stop the others; one that raises does. If this process dies, its ranks end, too.
    """
    context = mp.get_context("spawn")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = []
    for rank, task in enumerate(work):
        here, there = context.Pipe(duplex=False)
        place = Place(rank, len(work), rank, len(work))
        process = context.Process(target=_rank_main, args=(place, store.port, there, task), name=f"gigamil-rank-{rank}")
        process.start()
        there.close()
        ranks.append((process, here))
    errors: dict[int, BaseException] = {}
    whole = False
    try:
        whole = _listen({here: rank for rank, (_, here) in enumerate(ranks)}, listen, errors)
    finally:
        for process, here in ranks:
            if not whole:
                process.terminate()
            process.join()
            here.close()
    return [RankEnd(rank, process.exitcode, errors.get(rank)) for rank, (process, _) in enumerate(ranks)]


def _listen(pipes: dict[Connection, int], listen: Callable[[Message], None], errors: dict[int, BaseException]) -> bool:
    """Pass messages on until every rank has closed its end; False where the others must be stopped.

    That is so when one has raised, or has died before all had joined: the others would wait for it.
    """
    joining = set(pipes.values())
    while pipes:
        for pipe in wait(list(pipes)):
            assert isinstance(pipe, Connection)
            try:
                name, arguments = pipe.recv()
            except (EOFError, OSError):
                rank = pipes.pop(pipe)
                if rank in joining:
                    return False
                continue
            if name == RAISED:
                errors[pipes[pipe]] = arguments[0]
                return False
            if name == JOINED:
                joining.discard(pipes[pipe])
            else:
                listen((name, arguments))
    return True


def _rank_main(place: Place, port: int, pipe: Connection, work: RankWork) -> None:
    _end_with_parent()
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        store = TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(minutes=5))
        work(place, store, pipe.send)
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as error:
        with suppress(OSError):
            pipe.send((RAISED, (_sendable(error, place.rank),)))
        raise SystemExit(1) from None
    finally:
        with suppress(OSError):
            pipe.close()


def _sendable(error: BaseException, rank: int) -> BaseException:
    """Return the error if it pickles back, else its text; an unexpected one brings its traceback as a note."""
    if not isinstance(error, GigamilError):
        error.add_note(f"in rank {rank}:\n{''.join(traceback.format_exception(error))}")
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:  # anything may go wrong while pickling a foreign exception
        return RuntimeError(f"rank {rank}: {type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    """End this process when its parent dies: an orphan must not go on writing."""
    parent = mp.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Several processes on one request: started here (``--nproc``), or by torchrun on one node or many.

The ranks share a key-value store, through which rank 0 tells the others the job, and in which each gives signs of life:
who waits for another waits as long as that one lives. Work is shared by an atomic counter, so a fast rank takes more,
and no rank waits for another while there is work: one that dies takes only its unfinished items with it; what it had
finished lies on the disk, and the next round does the rest. Ranks that train one model together form a
torch.distributed process group, too: NCCL where each has a GPU of its own, else gloo.
"""

import multiprocessing as mp
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from wsi.cpu import usable_cpus
from wsi.errors import GigamilError, ItemError, RequestError
from wsi.interrupt import (
    PASSED_ON,
    SAVED_CODE,
    Leaving,
    ask_to_leave,
    asked_to_leave,
    end_with_parent,
    interrupt_on_signals,
    interrupts_held,
    save_on_signals,
)

TOGETHER = timedelta(minutes=10)
"""How long a rank that computes something together with others waits for the slowest of them."""
BEAT_SECONDS, SILENCE_SECONDS, JOINING_SECONDS = 5.0, 180.0, 1200.0
"""Between two signs of life; without one, after which a rank is given up; and that it may take to give its first."""
SECONDS_TO_END = 1.5
"""How long ranks that are stopped may take to keep what they have finished."""
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
        yield group


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
    """Join the ranks that compute together; ranks that share a GPU can, through gloo."""
    store = store or next(rendezvous("env://", timeout=TOGETHER))[0]
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with rank_group(place, store) as group:
        backend = backend_for(group.from_all(gpu_of(device)))
        members = PrefixStore("group", store)
        dist.init_process_group(backend, store=members, rank=place.rank, world_size=place.world, timeout=TOGETHER)
        try:
            yield group
        finally:
            dist.destroy_process_group()


@dataclass(frozen=True, slots=True)
class RankEnd:
    """How a started rank ended."""

    rank: int
    exit_code: int | None
    error: BaseException | None = None
    """What it raised, where it could still tell."""
    joined: bool = True
    """False where it had not yet told that it had loaded all it needs."""
    stopped: bool = False
    """True where it was told to end."""

    @property
    def died(self) -> bool:
        """True where it ended without a word, and nobody asked it to."""
        return self.error is None and self.exit_code != 0 and not self.stopped

    def told(self) -> str:
        """Return one phrase."""
        code = self.exit_code or 0
        when = "" if self.joined else " while it loaded"
        if code >= 0:
            return f"rank {self.rank} ended with {code}{when}"
        why = ": out of memory, most likely" if -code == signal.SIGKILL else ""
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return f"rank {self.rank} was stopped by signal {-code} ({name}{why}){when}"


JOINED, RAISED, LEAVES = "joined", "raised", "leaves"
"""Messages to whoever started the rank: it has loaded all it needs and waits for nobody from now on; its last words, an
error or that it was asked to save and leave."""
POLL_SECONDS = 0.2
"""How often it is looked whether somebody asks to save and leave."""
Message = tuple[str, tuple[Any, ...]]
"""A method of whoever listens, and its arguments."""
RankWork = Callable[[Place, Store, Callable[[Message], None]], None]
"""What a rank does: its place, the shared store, and where it sends messages. Pickles."""


class Sender:
    """Stands for somebody in another process: a call of any of its methods is sent there as a `Message`."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send

    def __getattr__(self, method: str) -> Callable[..., None]:
        return lambda *arguments: self._send((method, arguments))


def hear(listener: object, message: Message) -> None:
    """Call the method that a message names."""
    method, arguments = message
    getattr(listener, method)(*arguments)


def run_ranks(work: Sequence[RankWork], listen: Callable[[Message], None], *, together: bool = True) -> list[RankEnd]:
    """Start one process for each entry of ``work``, hand their messages to ``listen``, return how each ended.

    A rank that raises stops the others; so does one that dies before it has joined, where they work ``together``: the
    others would wait for it. If this process ends, its ranks end, too, and keep what they have finished. Where it, or a
    rank, is asked to save and leave, all do, and this raises `Leaving`.
    """
    context = mp.get_context("spawn")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = []
    with interrupts_held():  # until a rank can answer in its own way
        for rank, task in enumerate(work):
            here, there = context.Pipe(duplex=False)
            place = Place(rank, len(work), rank, len(work))
            process = context.Process(
                target=_rank_main, args=(place, store.port, there, task), name=f"gigamil-rank-{rank}"
            )
            process.start()
            there.close()
            ranks.append((process, here))
    errors: dict[int, BaseException] = {}
    joining = set(range(len(ranks)))
    stopped: set[int] = set()
    whole = False
    try:
        pipes = {here: rank for rank, (_, here) in enumerate(ranks)}
        whole = _listen(pipes, listen, errors, joining, together, [process for process, _ in ranks])
    finally:
        if not whole:
            stopped = _stop([process for process, _ in ranks])
        for process, here in ranks:
            process.join()
            here.close()
    if any(process.exitcode == SAVED_CODE for process, _ in ranks):
        raise Leaving
    return [
        RankEnd(rank, process.exitcode, errors.get(rank), rank not in joining, rank in stopped)
        for rank, (process, _) in enumerate(ranks)
    ]


def _stop(processes: Sequence[BaseProcess]) -> set[int]:
    """Ask the processes to end, and end those that take too long; return the numbers of those that still ran."""
    for process in processes:
        process.join(0.1)  # one whose pipe has just closed ends by itself
    running = {number for number, process in enumerate(processes) if process.is_alive()}
    for number in running:
        processes[number].terminate()
    deadline = time.monotonic() + SECONDS_TO_END
    for number in running:
        processes[number].join(max(0.0, deadline - time.monotonic()))
        processes[number].kill()
    return running


def _listen(
    pipes: dict[Connection, int],
    listen: Callable[[Message], None],
    errors: dict[int, BaseException],
    joining: set[int],
    together: bool,
    processes: Sequence[BaseProcess],
) -> bool:
    """Pass messages on until every rank has closed its end; False where the others must be stopped."""
    told = False
    while pipes:
        if asked_to_leave() and not told:
            told = True
            for process in processes:
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, PASSED_ON)
        for pipe in wait(list(pipes), POLL_SECONDS):
            assert isinstance(pipe, Connection)
            try:
                name, arguments = pipe.recv()
            except (EOFError, OSError):
                rank = pipes.pop(pipe)
                if together and rank in joining:
                    return False
                continue
            if name == RAISED:
                errors[pipes[pipe]] = arguments[0]
                return False
            if name == LEAVES:
                ask_to_leave()
            if name in (JOINED, LEAVES):
                joining.discard(pipes[pipe])
            else:
                with suppress(Leaving):  # the ranks save first
                    listen((name, arguments))
    return True


def _rank_main(place: Place, port: int, pipe: Connection, work: RankWork) -> None:
    interrupt_on_signals()
    save_on_signals()
    end_with_parent()
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        store = TCPStore("127.0.0.1", port, is_master=False, timeout=TOGETHER)
        work(place, store, pipe.send)
    except KeyboardInterrupt:
        os._exit(130)
    except Leaving:
        pipe.send((LEAVES, ()))
        pipe.close()
        os._exit(SAVED_CODE)
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

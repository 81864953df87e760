"""Ranks that this process starts (``--nproc``): listened to, told to save and leave, ended where they stand still."""

import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import c_uint64
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]

from features.distributed import JOINING_SECONDS, TOGETHER, Place
from features.fork_server import begin_process, fresh_processes
from wsi.errors import GigamilError, ItemError
from wsi.machine.interrupt import (
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
from wsi.progress.events import emit
from wsi.progress.stalls import Patience, tell_steps

SECONDS_TO_END = 1.5
"""How long ranks that are stopped may take to keep what they have finished."""
SECONDS_TO_TELL = 0.3
"""How long a rank that stands still may take to write its stacks."""
POLL_SECONDS = 0.2
"""How often it is looked whether somebody asks to save and leave, and who stands still."""
JOINED, RAISED, LEAVES = "joined", "raised", "leaves"
"""Messages to whoever started the rank: it has loaded all it needs and waits for nobody from now on; its last words, an
error or that it was asked to save and leave."""
Message = tuple[str, tuple[Any, ...]]
"""A method of whoever listens, and its arguments."""
RankWork = Callable[[Place, Store, Callable[[Message], None]], None]
"""What a rank does: its place, the shared store, and where it sends messages. Pickles."""


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
    stood_still: float = 0.0
    """Seconds without any step, for which it was killed."""

    @property
    def died(self) -> bool:
        """True where it ended without a word, and nobody asked it to."""
        return self.error is None and self.exit_code != 0 and not self.stopped

    def told(self) -> str:
        """Return one phrase."""
        code = self.exit_code or 0
        when = "" if self.joined else " while it loaded"
        if self.stood_still:
            return f"rank {self.rank} stood still for {self.stood_still:g} s and was ended{when}"
        if code >= 0:
            return f"rank {self.rank} ended with {code}{when}"
        why = ": out of memory, most likely" if -code == signal.SIGKILL else ""
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return f"rank {self.rank} was stopped by signal {-code} ({name}{why}){when}"


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


@dataclass(slots=True)
class _Rank:
    """A rank, and what is known of it."""

    number: int
    process: BaseProcess
    pipe: Connection
    steps: Any
    """Its count of steps, in memory that both processes see: one that is stopped need not do anything to be seen."""
    patience: Patience | None
    joining: bool = True
    error: BaseException | None = None
    stopped: bool = False
    stands_still: bool = False

    def end(self, stall: float) -> RankEnd:
        return RankEnd(
            self.number, self.process.exitcode, self.error, not self.joining, self.stopped, stall * self.stands_still
        )

    def signal(self, number: int) -> None:
        if self.process.pid is not None and self.process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def is_paused(self) -> bool:
        """Tell whether somebody stopped it (SIGSTOP), where the system tells."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] in "Tt"


def run_ranks(
    work: Sequence[RankWork], listen: Callable[[Message], None], *, together: bool = True, stall: float = 0.0
) -> list[RankEnd]:
    """Start one process for each entry of ``work``, hand their messages to ``listen``, return how each ended.

    A rank that raises stops the others; so does one that dies before it has joined, where they work ``together``: the
    others would wait for it. One that makes no step (`wsi.progress.stalls.moved`) for ``stall`` seconds writes its
    stacks and is killed; 0: never. If this process ends, its ranks end, too, and keep what they have finished. Where
    it, or a rank, is asked to save and leave, all do, and this raises `Leaving`.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    listening = _Listening(_started(work, store.port, stall), listen, together, stall)
    try:
        listening.until_all_end()
    finally:
        if not listening.whole:
            _stop(listening.ranks)
        for rank in listening.ranks:
            rank.process.join()
            rank.pipe.close()
    if any(rank.process.exitcode == SAVED_CODE for rank in listening.ranks):
        raise Leaving
    return [rank.end(stall) for rank in listening.ranks]


def _started(work: Sequence[RankWork], port: int, stall: float) -> list[_Rank]:
    context = fresh_processes()
    ranks = []
    with interrupts_held():  # until a rank can answer in its own way
        for number, task in enumerate(work):
            here, there = context.Pipe(duplex=False)
            steps = context.RawValue(c_uint64, 0)
            place = Place(number, len(work), number, len(work))
            process = _process(context, number, (place, port, there, task, steps, dict(os.environ)))
            there.close()
            ranks.append(_Rank(number, process, here, steps, Patience(stall) if stall else None))
    return ranks


def _process(context: BaseContext, number: int, arguments: tuple[Any, ...]) -> BaseProcess:
    """Start a rank; as a new interpreter where somebody has just killed the server."""
    for way in (context, get_context("spawn")):
        process: BaseProcess = way.Process(target=_rank_main, args=arguments, name=f"gigamil-rank-{number}")  # type: ignore[attr-defined]
        with suppress(OSError, EOFError):
            process.start()
            return process
    raise ItemError(f"rank {number} cannot be started: the system lets no process begin: run the same command again")


@dataclass(slots=True)
class _Listening:
    """Hears the ranks until every one has closed its end."""

    ranks: list[_Rank]
    listen: Callable[[Message], None]
    together: bool
    stall: float
    whole: bool = False
    """False where the others must be stopped."""
    _told: bool = False
    _began: float = field(default_factory=time.monotonic)

    def until_all_end(self) -> None:
        open_ranks = {rank.pipe: rank for rank in self.ranks}
        while open_ranks:
            if asked_to_leave() and not self._told:
                self._told = True
                for rank in self.ranks:
                    rank.signal(PASSED_ON)
            self._end_those_that_stand_still(list(open_ranks.values()))
            for pipe in wait(list(open_ranks), POLL_SECONDS):
                assert isinstance(pipe, Connection)
                rank = open_ranks[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    del open_ranks[pipe]
                    if self.together and rank.joining:
                        return
                    continue
                self._hear(rank, message)
                if rank.error is not None:
                    return
        self.whole = True

    def _hear(self, rank: _Rank, message: Message) -> None:
        name, arguments = message
        if name == RAISED:
            rank.error = arguments[0]
        elif name in (JOINED, LEAVES):
            rank.joining = False
            if name == LEAVES:
                ask_to_leave()
        else:
            with suppress(Leaving):  # the ranks save first
                self.listen((name, arguments))

    def _end_those_that_stand_still(self, ranks: list[_Rank]) -> None:
        """Kill who has not made a step for too long; of those that wait for each other, the one they wait for."""
        still = [rank for rank in ranks if rank.patience is not None and self._stands_still(rank, rank.patience)]
        if still and self.together:
            still = [min(still, key=lambda rank: (not rank.is_paused(), rank.steps.value))]
        for rank in still:
            rank.stands_still = True
            told = "is paused (SIGSTOP)" if rank.is_paused() else "writes what its threads do"
            what = f"rank {rank.number} (process {rank.process.pid})"
            emit("stalled", id=f"rank {rank.number}", rank_pid=rank.process.pid, seconds=self.stall)
            sys.stderr.write(f"gigamil: {what} stood still for {self.stall:g} s, {told}, and is ended\n")
            rank.signal(signal.SIGQUIT)  # see _rank_main
            rank.process.join(SECONDS_TO_TELL)
            rank.process.kill()

    def _stands_still(self, rank: _Rank, patience: Patience) -> bool:
        """Look at its steps; before the first one it loads, which has a patience of its own, unless it is paused."""
        steps = int(rank.steps.value)
        if rank.stands_still or not patience.ends(steps):
            return False
        return steps > 0 or rank.is_paused() or time.monotonic() - self._began > max(self.stall, JOINING_SECONDS)


def _stop(ranks: Sequence[_Rank]) -> None:
    """Ask the ranks to end, and end those that take too long; note which still ran."""
    for rank in ranks:
        rank.process.join(0.1)  # one whose pipe has just closed ends by itself
    running = [rank for rank in ranks if rank.process.is_alive()]
    for rank in running:
        rank.stopped = not rank.stands_still
        rank.process.terminate()
    deadline = time.monotonic() + SECONDS_TO_END
    for rank in running:
        rank.process.join(max(0.0, deadline - time.monotonic()))
        rank.process.kill()


def _rank_main(
    place: Place, port: int, pipe: Connection, work: RankWork, steps: Any, environment: dict[str, str]
) -> None:
    interrupt_on_signals()
    save_on_signals()
    begin_process(environment)
    end_with_parent()
    with suppress(OSError, ValueError, AttributeError):  # a standard error that is no file
        faulthandler.register(signal.SIGQUIT, sys.stderr, all_threads=True)
    tell_steps(lambda: setattr(steps, "value", steps.value + 1))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        store = TCPStore("127.0.0.1", port, is_master=False, timeout=TOGETHER)
        work(place, store, pipe.send)
    except KeyboardInterrupt:
        os._exit(130)
    except Leaving:
        with suppress(OSError):
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

"""Where tasks run: worker processes of this machine, or a Dask scheduler that is already there."""

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import dask
from distributed import CancelledError, Client, Future, LocalCluster, as_completed
from distributed.comm import CommClosedError

from wsi.errors import RequestError, SchedulerLostError
from wsi.files.replace import discard, temporary_path
from wsi.machine.cpu import usable_cpus
from wsi.machine.interrupt import Leaving, interrupts_held

_CONNECT_SECONDS = 10
_LEAST_PATIENCE_SECONDS, _PATIENCE_SECONDS = 60.0, 300.0
"""Without a sign of life of a worker: it may be busy starting on a machine that is busy, too."""
_PARTS = ("client", "core", "nanny", "scheduler", "utils", "worker")
_LOUD = ("asyncio", "tornado.application", "distributed", *(f"distributed.{part}" for part in _PARTS))
"""Loggers that would print tracebacks of what is reported in one line."""


@dataclass(frozen=True, slots=True)
class _Sent:
    future: Future

    @property
    def key(self) -> str:
        return str(self.future.key)

    @property
    def status(self) -> str:
        return str(self.future.status)

    def result(self) -> Any:
        try:
            return self.future.result()
        except (CancelledError, CommClosedError):
            raise SchedulerLostError(
                "the Dask scheduler went away: start it anew and run the same command again; what is finished is kept"
            ) from None


class _Arrivals:
    def __init__(self) -> None:
        self._finished = as_completed(with_results=False, raise_errors=False)

    def add(self, sent: _Sent) -> None:
        self._finished.add(sent.future)

    def next(self, seconds: float) -> _Sent | None:
        with self._finished.thread_condition:
            if not self._finished.has_ready():  # one that came back since has told so already
                self._finished.thread_condition.wait(seconds)
        return _Sent(next(self._finished)) if self._finished.has_ready() else None


@dataclass(frozen=True, slots=True)
class DaskWorkers:
    """A Dask client as the engine's `wsi.tiling.workers.Workers`."""

    client: Client
    threads: int

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> _Sent:
        """See `wsi.tiling.workers.Workers`."""
        return _Sent(self.client.submit(function, *arguments, key=key))

    def arrivals(self) -> _Arrivals:
        """See `wsi.tiling.workers.Workers`."""
        return _Arrivals()


@contextmanager
def dask_client(workers: int | None, scheduler: str | None, stall: float = 0) -> Iterator[tuple[Client, int]]:
    """Give a Dask client and its number of threads: ``workers`` local processes of one each, or a scheduler's.

    With 0 workers the tasks run in this process: for debugging, notebooks and tests. A local worker that gives no sign
    of life for ``stall`` seconds (at least a minute; 0: five) is killed and replaced.

    Raises
    ------
    RequestError
        No scheduler answers at that address.
    """
    with _settings_kept():
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", "Creating scratch directories", UserWarning)  # a busy disk, and no fault
        with _connected(workers, scheduler, stall) as connected:
            yield connected


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Give the caller's process back its loggers, warning filters and OpenCV threads: tasks may have run in it."""
    loggers = [logging.getLogger(name) for name in (None, *_LOUD)]
    levels = [(logger, logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    threads = cv2.getNumThreads()
    try:
        with warnings.catch_warnings():
            yield
    except (KeyboardInterrupt, Leaving):
        levels = []  # the process ends, and a cluster that is being closed still complains
        raise
    finally:
        cv2.setNumThreads(threads)
        for logger, level, handlers, propagate in levels:
            logger.setLevel(level)
            logger.handlers[:], logger.propagate = handlers, propagate


@contextmanager
def _connected(workers: int | None, scheduler: str | None, stall: float) -> Iterator[tuple[Client, int]]:
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise RequestError(f"--scheduler {scheduler}: no Dask scheduler answers there ({error})") from None
        with client:
            yield client, sum(client.nthreads().values())
        return
    count = usable_cpus() if workers is None else max(1, workers)
    seconds = max(stall, _LEAST_PATIENCE_SECONDS) if stall else _PATIENCE_SECONDS
    patience = dask.config.set({"distributed.scheduler.worker-ttl": f"{seconds} s"})
    with patience, interrupts_held():  # the cluster's threads, and so its worker processes, leave signals to this one
        cluster = LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            processes=workers != 0,
            dashboard_address="127.0.0.1:0",  # None would still open port 8787
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )
        client = Client(cluster)
    with ExitStack() as closing:
        closing.callback(cluster.close)
        closing.callback(client.close)
        try:
            cluster.scale(count)  # tasks wait for the workers, this process need not
            yield client, count
        except (KeyboardInterrupt, Leaving):
            # In good order this takes seconds: workers finish their tasks first, which the next run does anew anyway.
            threading.Thread(target=closing.pop_all().close, daemon=True).start()
            raise


def check_dashboard() -> None:
    """Raise `RequestError` where Dask has no dashboard, for want of a package."""
    if find_spec("bokeh") is None:
        raise RequestError("--dashboard needs bokeh: pip install 'gigamil[dashboard]', or leave it out")


def dashboard_of(client: Client, scheduler: str | None) -> str:
    """Return the dashboard's address: of a cluster of our own it is on this machine alone, whatever Dask calls that."""
    if scheduler is not None:
        return str(client.dashboard_link)
    return f"http://127.0.0.1:{client.scheduler_info()['services']['dashboard']}/status"


def check_shared(client: Client, folder: Path) -> None:
    """Raise `RequestError` naming the workers of a scheduler that do not see a folder of this machine."""
    probe = temporary_path(folder / "probe")
    probe.touch()
    try:
        seen = client.run(os.path.exists, str(probe))
    finally:
        discard(probe)
    blind = sorted(worker for worker, sees in seen.items() if not sees)
    if blind:
        raise RequestError(
            f"--out {folder}: the workers {', '.join(blind[:5])}{' ...' if len(blind) > 5 else ''} do not see this "
            "folder: give one on a disk that all machines share"
        )

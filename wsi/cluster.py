"""Where tasks run: worker processes of this machine, or a Dask scheduler that is already there."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster

from wsi.cpu import usable_cpus
from wsi.errors import RequestError

_CONNECT_SECONDS = 10
_PARTS = ("client", "core", "nanny", "scheduler", "utils", "worker")
_LOUD = ("distributed", *(f"distributed.{part}" for part in _PARTS))
"""Loggers that would print tracebacks of what is reported in one line."""


@contextmanager
def dask_client(workers: int | None, scheduler: str | None) -> Iterator[Client]:
    """Give a Dask client: of ``workers`` local processes with one thread each, or of a running scheduler.

    With 0 workers the tasks run in this process: for debugging, notebooks and tests.

    Raises
    ------
    RequestError
        No scheduler answers at that address.
    """
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", "Creating scratch directories", UserWarning)  # a busy disk, and no fault
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise RequestError(f"--scheduler {scheduler}: no Dask scheduler answers there ({error})") from None
        with client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=usable_cpus() if workers is None else max(1, workers),
            threads_per_worker=1,
            processes=workers != 0,
            dashboard_address="127.0.0.1:0",  # None would still open port 8787
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client

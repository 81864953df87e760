"""Where tasks run: worker processes of this machine, or a Dask scheduler that is already there."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster

from wsi.cpu import usable_cpus
from wsi.errors import RequestError

_CONNECT_SECONDS = 20


@contextmanager
def dask_client(workers: int | None, scheduler: str | None) -> Iterator[Client]:
    """Give a Dask client: of ``workers`` local processes with one thread each, or of a running scheduler.

    Raises
    ------
    RequestError
        No scheduler answers at that address.
    """
    for name in ("distributed", "distributed.nanny", "distributed.worker", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
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
            n_workers=workers or usable_cpus(),
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client

"""Bags read before they are needed: by threads, in the order in which they will be used, ahead by bytes.

One reader for each device of a process. A bag is read from its beginning to its end, whole or only the rows that were
drawn; what is ahead and not yet used is bounded (`AHEAD_BYTES`), however many bags follow and however large a batch is.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from features.bags.rows import LazyRows
from mil.data.device_rows import DeviceRows
from mil.ragged.packing import BagRows, Rows
from wsi.arrays import Ints

AHEAD_BYTES = 1 << 30
"""Of features that are read, or being read, and not yet used."""
STEPS_AHEAD = 64
"""Batches that are drawn before they are used, at most."""
THREADS = 4
Step = TypeVar("Step")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A bag that a step needs."""

    bag: BagRows
    rows: Ints | None = None
    """Row numbers, ascending; None for all."""

    @property
    def bytes_to_read(self) -> int:
        """Return the bytes of what has to be read; 0 where it is at hand."""
        if not isinstance(self.bag, LazyRows) or self.bag.held is not None:
            return 0
        count = len(self.bag) if self.rows is None else len(self.rows)
        return count * self.bag.shape[1] * self.bag.dtype.itemsize

    def read(self) -> Rows:
        """Read it now; what is held is given as it is."""
        if isinstance(self.bag, LazyRows):
            return self.bag.read(self.rows)
        return self.bag if self.rows is None else np.asarray(self.bag[self.rows])


class Reading:
    """Rows that are being read, or will be."""

    def __init__(self, wanted: Wanted, ahead: "_Ahead[Step]") -> None:
        self.wanted, self._ahead = wanted, ahead
        self._future: Future[Rows | Tensor] | None = None

    def begin(self, pool: ThreadPoolExecutor, read: Callable[[Wanted], Rows | Tensor]) -> None:
        """Have it read by a thread."""
        self._future = pool.submit(read, self.wanted)

    def take(self) -> Rows | Tensor:
        """Return the rows, on the device where the reader brings them there. Asked again, they are read again.

        Raises
        ------
        BagError, OSError
            As `LazyRows.read`.
        """
        future, self._future = self._future, None
        if future is None:
            return self._ahead.read_now(self.wanted)
        try:
            return self._ahead.given(future.result())
        finally:
            self._ahead.used(self.wanted)

    def cancel(self) -> None:
        """Leave it unread, where no thread has begun."""
        if self._future is not None:
            self._future.cancel()


class _Ahead(Generic[Step]):
    """What of a sequence of steps is being read."""

    def __init__(
        self,
        steps: Iterable[Step],
        wanted: Callable[[Step], Sequence[Wanted]],
        device: DeviceRows | None,
        sharing: int,
    ) -> None:
        self._most = AHEAD_BYTES // sharing
        self._steps, self._wanted, self._device = iter(steps), wanted, device
        self.drawn: deque[tuple[Step, list[Reading]]] = deque()
        self._waiting: deque[Reading] = deque()
        self._bytes = 0

    def fill(self) -> None:
        """Draw further steps and begin to read, as far as the bytes allow."""
        while self._bytes < self._most:
            if self._waiting:
                self._begin(self._waiting.popleft())
            elif len(self.drawn) >= STEPS_AHEAD or not self._draw():
                return

    def _draw(self) -> bool:
        for step in self._steps:
            readings = [Reading(own, self) for own in self._wanted(step)]
            self.drawn.append((step, readings))
            self._waiting.extend(own for own in readings if own.wanted.bytes_to_read)
            return True
        return False

    def _begin(self, reading: Reading) -> None:
        self._bytes += reading.wanted.bytes_to_read
        reading.begin(_pool(), self._read)

    def _read(self, wanted: Wanted) -> Rows | Tensor:
        return wanted.read() if self._device is None else self._device.fetch(wanted.bag, wanted.rows)

    def read_now(self, wanted: Wanted) -> Rows | Tensor:
        """Read what was not begun, or is asked for again."""
        return self.given(self._read(wanted))

    def given(self, rows: Rows | Tensor) -> Rows | Tensor:
        """Return rows as the caller's stream may use them."""
        return self._device.handed_over(rows) if self._device is not None and isinstance(rows, Tensor) else rows

    def used(self, wanted: Wanted) -> None:
        """Begin to read more in place of what has been taken."""
        self._bytes -= wanted.bytes_to_read
        self.fill()

    def cancel(self) -> None:
        """Leave unread what has not begun."""
        for _, readings in self.drawn:
            for reading in readings:
                reading.cancel()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="read-ahead")


@cache
def _device_rows(device: torch.device) -> DeviceRows:
    return DeviceRows(device)


def device_rows(device: torch.device | str, cache_gib: float | None = None, processes: int = 1) -> DeviceRows | None:
    """Return what brings rows to a GPU and keeps them there, one for each GPU of this process; None for a CPU.

    ``cache_gib``: GiB of features that are kept, otherwise a share of what is free; the first call decides.
    """
    where = torch.device(device)
    if where.type != "cuda":
        return None
    rows = _device_rows(where)
    rows.keep(cache_gib, processes)
    return rows


def read_ahead(
    steps: Iterable[Step],
    wanted: Callable[[Step], Sequence[Wanted]],
    device: DeviceRows | None = None,
    sharing: int = 1,
) -> Iterator[tuple[Step, list[Reading]]]:
    """Yield the steps in their order with their readings, while what follows is being read.

    Parameters
    ----------
    steps
        Drawn from as far ahead as is read; nothing else may depend on when that happens.
    wanted
        What a step reads, in the order in which it is used.
    device
        Where rows are brought to; None: they stay in memory, as arrays.
    sharing
        Readers at work at the same time, which share the bytes that may be ahead.
    """
    ahead = _Ahead(steps, wanted, device, sharing)
    try:
        ahead.fill()
        while ahead.drawn:
            yield ahead.drawn.popleft()
            ahead.fill()
    finally:
        ahead.cancel()

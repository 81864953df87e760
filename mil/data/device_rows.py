"""Rows brought to a GPU: read into pinned memory, copied on a stream of their own, kept there as they are stored.

What is kept never makes room for other bags: every epoch reads all bags once, and a cache that evicts would then keep
what is not needed next. Bags that are trained on come first, for they are read first.
"""

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from features.bags.rows import LazyRows
from mil.ragged.packing import BagRows, Rows
from wsi.arrays import Ints

FREE_SHARE = 0.6
"""Of the GPU's free memory that features may take where nothing is said; the rest is the model's."""
_TORCH = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32}


class DeviceRows:
    """Brings rows to a device, and keeps whole bags there as long as they fit."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None
        self._kept: dict[LazyRows, Tensor] = {}
        self._reserved: set[LazyRows] = set()
        self._room: int | None = None
        self._lock = threading.Lock()

    def keep(self, gib: float | None, processes: int = 1) -> None:
        """Decide how much is kept, where that is not decided yet; ``processes`` share the device."""
        if self._room is None and gib is not None:
            self._room = int(gib * 2**30)
        elif self._room is None:
            free = torch.cuda.mem_get_info(self._device)[0] if self._on_gpu else 0
            self._room = int(free * FREE_SHARE / processes)

    def fetch(self, bag: BagRows, rows: Ints | None) -> Tensor:
        """Return a bag's rows (all, or of these numbers) on the device; by any thread, and only when they are there."""
        if not isinstance(bag, LazyRows):
            return self._copied(bag if rows is None else np.asarray(bag[rows]))
        kept = self._kept.get(bag)
        if kept is None and self._reserve(bag):
            kept = self._kept[bag] = self._copied(bag.read(None, self._empty))
        if kept is None:
            return self._copied(bag.read(rows, self._empty))
        return kept if rows is None else self._chosen(kept, rows)

    def handed_over(self, rows: Tensor) -> Tensor:
        """Return rows to be used on the caller's current stream: their memory is free again only after that."""
        if self._on_gpu:
            rows.record_stream(torch.cuda.current_stream(self._device))
        return rows

    def _reserve(self, bag: LazyRows) -> bool:
        """Tell whether there is room for a bag that nobody keeps or brings, and take it."""
        with self._lock:
            if bag in self._reserved or self._room is None or bag.nbytes > self._room:
                return False
            self._reserved.add(bag)
            self._room -= bag.nbytes
            return True

    def _empty(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> Rows:
        """Return memory that the device copies from by itself; torch uses it again when the copy is done."""
        pinned: Rows = torch.empty(shape, dtype=_TORCH[np.dtype(dtype)], pin_memory=self._on_gpu).numpy()
        return pinned

    def _own_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _copied(self, rows: Rows) -> Tensor:
        with self._own_stream():
            found = torch.from_numpy(np.require(rows, requirements="W")).to(self._device, non_blocking=True)
            self._wait()
        return found

    def _chosen(self, kept: Tensor, rows: Ints) -> Tensor:
        with self._own_stream():
            found = kept.index_select(0, torch.from_numpy(rows).to(self._device))
            self._wait()
        return found

    def _wait(self) -> None:
        """Wait, in the reading thread, until what was asked of the stream is done."""
        if self._stream is not None:
            done = torch.cuda.Event()
            done.record(self._stream)
            done.synchronize()

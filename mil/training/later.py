"""Numbers that a device is still computing."""

import torch
from torch import Tensor


class Later:
    """Values on their way from the device: a copy that nobody waits for until it is read.

    To read a number of one step before the next one is given to a GPU leaves it without work meanwhile.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)
        self._there: torch.cuda.Event | None = None
        if values.is_cuda:
            self._there = torch.cuda.Event()
            self._there.record(torch.cuda.current_stream(values.device))

    def read(self) -> Tensor:
        """Return the values on the CPU."""
        if self._there is not None:
            self._there.synchronize()
        return self._values

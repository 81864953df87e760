"""A step of the optimizer, over parts and ranks: gradients are summed, clipped, scaled in half precision."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from features.learning.checkpoint import Standing
from features.learning.optimizer import set_rate
from features.learning.ranks import Setting
from features.tensors import flat_moments, nested_moments
from wsi.arrays import Floats
from wsi.errors import ItemError


def not_finite(what: str, place: tuple[int, int, int], lr: float, precision: str, whose: str = "") -> ItemError:
    """Return the error of a loss or gradient that is no number: where it was, and what to do.

    ``place``: epoch, step, steps of an epoch, the first two from 0. ``whose``: which tiles or slides.
    """
    epoch, step, steps = place
    half = "" if precision == "fp32" else f", or give --precision fp32 (now {precision})"
    return ItemError(
        f"the {what} is not finite in epoch {epoch + 1}, step {step + 1} of {steps}{f' ({whose})' if whose else ''}: "
        f"expected numbers; lower --lr (now {lr:g}){half}"
    )


class Stepper:
    """The optimizer of one rank, and the scaler of its losses."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, setting: Setting, clip: float) -> None:
        self._model, self._optimizer, self._clip, self._setting = model, optimizer, clip, setting
        self.scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.precision == "fp16")

    def clear(self) -> None:
        """Forget the gradients of the step before."""
        self._optimizer.zero_grad(set_to_none=True)

    def backward(self, loss_sum: Tensor, batch_length: int) -> None:
        """Add the gradients of a part's summed loss, divided by the number of tiles of the whole batch."""
        # DistributedDataParallel takes the mean over ranks: times the number of ranks, it is their sum
        self.scaler.scale(loss_sum * (self._setting.place.world / batch_length)).backward()

    def unscaled_norm(self) -> float:
        """Clip the gradients; return the norm that they had."""
        self.scaler.unscale_(self._optimizer)
        return float(nn.utils.clip_grad_norm_(self._model.parameters(), self._clip))

    def take(self, rate: float) -> None:
        """Take the step; in fp16 one whose gradients are not finite is left out."""
        set_rate(self._optimizer, rate)
        self.scaler.step(self._optimizer)
        self.scaler.update()

    def save_into(self, standing: Standing) -> None:
        """Put the optimizer's state into a standing."""
        standing.optimizer = flat_moments(self._optimizer.state_dict()["state"])
        standing.scaler = self.scaler.state_dict()

    def load_from(self, standing: Standing) -> None:
        """Take it over from there."""
        moments = nested_moments(standing.optimizer)
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
        self.scaler.load_state_dict(standing.scaler)


def in_parallel(model: nn.Module, setting: Setting) -> nn.Module:
    """Return the model as it is trained together with the other ranks."""
    if setting.place.world == 1:
        return model
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    devices = [setting.device] if setting.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices)


def quiet_unless(last: bool, model: nn.Module) -> AbstractContextManager[Any]:
    """Return the context of a part: ranks add their gradients up at the step's last."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def over_ranks(values: Floats, setting: Setting) -> Floats:
    """Return the sum over ranks (a collective)."""
    if setting.place.world == 1:
        return values
    box = torch.from_numpy(values).to(setting.device)
    dist.all_reduce(box)
    return box.cpu().numpy()

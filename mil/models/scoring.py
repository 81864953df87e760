"""Ask a model about bags."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from mil.data.read_ahead import Wanted, device_rows, read_ahead
from mil.models.model import BagModel
from mil.ragged.packing import BagRows, Rows, group_by_rows, pack
from mil.targets import TARGETS
from wsi.arrays import Floats
from wsi.progress.stalls import moved

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Seen = Callable[[int, Rows], None]
"""Shown a bag's position and its rows, as they are read."""


@dataclass(frozen=True, slots=True)
class Compute:
    """Where and how precisely models compute."""

    device: str
    precision: str = "fp32"
    """Of the matrix products."""
    max_rows: int = 65_536
    """Instances on the device at once."""


def autocast(compute: Compute) -> AbstractContextManager[None]:
    """Return the context in which matrix products run in the precision asked for."""
    dtype = DTYPES.get(compute.precision)
    kind = torch.device(compute.device).type
    context: AbstractContextManager[None] = torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None)
    return context


def score(model: BagModel, bags: Sequence[BagRows], compute: Compute) -> Floats:
    """Return the logits (n, C) of bags, float64; zeros for an empty bag. In evaluation mode.

    Those that are told, in the target's own units, so that several models' can be averaged.
    """
    return np.asarray(score_each([model], bags, compute)[0])


@torch.inference_mode()
def score_each(
    models: Sequence[BagModel], bags: Sequence[BagRows], compute: Compute, seen: Seen | None = None
) -> Floats:
    """Return what `score` gives of each of the models (M, n, C), all of one target; bags are read once for all.

    ``seen`` is shown the rows of each bag, by its position, where they come as an array.
    """
    spec = models[0].spec
    told = spec.n_classes - spec.extra_classes
    logits = np.zeros((len(models), len(bags), told))
    filled = [position for position, bag in enumerate(bags) if len(bag)]
    groups = group_by_rows([len(bags[position]) for position in filled], compute.max_rows)
    steps = [[filled[position] for position in group] for group in groups]
    ahead = read_ahead(steps, lambda own: [Wanted(bags[position]) for position in own], device_rows(compute.device))
    for chosen, readings in ahead:
        moved()
        taken = [own.take() for own in readings]
        for position, rows in zip(chosen, taken, strict=True):
            if seen is not None and isinstance(rows, np.ndarray):
                seen(position, rows)
        packed = pack(taken, compute.device)
        for own_NC, model in zip(logits, models, strict=True):
            with autocast(compute):
                output = model.eval()(packed.rows_ND, packed.offsets)
            found = output.logits_BC[:, :told].double().cpu().numpy()
            own_NC[chosen] = TARGETS[spec.target].comparable(found)
    return logits

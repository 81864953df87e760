"""Ask a model about bags."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from mil.data.read_ahead import Wanted, device_rows, read_ahead
from mil.models.model import BagModel
from mil.ragged.packing import BagRows, group_by_rows, pack
from mil.targets import TARGETS
from wsi.arrays import Floats
from wsi.progress.stalls import moved

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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


@torch.inference_mode()
def score(model: BagModel, bags: Sequence[BagRows], compute: Compute) -> Floats:
    """Return the logits (n, C) of bags, float64; zeros for an empty bag. In evaluation mode.

    Those that are told, in the target's own units, so that several models' can be averaged.
    """
    model.eval()
    told = model.spec.n_classes - model.spec.extra_classes
    logits = np.zeros((len(bags), told))
    filled = [position for position, bag in enumerate(bags) if len(bag)]
    groups = group_by_rows([len(bags[position]) for position in filled], compute.max_rows)
    steps = [[filled[position] for position in group] for group in groups]
    ahead = read_ahead(steps, lambda own: [Wanted(bags[position]) for position in own], device_rows(compute.device))
    for chosen, readings in ahead:
        moved()
        packed = pack([own.take() for own in readings], compute.device)
        with autocast(compute):
            output = model(packed.rows_ND, packed.offsets)
        own = output.logits_BC[:, :told].double().cpu().numpy()
        logits[chosen] = TARGETS[model.spec.target].comparable(own)
    return logits

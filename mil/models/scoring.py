"""Ask a model about bags, in the precision of the options."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch

from mil.models.model import BagModel
from mil.ragged.packing import Rows, group_by_rows, pack
from mil.targets import TARGETS
from mil.training.options import TrainOptions
from wsi.arrays import Floats

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(options: TrainOptions) -> AbstractContextManager[None]:
    """Return the context in which matrix products run in the precision asked for."""
    dtype = DTYPES.get(options.precision)
    kind = torch.device(options.device).type
    context: AbstractContextManager[None] = torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None)
    return context


@torch.inference_mode()
def score(model: BagModel, bags: Sequence[Rows], options: TrainOptions) -> Floats:
    """Return the logits (n, C) of bags, float64; zeros for an empty bag. In evaluation mode.

    Those that are told, in the target's own units, so that several models' can be averaged.
    """
    model.eval()
    told = model.spec.n_classes - model.spec.extra_classes
    logits = np.zeros((len(bags), told))
    filled = [position for position, bag in enumerate(bags) if len(bag)]
    for group in group_by_rows([len(bags[position]) for position in filled], options.max_rows):
        chosen = [filled[position] for position in group]
        packed = pack([bags[position] for position in chosen], options.device)
        with autocast(options):
            output = model(packed.rows_ND, packed.offsets)
        own = output.logits_BC[:, :told].double().cpu().numpy()
        logits[chosen] = TARGETS[model.spec.target].comparable(own)
    return logits

"""Which way each tile pushes each output of one model.

Three ways, the first that a head has. ``sum``: the logits are a sum over tiles, and each tile's part of it is told,
exactly (attention times the logits of the tile alone: Javed et al. 2022, arXiv 2206.01794). ``max``: the logits are the
highest tile's, and each tile's own logits are told. ``gradient``: gradient times standardised input (Shrikumar et al.
2016, arXiv 1605.01713): to first order what the tile changes compared with an average tile of the training.

Leaving out tile by tile would take as many passes as there are tiles: minutes a slide, where these take one or two.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mil.heads import Explains
from mil.models.ensemble import Member
from mil.models.model import BagModel
from mil.models.scoring import Compute, autocast
from mil.ragged.packing import Packed
from mil.targets import TARGETS
from wsi.arrays import Floats

Way = Literal["sum", "max", "gradient"]
MOST_TILES = 100_000
"""Of a bag of which a gradient is taken, of heads that hold a bag whole: some 3 GiB."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model says of one bag of N rows, comparable between models."""

    logits_C: Floats
    attention_N: Floats | None
    """None where the head weighs all tiles alike."""
    push_NC: Floats | None
    """None where it would take too much memory."""


def way_of(model: BagModel) -> Way:
    """Return how a model tells which way tiles push; with a last layer that is no sum, by gradient."""
    head = model.head
    explains = isinstance(head, Explains) and model.spec.output == "linear"
    return head.says if explains and isinstance(head, Explains) else "gradient"


def ask(member: Member, packed: Packed, compute: Compute) -> Answer:
    """Ask a model about one bag."""
    model = member.model
    with torch.no_grad(), autocast(compute):
        output = model.explain(packed.rows_ND, packed.offsets)
    if output is not None and output.tile_logits_NC is not None:
        return Answer(
            _told(output.logits_BC, model)[0], _plain(output.attention_N), _told(output.tile_logits_NC, model)
        )
    if model.head.streams or len(packed.rows_ND) <= MOST_TILES:
        return _by_gradient(model, packed, compute)
    with torch.inference_mode(), autocast(compute):
        output = model(packed.rows_ND, packed.offsets)
    return Answer(_told(output.logits_BC, model)[0], _plain(output.attention_N), None)


def _by_gradient(model: BagModel, packed: Packed, compute: Compute) -> Answer:
    """Ask with the gradient of a one that multiplies each standardised row; 0 is an average tile."""
    presence_N = torch.ones(len(packed.rows_ND), device=packed.rows_ND.device, requires_grad=True)
    with torch.enable_grad(), autocast(compute):
        output = model.head(replace(model.instances(packed.rows_ND, packed.offsets), presence_N=presence_N))
    n_told = model.spec.n_classes - model.spec.extra_classes
    logits_C = output.logits_BC[0, :n_told]
    relative = model.spec.target == "classes"  # only differences count, and the parts of all classes cancel
    asked = list((logits_C - logits_C.mean() if relative else logits_C).unbind())[: n_told - relative]
    columns = [torch.autograd.grad(logit, presence_N, retain_graph=True)[0].double() for logit in asked]
    if relative:
        columns.append(-torch.stack(columns).sum(0))
    push_NC = torch.stack(columns, dim=1).cpu().numpy() * model.spec.scale
    scaled_BC = output.logits_BC.detach() * model.spec.scale + model.spec.shift
    return Answer(_told(scaled_BC, model)[0], _plain(output.attention_N), push_NC)


def _told(logits_NC: Tensor, model: BagModel) -> Floats:
    told_NC = logits_NC[:, : model.spec.n_classes - model.spec.extra_classes].double().cpu().numpy()
    return np.asarray(TARGETS[model.spec.target].comparable(told_NC))


def _plain(attention_N: Tensor | None) -> Floats | None:
    return None if attention_N is None else np.asarray(attention_N.detach().double().cpu().numpy())

"""A head together with the standardisation of its features: what is trained, stored and loaded as one."""

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from features.bags.moments import moments_of
from features.bags.rows import LazyRows
from mil.heads import Explains, HeadOutput, HeadSpec, Truth, make_head
from mil.ragged.instances import Instances
from mil.ragged.packing import BagRows
from wsi.arrays import Floats
from wsi.errors import RequestError, one_line
from wsi.files.atomic import replacing
from wsi.files.documents import parse_json, read_document
from wsi.files.regular import file_sha256

FLAT = 1e-6
"""Deviation up to which a feature is left as it is; where all are small, the share of the largest deviation."""
_WIDEST = 1 << 16
"""Of a layer that a stored head may ask for."""


class BagModel(nn.Module):
    """Standardise the features with the training fold's mean and deviation, then apply the head."""

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        self.head = make_head(spec)
        self.limit = spec.limit or float("inf")
        self.register_buffer("mean_D", torch.zeros(spec.dim))
        self.register_buffer("scale_D", torch.ones(spec.dim))

    def forward(self, rows_ND: Tensor, offsets: Sequence[int], truth: Truth | None = None) -> HeadOutput:
        """Return logits (B, C) and attention (N,) of packed rows of any float type, standardised here in float32.

        ``truth`` is given while training, for the head's own losses.
        """
        output: HeadOutput = self.head(self.instances(rows_ND, offsets), truth)
        if self.training or (self.spec.scale, self.spec.shift) == (1.0, 0.0):
            return output
        return output._replace(logits_BC=output.logits_BC * self.spec.scale + self.spec.shift)

    def explain(self, rows_ND: Tensor, offsets: Sequence[int]) -> HeadOutput | None:
        """Return the output in evaluation mode with what each row says of the logits; None where the head cannot tell.

        Of values the rows' parts are in the values' unit, and add up to the value less ``spec.shift``.
        """
        head = self.head
        output = head.explain(self.instances(rows_ND, offsets)) if isinstance(head, Explains) else None
        if output is None or output.tile_logits_NC is None:
            return None
        scale, shift = self.spec.scale, self.spec.shift
        return output._replace(logits_BC=output.logits_BC * scale + shift, tile_logits_NC=output.tile_logits_NC * scale)

    def instances(self, rows_ND: Tensor, offsets: Sequence[int]) -> Instances:
        """Return packed rows as the head takes them."""
        return Instances(rows_ND, offsets, self.mean_D, self.scale_D, self.limit)

    def standardise(self, bags: Sequence[BagRows]) -> None:
        """Take mean and deviation from these bags, each bag counting equally whatever its size."""
        mean_D, std_D = feature_moments(bags)
        differs_D = std_D > FLAT * min(1.0, std_D.max())
        self.mean_D.copy_(torch.from_numpy(mean_D))
        self.scale_D.copy_(torch.from_numpy(1 / np.where(differs_D, std_D, 1.0)))


def feature_moments(bags: Sequence[BagRows]) -> tuple[Floats, Floats]:
    """Return mean and standard deviation (D,) over the bags, each bag weighing the same; empty bags do not count.

    Bags in files carry their moments: nothing is read for them.
    """
    filled = [bag.moments() if isinstance(bag, LazyRows) else moments_of(bag) for bag in bags if len(bag)]
    mean_D, spread_D = np.zeros(bags[0].shape[1]), np.zeros(bags[0].shape[1])
    for own in filled:
        mean_D += own.mean_D
    mean_D /= len(filled)
    for own in filled:
        spread_D += own.spread_around(mean_D)
    return mean_D, np.asarray(np.sqrt(spread_D / len(filled)))


def save_model(folder: Path, model: BagModel, facts: dict[str, Any]) -> None:
    """Write weights.safetensors, then model.json (spec and facts): when model.json is there, the model is whole."""
    from safetensors.torch import save_file

    with replacing(folder / "weights.safetensors") as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, temporary)
    told = {"spec": model.spec.as_dict(), **facts, "weights_sha256": file_sha256(folder / "weights.safetensors")}
    with replacing(folder / "model.json") as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n")


def load_model(folder: Path, device: torch.device | str = "cpu") -> tuple[BagModel, dict[str, Any]]:
    """Return the model, in evaluation mode, and the facts stored with it. Nothing in the files is executed.

    Raises
    ------
    RequestError
        The files are missing or do not fit each other, or the weights are not those that were written, or not finite;
        a head larger than its weights' file is never made.
    OSError
        The storage fails.
    """
    from features.tensors import read_tensors

    try:
        facts = parse_json(read_document(folder / "model.json", RequestError))
        tensors, _ = read_tensors(folder / "weights.safetensors", RequestError)
        spec = _spec_of(facts["spec"])
        if facts.get("weights_sha256") not in (None, file_sha256(folder / "weights.safetensors")):
            raise ValueError("weights.safetensors is not the file that was written, by its sha256")
        with torch.device("meta"):  # takes no memory: a spec may ask for any size
            wanted = sum(value.numel() for value in BagModel(spec).state_dict().values())
        if wanted > sum(value.numel() for value in tensors.values()):
            raise ValueError("weights.safetensors holds fewer weights than the head of model.json has")
        model = BagModel(spec)
        model.load_state_dict(tensors)
        _check_finite(model)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        told = one_line(error if str(error) else repr(error), 300)
        raise RequestError(f"{folder}: no whole model is there ({told}); train the run again") from None
    return model.to(device).eval(), facts


def _spec_of(values: dict[str, Any]) -> HeadSpec:
    """Return the spec; `ValueError` where a field is not of its kind."""
    spec = HeadSpec(**values)
    for own in fields(spec):
        value = getattr(spec, own.name)
        fine = {
            int: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _WIDEST,
            float: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
            str: isinstance(value, str),
        }.get(own.type, True)  # type: ignore[arg-type]
        if not fine or (own.name in ("dim", "n_classes", "hidden", "attention", "subcenters") and value < 1):
            raise ValueError(f"{own.name} of model.json cannot be {one_line(repr(value), 40)}")
    if not all(isinstance(own, int | float) and math.isfinite(own) for own in spec.margins):
        raise ValueError("margins of model.json: expected numbers")
    return spec


def _check_finite(model: BagModel) -> None:
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} holds NaN or infinite numbers")

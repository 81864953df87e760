"""Where a fine-tuning stands: one safetensors file, whole; loading it executes nothing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from features.tensors import read_tensors
from wsi.errors import RequestError, one_line
from wsi.files.atomic import write_bytes
from wsi.files.documents import parse_json
from wsi.recipe import Recipe, canonical, refuse_other_recipe

Tensors = dict[str, Tensor]
_PARTS = ("model", "average", "best", "optimizer")


@dataclass(slots=True)
class Standing:
    """Everything that training carries from one step to the next; random numbers come from (seed, epoch, tile)."""

    epoch: int = 0
    step: int = 0
    """Steps done in that epoch."""
    model: Tensors = field(default_factory=dict)
    average: Tensors = field(default_factory=dict)
    """Empty without a moving average."""
    best: Tensors = field(default_factory=dict)
    """The weights of the best epoch, where that is kept."""
    best_loss: float = float("inf")
    best_epoch: int = -1
    optimizer: Tensors = field(default_factory=dict)
    """Moments as ``<parameter>/<name>``."""
    scaler: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, float]] = field(default_factory=list)
    """One row per step: the loss curve."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row per finished epoch."""


def write_standing(path: Path, standing: Standing, recipe: Recipe) -> None:
    """Write the checkpoint, whole or not at all."""
    tensors = {
        f"{part}/{name}": value.detach().cpu().clone().contiguous()  # shared storage is not allowed in the file
        for part in _PARTS
        for name, value in getattr(standing, part).items()
    }
    names = [name for name in Standing.__dataclass_fields__ if name not in _PARTS]
    plain = {name: getattr(standing, name) for name in names}
    write_bytes(path, safetensors.torch.save(tensors, {"state": json.dumps(plain), "recipe": canonical(recipe)}))


def read_standing(path: Path, recipe: Recipe) -> Standing:
    """Read a checkpoint, on the CPU.

    Raises
    ------
    RequestError
        The file is damaged, or of another recipe (the fields are named).
    """
    try:
        tensors, texts = read_tensors(path, RequestError)
        plain, found = parse_json(texts["state"]), parse_json(texts["recipe"])
        refuse_other_recipe(path, found, recipe)
        parts: dict[str, Any] = {part: {} for part in _PARTS}
        for name, value in tensors.items():
            part, _, key = name.partition("/")
            parts[part][key] = value
        return Standing(**plain, **parts)
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = one_line(repr(error), 200)
        raise RequestError(f"{path}: the checkpoint is damaged ({told}): delete it, or give --overwrite") from None

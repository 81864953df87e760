"""Where the training of an encoder stands: one safetensors file, whole; loading it executes nothing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from features.tensors import standing_at, write_standing
from wsi.files.documents import parse_json
from wsi.recipe import Recipe, canonical, refuse_other_recipe

Tensors = dict[str, Tensor]
_PARTS = ("model", "average", "best", "optimizer", "objective")


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
    objective: Tensors = field(default_factory=dict)
    """What a loss carries along, as the center of a teacher's outputs."""
    scaler: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, float]] = field(default_factory=list)
    """One row per step: the loss curve."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row per finished epoch."""


def write_checkpoint(path: Path, standing: Standing, recipe: Recipe) -> None:
    """Write the checkpoint, whole or not at all."""
    parts = {name: getattr(standing, name) for name in _PARTS}
    plain = {name: getattr(standing, name) for name in Standing.__dataclass_fields__ if name not in _PARTS}
    write_standing(path, parts, {"state": json.dumps(plain), "recipe": canonical(recipe)})


def read_checkpoint(path: Path, recipe: Recipe) -> Standing:
    """Read a checkpoint, on the CPU.

    Raises
    ------
    RequestError
        The file is damaged, or of another recipe (the fields are named).
    """
    with standing_at(path, "delete it, or give --overwrite") as (parts, texts):
        refuse_other_recipe(path, parse_json(texts["recipe"]), recipe)
        return Standing(**parse_json(texts["state"]), **parts)

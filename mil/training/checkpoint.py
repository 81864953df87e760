"""Where a model's training stands after an epoch: one safetensors file, whole; loading it executes nothing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from features.tensors import flat_moments, nested_moments, standing_at, write_standing
from wsi.files.documents import parse_json
from wsi.files.replace import remove

NAME = "checkpoint.safetensors"


@dataclass(slots=True)
class Progression:
    """Everything that training carries from one epoch to the next; random numbers are drawn anew from (seed, epoch)."""

    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    """``state_dict`` of the optimizer."""
    scaler: dict[str, Any] = field(default_factory=dict)
    mean: dict[str, Tensor] = field(default_factory=dict)
    """The running mean of the weights, where there is one."""
    mean_steps: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    """The model's state after the best epoch."""
    best_loss: float = float("inf")
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)
    """One row per finished epoch."""


def write_checkpoint(folder: Path, state: Progression, recipe_hash: str) -> None:
    """Write the checkpoint, whole or not at all."""
    moments = flat_moments(state.optimizer["state"])
    plain = {
        "recipe_hash": recipe_hash,
        "scaler": state.scaler,
        "mean_steps": state.mean_steps,
        "best_loss": state.best_loss,
        "best_epoch": state.best_epoch,
        "history": state.history,
        "groups": state.optimizer["param_groups"],
    }
    parts = {"model": state.model, "best": state.best, "mean": state.mean, "optimizer": moments}
    write_standing(folder / NAME, parts, {"state": json.dumps(plain)})


def read_checkpoint(folder: Path, recipe_hash: str) -> Progression | None:
    """Return the checkpoint if there is one of this recipe, on the CPU.

    Raises
    ------
    RequestError
        The file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    with standing_at(path, "delete it to train this model anew") as (parts, texts):
        plain = parse_json(texts["state"])
        if plain.pop("recipe_hash") != recipe_hash:
            return None
        optimizer = {"state": nested_moments(parts["optimizer"]), "param_groups": plain.pop("groups")}
        model, best, mean = parts["model"], parts["best"], parts["mean"]
        return Progression(model=model, best=best, mean=mean, optimizer=optimizer, **plain)


def remove_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a finished model."""
    remove(folder / NAME)

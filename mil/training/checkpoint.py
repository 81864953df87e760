"""Where a model's training stands after an epoch: one safetensors file, whole; loading it executes nothing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from wsi.errors import RequestError, one_line
from wsi.files.atomic import write_bytes
from wsi.files.documents import parse_json

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
    from safetensors.torch import save

    moments = {f"{i}/{key}": value for i, own in state.optimizer["state"].items() for key, value in own.items()}
    parts = {"model": state.model, "best": state.best, "mean": state.mean, "optimizer": moments}
    tensors = {f"{part}/{name}": value.contiguous() for part, own in parts.items() for name, value in own.items()}
    plain = {
        "recipe_hash": recipe_hash,
        "scaler": state.scaler,
        "mean_steps": state.mean_steps,
        "best_loss": state.best_loss,
        "best_epoch": state.best_epoch,
        "history": state.history,
        "groups": state.optimizer["param_groups"],
    }
    write_bytes(folder / NAME, save(tensors, {"state": json.dumps(plain)}))


def read_checkpoint(folder: Path, recipe_hash: str) -> Progression | None:
    """Return the checkpoint if there is one of this recipe, on the CPU.

    Raises
    ------
    RequestError
        The file is damaged.
    """
    from features.tensors import read_tensors

    path = folder / NAME
    if not path.exists():
        return None
    try:
        tensors, texts = read_tensors(path, RequestError)
        plain = parse_json(texts["state"])
        if plain.pop("recipe_hash") != recipe_hash:
            return None
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer").items():
            number, key = name.split("/")
            moments.setdefault(int(number), {})[key] = value
        optimizer = {"state": moments, "param_groups": plain.pop("groups")}
        model, best, mean = (_part(tensors, part) for part in ("model", "best", "mean"))
        return Progression(model=model, best=best, mean=mean, optimizer=optimizer, **plain)
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = one_line(repr(error), 200)
        raise RequestError(f"{path}: the checkpoint is damaged ({told}): delete it to train this model anew") from None


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")}


def remove_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a finished model."""
    (folder / NAME).unlink(missing_ok=True)

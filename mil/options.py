"""What a training run can be told."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mil.heads import HEADS
from wsi.errors import RequestError
from wsi.recipe import Recipe

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_PLACES = ("bags", "manifest", "out", "stores", "splits", "device", "jobs", "overwrite", "max_rows", "precision")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `mil.train.train`. All but places, device, ``jobs`` and ``max_rows`` shape the result."""

    bags: tuple[Path, ...]
    """Bag files, or folders of them."""
    manifest: Path
    out: Path
    """The run folder."""
    stores: tuple[Path, ...] = ()
    """Tile stores: for the mean-colour baseline and the report's heat maps."""
    splits: Path | None = None
    """A splits.csv to reuse."""
    head: str = "gated_abmil"
    baselines: tuple[str, ...] = ("mean_pool",)
    """Further heads trained on the same splits, for comparison."""
    classes: tuple[str, ...] = ()
    """Order of the classes; empty: the manifest's labels, sorted."""
    folds: int = 5
    seeds: int = 1
    """Models per fold, averaged."""
    seed: int = 0
    """Of the splits and the first model."""
    epochs: int = 60
    warmup_epochs: int = 3
    patience: int = 15
    """Epochs without a better inner validation loss before training stops."""
    inner_share: float = 0.2
    """Share of a training fold's patients that validate."""
    lr: float = 1e-3
    weight_decay: float = 1e-2
    clip: float = 1.0
    """Largest norm of the gradient."""
    hidden: int = 128
    attention: int = 64
    dropout: float = 0.25
    batch_bags: int = 16
    max_tiles: int = 0
    """Instances drawn from each bag anew every epoch; 0 takes all."""
    max_rows: int = 65_536
    """Instances on the device at once; a batch of more is accumulated."""
    precision: str = "auto"
    """Of the matrix products: fp32 on a CPU and bf16 on a GPU where not given."""
    device: str = "auto"
    jobs: int = 1
    """Models trained side by side in their own processes."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        at_least = {"folds": 2, "seeds": 1, "epochs": 1, "patience": 1, "hidden": 1, "attention": 1}
        at_least |= {"batch_bags": 1, "max_rows": 1, "jobs": 1, "seed": 0, "warmup_epochs": 0, "max_tiles": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise RequestError(f"{name}: expected {least} or more, found {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise RequestError(f"{name}: expected a number above 0, found {getattr(self, name)}")
        if not (0 <= self.dropout < 1 and 0 < self.inner_share < 1 and self.weight_decay >= 0):
            raise RequestError("expected dropout in [0, 1), inner_share in (0, 1) and weight_decay of 0 or more")
        for head in (self.head, *self.baselines):
            if head not in HEADS:
                raise RequestError(f"unknown head {head!r}: expected one of {', '.join(HEADS)}")
        if self.precision not in PRECISIONS:
            raise RequestError(f"precision: expected one of {', '.join(PRECISIONS)}, found {self.precision!r}")
        if not self.bags:
            raise RequestError("expected one or more bag files or folders, found none")

    @property
    def heads(self) -> tuple[str, ...]:
        """Return the head, then the baselines that differ from it."""
        return (self.head, *(name for name in dict.fromkeys(self.baselines) if name != self.head))

    def recipe(self) -> Recipe:
        """Return what shapes the result, as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _PLACES}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def resolve(options: TrainOptions) -> TrainOptions:
    """Return the options with the device and the precision decided."""
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise RequestError(f"device: expected auto, cpu, cuda or cuda:N, found {options.device!r}") from None
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if kind == "cuda" else "fp32"
    return replace(options, device=device, precision=precision)

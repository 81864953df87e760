"""What a training run can be told."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mil.data.several_encoders import APART, FUSIONS
from mil.evaluation.calibrate import AUTO, METHODS
from mil.heads import check_head
from mil.heads.head import OUTPUTS
from mil.targets.task import KINDS
from wsi.errors import RequestError
from wsi.recipe import Recipe

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
OPTIMIZERS = ("adamw", "sam")
BALANCES = ("weights", "sampling")
SPLITS = ("patients", "centers")
AGGREGATES = ("mean", "max", "bag")
UNITS = ("patient", "slide")
TRACKERS = ("wandb", "mlflow")
_WHERE = ("bags", "manifest", "out", "stores", "splits", "teacher", "other")
_HOW = ("device", "precision", "jobs", "nproc", "max_rows", "track", "overwrite")
_SOFT = ("label_smoothing", "mixup", "ema", "instance_dropout", "distil_weight", "distil_temperature")
_FOR_CLASSES = {"label_smoothing": 0.0, "mixup": 0.0, "balance": "weights", "teacher": None, "output": "linear"}
_FOR_CLASSES |= {"calibrate": "temperature", "aggregate": "mean", "other": None}
"""Options that mean something for classes alone, at their defaults."""
_SILENT = (
    "optimizer",
    "sam_rho",
    "balance",
    "fusion",
    "target",
    "split",
    "calibrate",
    "aggregate",
    "output",
    "other_label",
    "unit",
    *_SOFT,
)
"""Not in the recipe where they are at their defaults: runs made before they existed keep their hash."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `mil.train.train`. All but places, device, processes and ``max_rows`` shape the result."""

    bags: tuple[Path, ...]
    """Bag files, or folders of them."""
    manifest: Path
    out: Path
    """The run folder."""
    stores: tuple[Path, ...] = ()
    """Tile stores: for the mean-colour baseline and the report's heat maps."""
    splits: Path | None = None
    """A splits.csv to reuse."""
    target: str = "classes"
    """One of ``classes``, several ``labels``, a ``value``, ``survival``; `mil.targets.task`."""
    split: str = "patients"
    """Folds of ``patients``, balanced on label and center, or of whole ``centers``."""
    calibrate: str = "temperature"
    """`mil.evaluation.calibrate`: none, temperature, prior, platt, or auto."""
    unit: str = "patient"
    """What is told and judged: the ``patient``, or each ``slide`` by a truth of its own. Folds hold patients whole."""
    aggregate: str = "mean"
    """A patient's logits over the slides: ``mean``; ``max``, as docs/HEADS.md has it; or ``bag``: all are one bag."""
    output: str = "linear"
    """Last layer of the head: ``linear``, or ``arcface`` with a margin for each class by how rare it is."""
    other: Path | None = None
    """A table of further slides, STRIP AI's other.csv: trained on in every fold, never validated on or tested."""
    other_label: str = ""
    """The class that they are taken for: extra negatives; or another name, of a class that is learnt and never told."""
    fusion: str = "none"
    """``concat``, ``late`` or ``folds``: ``bags`` has a folder for each encoder; `mil.data.several_encoders`."""
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
    optimizer: str = "adamw"
    """``adamw``, or ``sam``: AdamW on the gradient at the worst point near by."""
    sam_rho: float = 0.05
    """How near, for ``sam``."""
    balance: str = "weights"
    """Classes count equally by loss ``weights``, or by ``sampling``: bags drawn by weight, with replacement."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    mixup: float = 0.0
    """Alpha of the Beta distribution by which two bags are mixed; 0: none are."""
    ema: float = 0.0
    """Decay of the running mean of the weights, per step; the mean is validated and kept. 0: the weights themselves."""
    instance_dropout: float = 0.0
    """Probability with which an instance is left out, drawn anew every epoch."""
    teacher: Path | None = None
    """A finished run on the same splits, whose models that have not seen a fold teach that fold's models."""
    distil_weight: float = 0.5
    """Share of the loss that the teacher's soft targets have."""
    distil_temperature: float = 2.0
    max_rows: int = 65_536
    """Instances on the device at once; a batch of more is accumulated."""
    precision: str = "auto"
    """Of the matrix products: fp32 on a CPU and bf16 on a GPU where not given."""
    device: str = "auto"
    jobs: int = 1
    """Models trained side by side in their own processes; with GPUs, in turn on each."""
    nproc: int = 1
    """Processes that train each model together, on a share of the bags of every step."""
    track: tuple[str, ...] = ()
    """Further trackers: ``wandb``, ``mlflow``. History tables and TensorBoard files are always written."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        at_least = {"folds": 2, "seeds": 1, "epochs": 1, "patience": 1, "hidden": 1, "attention": 1}
        at_least |= {
            "batch_bags": 1,
            "max_rows": 1,
            "jobs": 1,
            "seed": 0,
            "warmup_epochs": 0,
            "max_tiles": 0,
            "nproc": 1,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise RequestError(f"{name}: expected {least} or more, found {getattr(self, name)}")
        for name in ("lr", "clip", "sam_rho", "distil_temperature"):
            if not getattr(self, name) > 0:
                raise RequestError(f"{name}: expected a number above 0, found {getattr(self, name)}")
        if not (0 <= self.dropout < 1 and 0 < self.inner_share < 1 and self.weight_decay >= 0):
            raise RequestError("expected dropout in [0, 1), inner_share in (0, 1) and weight_decay of 0 or more")
        for name in ("label_smoothing", "ema", "instance_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise RequestError(f"{name}: expected a number from 0 to below 1, found {getattr(self, name)}")
        if not (0 <= self.mixup < float("inf") and 0 < self.distil_weight <= 1):
            raise RequestError("expected mixup of 0 or more and distil_weight in (0, 1]")
        self._check_names()
        self._check_together()

    def _check_names(self) -> None:
        choices: dict[str, tuple[str, ...]] = {"precision": PRECISIONS, "optimizer": OPTIMIZERS, "balance": BALANCES}
        choices |= {"fusion": FUSIONS, "split": SPLITS, "aggregate": AGGREGATES, "output": OUTPUTS, "unit": UNITS}
        choices |= {"calibrate": (*METHODS, AUTO), "target": KINDS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise RequestError(f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}")
        for tracker in self.track:
            if tracker not in TRACKERS:
                raise RequestError(f"track: expected one of {', '.join(TRACKERS)}, found {tracker!r}")
        for head in (self.head, *self.baselines):
            check_head(head, self.output)
        if not self.bags:
            raise RequestError("expected one or more bag files or folders, found none")

    def _check_together(self) -> None:
        for name, default in _FOR_CLASSES.items():
            if self.target != "classes" and getattr(self, name) != default:
                raise RequestError(f"--target {self.target}: {name.replace('_', '-')} is for classes: leave it out")
        if (self.other is None) != (self.other_label == ""):
            raise RequestError(
                "--other and --other-label: expected both, a table and the class its slides are taken for"
            )
        if self.unit == "slide" and self.aggregate != "mean":
            raise RequestError(
                f"--unit slide and --aggregate {self.aggregate} exclude each other: nothing is put together"
            )
        if self.aggregate == "bag" and self.teacher is not None:
            raise RequestError("--aggregate bag and --teacher exclude each other: a teacher scores slides")
        if self.other is not None and self.teacher is not None:
            raise RequestError("--other and --teacher exclude each other: a teacher's splits do not hold other slides")
        if self.fusion in APART and self.teacher is not None:
            raise RequestError(f"fusion {self.fusion} and teacher exclude each other: a teacher knows one kind of bags")
        if self.nproc > 1 and self.jobs > 1:
            raise RequestError("jobs and nproc exclude each other: models side by side, or processes on one model")

    @property
    def models_per_fold(self) -> int:
        """Return how many models of a head are averaged: the seeds, of every encoder where fused late."""
        return self.seeds * (len(self.bags) if self.fusion == "late" else 1)

    @property
    def heads(self) -> tuple[str, ...]:
        """Return the head, then the baselines that differ from it."""
        return (self.head, *(name for name in dict.fromkeys(self.baselines) if name != self.head))

    def recipe(self) -> Recipe:
        """Return what shapes the result, as JSON values."""
        fields = {
            name: field.default for name, field in self.__dataclass_fields__.items() if name not in (*_WHERE, *_HOW)
        }
        values = {name: getattr(self, name) for name in fields}
        values = {name: value for name, value in values.items() if name not in _SILENT or value != fields[name]}
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

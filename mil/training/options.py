"""What a training run can be told."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from features.option_groups import Precision, Ranks
from mil.options import ByRules, Calibration, Fusion, Head, Output, SideBySide, Target, Tracker
from wsi.errors import RequestError
from wsi.option_groups import Above0, BelowOne, Claims, Columns, Count, Factor, FromZero, Overwriting, Stalls
from wsi.options import Option, at_least, check
from wsi.recipe import Recipe

_SHAPING = (
    "target", "split", "calibrate", "unit", "aggregate", "output", "other_label", "fusion", "head", "baselines",
    "classes", "folds", "seeds", "seed", "epochs", "warmup_epochs", "patience", "inner_share", "lr", "weight_decay",
    "clip", "hidden", "attention", "dropout", "batch_bags", "max_tiles", "optimizer", "sam_rho", "order", "balance",
    "label_smoothing", "mixup", "ema", "instance_dropout", "distil_weight", "distil_temperature", "nested",
)  # fmt: skip
"""What the recipe holds, in the order of config.toml: not places, devices, processes, trackers and ``max_rows``."""
_SOFT = ("label_smoothing", "mixup", "ema", "instance_dropout", "distil_weight", "distil_temperature")
_FOR_CLASSES = {"label_smoothing": 0.0, "mixup": 0.0, "balance": "weights", "teacher": None, "output": "linear"}
_FOR_CLASSES |= {"calibrate": "temperature", "aggregate": "mean", "other": None}
"""Options that mean something for classes alone, at their defaults."""
_SILENT = {
    *("optimizer", "sam_rho", "order", "balance", "fusion", "target", "split", "calibrate", "aggregate", "output"),
    *("other_label", "unit", "nested", *_SOFT),
}
"""Not in the recipe where they are at their defaults: runs made before they existed keep their hash."""


@dataclass(frozen=True, kw_only=True)
class Cohort(Columns):
    """The cohort."""

    bags: Annotated[tuple[Path, ...], Option(argument="BAGS...")]
    """Bags (.h5), or folders of bags."""
    manifest: Annotated[Path, Option(short="-m")]
    """Cohort table (CSV) with labels."""
    fusion: Fusion = "none"
    """Bags of several encoders, a folder for each: concat, late, or folds (an encoder for each fold)."""


@dataclass(frozen=True, kw_only=True)
class Beside(Cohort):
    """The cohort."""

    stores: Annotated[tuple[Path, ...], Option(remote="streamed")] = ()
    """Tile stores: for the mean-colour baseline and the report's heat maps."""
    other: Path | None = None
    """Table of slides that are trained on only, as STRIP AI's other.csv: never validated on or tested."""
    other_label: str = ""
    """The class that they are taken for: extra negatives; or another name, of a class that is learnt and never told."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for."""

    target: Target = "classes"
    """What the table's columns mean: classes or labels (a;b) in label, value, or time and event."""
    classes: Annotated[tuple[str, ...], Option(commas=True)] = ()
    """Order of the classes, A,B,...; otherwise the labels of the table, sorted."""
    unit: Literal["patient", "slide"] = "patient"
    """What is told and judged: the patient, or each slide by its own label. Folds hold patients whole."""
    aggregate: Literal["mean", "max", "bag"] = "mean"
    """Of a patient's slides: the mean of their logits; max: the highest; bag: all in one bag."""
    calibrate: Calibration = "temperature"
    """How logits become probabilities; auto: chosen on other folds' patients."""


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Folds and models."""

    splits: Path | None = None
    """A splits.csv to use again."""
    split: Literal["patients", "centers", "preserved-site"] = "patients"
    """Folds of patients, balanced on label and center; of whole centers, by size; or, preserved-site, by label."""
    folds: Annotated[int, at_least(2)] = 5
    """Folds of the cross-validation by patient."""
    seeds: Count = 1
    """Models per fold, averaged."""
    seed: Annotated[int, at_least(0)] = 0
    """Of the splits and the first model."""


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """Training."""

    epochs: Count = 60
    """Most epochs per model."""
    warmup_epochs: Annotated[int, at_least(0)] = 3
    """Epochs of a growing learning rate; then it follows a cosine."""
    patience: Count = 15
    """Epochs without a better inner validation loss before training stops."""
    inner_share: BelowOne = 0.2
    """Share of a training fold's patients that validate; 0: all train, and the last epoch is kept."""
    clip: Above0 = 1.0
    """Largest norm of the gradient."""
    batch_bags: Count = 16
    """Bags per step."""
    max_tiles: Annotated[int, at_least(0)] = 0
    """Tiles drawn from each bag anew every epoch; 0: all."""
    optimizer: Literal["adamw", "sam"] = "adamw"
    """adamw; sam (sharpness-aware): AdamW on the gradient at the worst point near by."""
    sam_rho: Above0 = 0.05
    """How near, for sam."""
    order: Literal["own", "shared"] = "own"
    """Of the slides in an epoch: each model's own, or one for all models, which --together then read once."""
    balance: Literal["weights", "sampling"] = "weights"
    """Classes count equally by weights of the loss, or by sampling: bags drawn by weight, with replacement."""
    label_smoothing: BelowOne = 0.0
    """Share of the label that is spread over all classes."""
    mixup: FromZero = 0.0
    """Alpha of the Beta distribution by which two bags are mixed; 0: none are."""
    ema: BelowOne = 0.0
    """Decay of the running mean of the weights, per step, which is then validated and kept; 0: none."""
    instance_dropout: BelowOne = 0.0
    """Probability with which a tile is left out, drawn anew every epoch."""
    max_rows: Count = 65_536
    """Tiles on the device at once; a batch of more is accumulated."""
    device_cache: Annotated[float | None, at_least(0)] = None
    """GiB of features that stay on each GPU; otherwise a share of what is free there."""
    together: Count = 1
    """Models that one process trains in turns; changes no result."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model."""

    head: Annotated[Head, Option(commas=True, rest="baselines")] = "gated_abmil"
    """A head of docs/HEADS.md; of a,b,c the first is the run's, the others its baselines."""
    baselines: Annotated[tuple[Head, ...], Option(commas=True)] = ("mean_pool",)
    """Further heads trained on the same splits, for comparison."""
    nested: Annotated[int, at_least(0)] = 0
    """Inner folds on which, for each fold, the best of these heads is chosen; 0: none are made."""
    output: Output = "linear"
    """Last layer of the head; arcface: with a margin for each class by how rare it is."""
    hidden: Count = 128
    """Width of the instance embedding."""
    attention: Count = 64
    """Width of the attention branch."""
    dropout: BelowOne = 0.25
    """Dropout before the classifier."""
    lr: Above0 = 1e-3
    """Learning rate of AdamW."""
    weight_decay: FromZero = 1e-2
    """Weight decay of AdamW."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A teacher."""

    teacher: Path | None = None
    """A finished run on the same splits, whose models that have not seen a fold teach that fold's models."""
    distil_weight: Factor = 0.5
    """Share of the loss that the teacher's soft targets have."""
    distil_temperature: Above0 = 2.0
    """Softens the teacher."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(
    Beside, Asked, ByRules, Folds, Model, Epochs, Teacher, Precision, SideBySide, Ranks, Stalls, Overwriting, Claims
):  # fmt: skip
    """Options of `mil.train.train`."""

    out: Annotated[Path, Option(short="-o", remote="output")]
    """Run folder to write."""
    repeats: Count = 1
    """Whole runs on other divisions of the patients, in folders of --out."""
    track: tuple[Tracker, ...] = ()
    """Further trackers. History tables and TensorBoard files are always written."""

    def __post_init__(self) -> None:
        check(self)
        if not self.bags:
            raise RequestError("expected one or more bag files or folders, found none")
        if self.output != "linear":
            from mil.heads import check_head

            for head in self.heads:
                check_head(head, self.output)
        self._check_together()
        self._check_nested()
        self._check_inner()

    def _check_nested(self) -> None:
        if not self.nested:
            return
        if self.nested < 2:
            raise RequestError(f"--nested {self.nested}: expected 0 for none, or 2 inner folds or more")
        if len(self.heads) < 2:
            raise RequestError(
                f"--nested {self.nested}: expected two heads or more to choose from (--head a,b,...), found {self.head}"
            )
        if self.fusion in ("late", "folds") or self.teacher is not None:
            raise RequestError(f"--nested {self.nested}: expected bags of one kind, and no teacher")

    def _check_inner(self) -> None:
        needed = {"--nested": self.nested, "--target survival": self.target == "survival"}
        for option, asked in needed.items():
            if asked and self.inner_share == 0:
                raise RequestError(
                    f"{option} and --inner-share 0 exclude each other: models are calibrated by patients who validate"
                )

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
        if self.fusion in ("late", "folds") and self.teacher is not None:
            raise RequestError(
                f"--fusion {self.fusion} and --teacher exclude each other: a teacher knows one kind of bags"
            )
        if self.nproc > 1 and self.workers > 1:
            raise RequestError(
                "--workers and --nproc exclude each other: models side by side, or processes on one model"
            )
        if self.nproc > 1 and self.together > 1:
            raise RequestError(
                "--together and --nproc exclude each other: models in turns in one process, or processes on one model"
            )
        if self.order == "shared" and self.balance == "sampling":
            raise RequestError(
                "--order shared and --balance sampling exclude each other: every model draws other slides"
            )
        if self.repeats > 1 and (self.splits is not None or self.split != "patients"):
            given = "--split centers" if self.splits is not None else f"--split {self.split}"
            raise RequestError(
                f"--repeats {self.repeats}: expected 2 or more, without --splits and {given}: other patients "
                "are to be drawn into the folds each time"
            )

    @property
    def models_per_fold(self) -> int:
        """Return how many models of a head are averaged: the seeds, of every encoder where fused late."""
        return self.seeds * (len(self.bags) if self.fusion == "late" else 1)

    @property
    def processes_per_gpu(self) -> int:
        """Return how many of the run's processes share a GPU."""
        import torch

        return -(-max(self.workers, self.nproc) // max(1, torch.cuda.device_count()))

    @property
    def heads(self) -> tuple[str, ...]:
        """Return the head, then the baselines that differ from it."""
        return (self.head, *(name for name in dict.fromkeys(self.baselines) if name != self.head))

    def recipe(self) -> Recipe:
        """Return what shapes the result, as JSON values."""
        values = {name: getattr(self, name) for name in _SHAPING}
        defaults = {name: self.__dataclass_fields__[name].default for name in _SILENT}
        values = {name: value for name, value in values.items() if name not in _SILENT or value != defaults[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


_Options = TypeVar("_Options", bound=Precision)


def resolve(options: _Options) -> _Options:
    """Return the options with the device and the precision decided."""
    import torch

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise RequestError(f"--device {options.device}: expected auto, cpu, cuda or cuda:<n>") from None
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if kind == "cuda" else "fp32"
    return replace(options, device=device, precision=precision)

"""What a pretraining can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from features.option_groups import Precision, Prefetching, Ranks
from wsi.errors import RequestError
from wsi.option_groups import Above0, BelowOne, Claims, Columns, Count, Factor, FromZero, Overwriting, Stalls
from wsi.options import Option, at_least, check
from wsi.recipe import Recipe

if TYPE_CHECKING:
    from features.encoders.spec import WeightsChoice

FORMULA = "formula"
PER_256 = 256
"""Images for which ``lr`` is told."""
SMALLEST_PX = 32
_SHAPING = (
    "images_per_epoch", "size", "epochs", "batch_size", "accumulate", "lr", "weight_decay", "warmup_epochs", "clip",
    "ema", "flips", "jitter", "stain_jitter", "smallest_crop", "seed",
)  # fmt: skip
"""What the recipe holds as it was told; the others do not shape the result, or stand there in another form."""
_OF_FORMULAS = ("formula", "classes", "instances", "label_smoothing")
_OF_TILES = ("method", "outputs", "local_crops", "local_size")


@dataclass(frozen=True, kw_only=True)
class _Formulas:
    """Images of a formula."""

    formula: str = ""
    """Family of formulas; a wrong name lists them."""
    classes: Annotated[int, at_least(2)] = 1000
    """Classes to tell apart: each is a formula's parameters."""
    instances: Count = 1000
    """Images of each class."""
    label_smoothing: BelowOne = 0.1
    """Share of the class that is spread over all classes."""


@dataclass(frozen=True, kw_only=True)
class _Tiles:
    """One's own tiles."""

    method: Literal["auto", "dino", "vicreg"] = "auto"
    """How tiles teach by themselves; auto: dino for transformers, vicreg for convolutional networks."""
    outputs: Count = 2048
    """Outputs of the head that is thrown away afterwards: dino's prototypes, vicreg's dimensions."""
    local_crops: Annotated[int, at_least(0)] = 4
    """Small views of each tile beside the two large ones (dino)."""
    local_size: Annotated[int, at_least(0)] = 0
    """Pixels per side of the small views; 0: three sevenths of --size."""


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Patients."""

    manifest: Annotated[Path | None, Option(short="-m")] = None
    """Cohort table (CSV): only its slides are taken; centers are balanced, and the patients of a fold held out."""
    splits: Path | None = None
    """splits.csv of a training run; otherwise patients are split here, as `gigamil train` does."""
    fold: Annotated[int, at_least(-1)] = 0
    """Its patients are held out: never trained on; -1: nobody is."""
    folds: Annotated[int, at_least(2)] = 5
    """Number of folds where the patients are split here."""


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """Looking on."""

    probe: Annotated[tuple[Path, ...], Option(remote="streamed")] = ()
    """Tile stores of labelled slides (--manifest) on which the features are tried after each epoch: the held-out
    fold's patients are told by what the others taught. It is reported, and nothing is chosen by it."""
    probe_by: Literal["linear", "knn"] = "linear"
    """Logistic regression on mean features of slides, or their five nearest ones."""


@dataclass(frozen=True, kw_only=True)
class _Network:
    """The network."""

    network: str = "resnet18"
    """Any model of timm, as resnet18 or vit_tiny_patch16_224, or an encoder's name of `gigamil encoders`."""
    weights: Path | None = None
    """Begin from a local file: formula weights, or any other of this network; otherwise from random numbers."""
    published: bool = False
    """Begin from the network's published weights."""
    size: Annotated[int, at_least(0)] = 0
    """Pixels per side of the views; 0: the network's own. Of tiles a view shows the part that has so many pixels where
    the encoder sees the whole tile: the scale stays the same."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""


@dataclass(frozen=True, kw_only=True)
class _Views:
    """Views."""

    smallest_crop: Factor = 0.4
    """Smallest share of the area that a large view shows."""
    flips: bool = True
    """Flip and turn views."""
    jitter: BelowOne = 0.2
    """Strength of the colour jitter; 0: none."""
    stain_jitter: BelowOne = 0.2
    """Strength of the change of haematoxylin and eosin in tiles; 0: none."""


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """Training."""

    epochs: Count = 20
    """Epochs."""
    images_per_epoch: Annotated[int, at_least(0)] = 0
    """Images or tiles of an epoch; 0: every instance of every class, or 64 tiles per slide."""
    batch_size: Count = 256
    """Images per optimizer step, over all processes."""
    accumulate: Count = 1
    """Parts of each process's share of a batch that go through the model one after the other; each part is a batch of
    its own to batch norm and vicreg."""
    lr: Above0 = 1e-3
    """Largest learning rate for 256 images per step; it goes in proportion with --batch-size."""
    weight_decay: FromZero = 0.05
    """Weight decay of AdamW."""
    warmup_epochs: FromZero = 1.0
    """Epochs of warm-up; then the rate follows a cosine."""
    clip: Above0 = 3.0
    """Largest norm of the gradient."""
    ema: BelowOne = 0.996
    """Decay of the weights' moving average, which is kept; dino's teacher, whose decay rises to 1. 0: none."""
    seed: Annotated[int, at_least(0)] = 0
    """Of first weights, formulas, order and views."""
    checkpoint_steps: Annotated[int, at_least(0)] = 0
    """Steps between checkpoints beside those at the end of each epoch; 0: none."""


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(
    _Formulas, _Tiles, _Held, _Network, _Views, _Steps, _Probe, Precision, Ranks, Stalls, Prefetching, Columns,
    Overwriting, Claims,
):  # fmt: skip
    """Options of `features.pretrain.run.pretrain`. Places, device, ``nproc`` and the like do not shape the result."""

    source: Annotated[tuple[Path, ...], Option(remote="streamed")]
    """The word formula, or tile stores (*.zarr) and folders that hold them."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """Weights to write, *.safetensors; what belongs to them lies beside, under the same stem."""

    def __post_init__(self) -> None:
        check(self)
        if not self.source:
            raise RequestError("--source: expected the word formula, or tile stores, found nothing")
        if self.out.suffix != ".safetensors":
            raise RequestError(f"--out {self.out}: expected a name that ends in .safetensors")
        if self.from_formula != bool(self.formula):
            raise RequestError("--source formula and --formula NAME belong together: give both, or neither")
        if self.weights is not None and self.published:
            raise RequestError("--weights and --published exclude each other: give one of them")
        for name in ("size", "local_size"):
            if 0 < getattr(self, name) < SMALLEST_PX:
                told = name.replace("_", "-")
                raise RequestError(f"--{told} {getattr(self, name)}: expected {SMALLEST_PX} pixels or more, or 0")
        if self.method == "dino" and self.ema == 0:
            raise RequestError("--ema 0: expected a decay above 0 with dino, whose teacher it makes")
        if self.probe and self.manifest is None:
            raise RequestError("--probe: expected --manifest with labels of its slides, found none")
        if self.probe and self.fold < 0:
            raise RequestError("--probe: expected a --fold whose patients are told, found -1")
        self.start()

    @property
    def from_formula(self) -> bool:
        """Whether images are made of a formula."""
        return tuple(map(str, self.source)) == (FORMULA,)

    @property
    def encoder(self) -> str:
        """The encoder's name in the registry."""
        from features.encoders.presets import PRESETS

        return self.network if self.network in PRESETS or ":" in self.network else f"timm:{self.network}"

    def start(self) -> "WeightsChoice":
        """Return where the first weights come from; raises `RequestError` where the choice cannot be."""
        from features.encoders.spec import WeightsChoice

        return WeightsChoice(self.weights, None if self.weights or self.published else self.seed)

    def beside(self, ending: str) -> Path:
        """Return the path of a file that belongs to the weights."""
        return self.out.with_name(f"{self.out.stem}{ending}")

    def recipe(self) -> Recipe:
        """Return what the user chose that shapes the result; `features.pretrain.cohort` adds what it is applied to."""
        names = [*_SHAPING, *(_OF_FORMULAS if self.from_formula else _OF_TILES)]
        if self.manifest is not None:
            names += ["fold", *(["folds"] if self.splits is None else [])]
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.from_formula:
            del values["stain_jitter"]
        return values

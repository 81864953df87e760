"""What a fine-tuning can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from features.option_groups import Precision, Prefetching, Ranks, Weights
from wsi.errors import RequestError
from wsi.option_groups import Above0, BelowOne, Claims, Columns, Count, Factor, FromZero, Overwriting, Stalls
from wsi.options import Option, at_least, check
from wsi.recipe import Recipe

_SHAPING = (
    "fold", "folds", "classes", "attention_share", "tiles_per_slide", "epochs", "batch_size", "sizes", "lr",
    "layer_decay", "weight_decay", "warmup_epochs", "clip", "ema", "mixup", "label_smoothing", "flips", "jitter",
    "keep", "seed",
)  # fmt: skip
"""What the recipe holds as it was told; the others do not shape the result, or stand there in another form."""


@dataclass(frozen=True, kw_only=True)
class _Held:
    """Patients."""

    splits: Path | None = None
    """splits.csv of a training run; otherwise patients are split here, as `gigamil train` does."""
    fold: Annotated[int, at_least(0)] = 0
    """Its patients are held out: never trained on, never used for a choice."""
    folds: Annotated[int, at_least(2)] = 5
    """Number of folds where the patients are split here."""
    classes: Annotated[tuple[str, ...], Option(commas=True)] = ()
    """Order of the classes, A,B,...; otherwise the labels of the table, sorted."""
    keep: Literal["last", "best"] = "last"
    """The last epoch; or the one with the lowest patient loss on the next fold, whose patients then count as seen and
    are not trained on."""


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Tiles."""

    heatmaps: Annotated[Path | None, Option(formerly=("--attention",))] = None
    """Scores of tiles: a folder of `gigamil heatmap`, or one table with an image_id column; those of most attention
    alone are drawn."""
    attention_share: Factor = 0.1
    """Share of each slide's tiles, by attention, that may be drawn."""
    tiles_per_slide: Annotated[int, at_least(0)] = 64
    """Tiles drawn from each slide, anew every epoch; 0: all."""
    sizes: Annotated[tuple[int, ...], Option(commas=True)] = ()
    """Pixels per side of the model's input over the epochs, such as 128,224; otherwise the model's own."""
    flips: bool = True
    """Flip and turn tiles."""
    jitter: BelowOne = 0.2
    """Strength of the colour jitter; 0: none."""
    mixup: FromZero = 0.0
    """Parameter of the Beta distribution of mixup; 0: none."""
    label_smoothing: BelowOne = 0.0
    """Share of the label that is spread over all classes."""


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """Training."""

    epochs: Count = 5
    """Epochs."""
    batch_size: Count = 64
    """Tiles per optimizer step, over all processes."""
    accumulate: Count = 1
    """Parts of each process's share of a batch that go through the model one after the other."""
    lr: Above0 = 1e-4
    """Largest learning rate of the topmost layers."""
    layer_decay: Factor = 0.75
    """Factor of the learning rate from each layer to the one below it."""
    weight_decay: FromZero = 0.05
    """Weight decay of AdamW."""
    warmup_epochs: FromZero = 0.5
    """Epochs of warm-up; then the rate follows a cosine."""
    clip: Above0 = 1.0
    """Largest norm of the gradient."""
    ema: BelowOne = 0.0
    """Decay of the weights' moving average, as 0.999, which is then validated and kept; 0: none."""
    seed: Annotated[int, at_least(0)] = 0
    """Of splits, order and augmentation."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    checkpoint_steps: Annotated[int, at_least(0)] = 0
    """Steps between checkpoints beside those at the end of each epoch; 0: none."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(
    Weights, _Held, _Drawn, _Steps, Precision, Ranks, Stalls, Prefetching, Columns, Overwriting, Claims
):
    """Options of `features.finetune.run.finetune`. Places, device, ``nproc`` and the like do not shape the result."""

    stores: Annotated[tuple[Path, ...], Option(argument="STORES...", remote="streamed")]
    """Tile stores (*.zarr), or folders that hold them."""
    manifest: Annotated[Path, Option(short="-m")]
    """Cohort table (CSV) with labels."""
    encoder: str
    """timm:<model>."""
    out: Annotated[Path, Option(short="-o", remote="output")]
    """Weights to write, *.safetensors; what belongs to them lies beside, under the same stem."""

    def __post_init__(self) -> None:
        check(self)
        if not self.stores:
            raise RequestError("expected at least one tile store or folder of stores, found none")
        if self.out.suffix != ".safetensors":
            raise RequestError(f"--out {self.out}: expected a name that ends in .safetensors")
        if not self.encoder.startswith("timm:"):
            raise RequestError(f"--encoder {self.encoder}: expected timm:<model>; only these can be fine-tuned")
        if any(size < 16 for size in self.sizes) or len(self.sizes) > self.epochs:
            raise RequestError(
                f"--sizes {','.join(map(str, self.sizes))}: expected sizes of 16 pixels or more, at most one per epoch "
                f"({self.epochs})"
            )
        self.start()

    def beside(self, ending: str) -> Path:
        """Return the path of a file that belongs to the weights."""
        return self.out.with_name(f"{self.out.stem}{ending}")

    def recipe(self) -> Recipe:
        """Return what the user chose that shapes the result; `features.finetune.cohort` adds what it is applied to."""
        values = {name: getattr(self, name) for name in _SHAPING}
        if self.splits is not None:
            del values["folds"]
        if self.heatmaps is None:
            del values["attention_share"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

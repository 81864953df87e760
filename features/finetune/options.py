"""What a fine-tuning can be told."""

from dataclasses import dataclass
from pathlib import Path

from features.encoders.device import AUTO, PRECISIONS
from features.encoders.spec import WeightsChoice
from wsi.errors import RequestError
from wsi.recipe import Recipe

KEEP = ("last", "best")
_PLACES = frozenset(
    (
        *("stores", "manifest", "encoder", "out", "weights", "random_weights", "splits", "attention", "precision"),
        *("device", "nproc", "accumulate", "activation_checkpointing", "checkpoint_steps", "prefetch_mib", "overwrite"),
    )
)
"""Options that do not shape the result, or whose content the recipe holds in another form."""
_AT_LEAST = {
    "fold": 0, "folds": 2, "seed": 0, "tiles_per_slide": 0, "epochs": 1, "batch_size": 1, "accumulate": 1, "nproc": 1,
    "checkpoint_steps": 0, "prefetch_mib": 1, "warmup_epochs": 0, "weight_decay": 0, "mixup": 0,
}  # fmt: skip

_BELOW_ONE = ("ema", "label_smoothing", "jitter")
_FACTORS = ("attention_share", "layer_decay")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneOptions:
    """Options of `features.finetune.run.finetune`. Places, device, ``nproc`` and the like do not shape the result."""

    stores: tuple[Path, ...]
    """Tile stores, or folders that hold them."""
    manifest: Path
    encoder: str
    """``timm:<model>``."""
    out: Path
    """The weights, ``*.safetensors``; what belongs to them lies beside, under the same stem."""
    weights: Path | None = None
    """Local state dict to begin from, in place of the published weights."""
    random_weights: int | None = None
    """Seed of random weights to begin from, for trials."""
    splits: Path | None = None
    """splits.csv of a training run; None: patients are split here."""
    fold: int = 0
    """Its patients are held out: never trained on, never used for a choice."""
    folds: int = 5
    """Number of folds where the patients are split here."""
    classes: tuple[str, ...] = ()
    """Order of the classes; empty: the labels of the manifest, sorted."""
    attention: Path | None = None
    """Scores of tiles: a folder of `gigamil heatmap`, or one table with an image_id column."""
    attention_share: float = 0.1
    """Share of each slide's tiles, by attention, that may be drawn."""
    tiles_per_slide: int = 64
    """Tiles drawn from each slide, anew every epoch; 0: all."""
    epochs: int = 5
    batch_size: int = 64
    """Tiles per optimizer step, over all ranks."""
    accumulate: int = 1
    """Parts of each rank's share of a batch that go through the model one after the other."""
    sizes: tuple[int, ...] = ()
    """Pixels per side of the model's input, one after the other over the epochs; empty: the model's own."""
    lr: float = 1e-4
    """Largest learning rate of the topmost layers."""
    layer_decay: float = 0.75
    """Factor of the learning rate from each layer to the one below it."""
    weight_decay: float = 0.05
    warmup_epochs: float = 0.5
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Decay of the weights' moving average, which is then validated and kept; 0: none."""
    mixup: float = 0.0
    """Parameter of the Beta distribution of mixup; 0: none."""
    label_smoothing: float = 0.0
    flips: bool = True
    """Flip and turn tiles."""
    jitter: float = 0.2
    """Strength of the colour jitter; 0: none."""
    keep: str = "last"
    """``last``; or ``best``: the epoch with the lowest patient loss on the next fold, whose patients then count as
    seen and are not trained on."""
    seed: int = 0
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    precision: str = AUTO
    device: str = AUTO
    nproc: int = 1
    checkpoint_steps: int = 0
    """Steps between checkpoints beside those at the end of each epoch; 0: none."""
    prefetch_mib: int = 512
    """Memory for tiles under way, per process."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.stores:
            raise RequestError("expected at least one tile store or folder of stores, found none")
        if self.out.suffix != ".safetensors":
            raise RequestError(f"--out {self.out}: expected a name that ends in .safetensors")
        if not self.encoder.startswith("timm:"):
            raise RequestError(f"--encoder {self.encoder}: expected timm:<model>; only these can be fine-tuned")
        self._check_ranges()
        if any(size < 16 for size in self.sizes) or len(self.sizes) > self.epochs:
            raise RequestError(
                f"--sizes {','.join(map(str, self.sizes))}: expected sizes of 16 pixels or more, at most one per epoch "
                f"({self.epochs})"
            )
        if self.keep not in KEEP:
            raise RequestError(f"--keep {self.keep}: expected {' or '.join(KEEP)}")
        if self.precision not in (AUTO, *PRECISIONS):
            raise RequestError(f"--precision {self.precision}: expected auto, {', '.join(PRECISIONS)}")
        self.start()

    def _check_ranges(self) -> None:
        at_least = [(name, getattr(self, name) >= least, f"{least} or more") for name, least in _AT_LEAST.items()]
        shares = [(name, 0 <= getattr(self, name) < 1, "0 or more, below 1") for name in _BELOW_ONE]
        factors = [(name, 0 < getattr(self, name) <= 1, "above 0, at most 1") for name in _FACTORS]
        rates = [(name, 0 < getattr(self, name) < float("inf"), "a number above 0") for name in ("lr", "clip")]
        for name, right, expected in (*at_least, *shares, *factors, *rates):
            if not right:
                raise RequestError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected {expected}")

    def start(self) -> WeightsChoice:
        """Return where the weights to begin from come from."""
        return WeightsChoice(self.weights, self.random_weights)

    def beside(self, ending: str) -> Path:
        """Return the path of a file that belongs to the weights."""
        return self.out.with_name(f"{self.out.stem}{ending}")

    def recipe(self) -> Recipe:
        """Return what the user chose that shapes the result; `features.finetune.cohort` adds what it is applied to."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _PLACES}
        if self.splits is not None:
            del values["folds"]
        if self.attention is None:
            del values["attention_share"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

"""The encoder: tile in, feature vector out. The protocol, and what is known of an encoder."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from features.encoders.lineage import Lineage
from wsi.errors import RequestError

if TYPE_CHECKING:  # options are checked by what stands here, and tiling needs no torch
    import torch
    from torch import Tensor

MPP_TOLERANCE = 0.2
"""256-px tiles resized to 224 px, the field's habit, differ by 0.14."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """What is known of an encoder."""

    name: str
    """As the user wrote it: ``texture``, ``timm:resnet50.a1_in1k``."""
    dim: int
    """Length of a feature vector."""
    input_px: int | None
    """Pixels per side that the encoder wants; other tiles are resized, antialiased. None: it takes any size."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted from RGB in [0, 1]."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divides what remains."""
    interpolation: str = "bicubic"
    """How tiles are resized: bicubic or bilinear."""
    resize_px: int | None = None
    """Tiles are first resized to this, then their middle is cut to ``input_px``; None: resized to ``input_px``."""
    crop_pct: float = 1.0
    """Share of a tile's side that the model's own transform keeps, by timm; cut away only where ``cropped``."""
    cropped: bool = False
    """Tiles are enlarged by it, then their middle is cut to ``input_px``."""
    mpps: tuple[float, ...] = ()
    """um/px of the tiles it was made for; empty where its authors name none."""
    trained: bool
    """False for random weights and for handcrafted features."""
    weights_sha256: str
    """Of the sorted state dict; of its constants for a handcrafted encoder."""
    licence: str
    """Of the weights, as their authors name it."""
    description: str
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16")
    """Those it may run in; the first is the default on a CPU."""
    caution: str = ""
    """One line to show to whoever uses the features; empty where nothing needs saying."""
    weights_note: str = ""
    """What was taken from a local file of weights, where it holds more than one model's tensors."""
    lineage: Lineage | None = None
    """Whom fine-tuned weights have seen; None for others. Not part of the recipe: the weights' hash is."""
    members: tuple["EncoderSpec", ...] = ()
    """Of encoders whose vectors stand beside each other; `features.encoders.joint`."""

    def recipe(self) -> dict[str, Any]:
        """Return what shapes the features: JSON values."""
        if self.members:
            return {"name": self.name, "members": [member.recipe() for member in self.members]}
        return {
            "name": self.name,
            "input_px": self.input_px,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "weights_sha256": self.weights_sha256,
            **({"resize_px": self.resize_px} if self.resize_px else {}),
            **({"crop_pct": self.crop_pct} if self.cropped else {}),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        for name in ("lineage", "members", *(name for name in ("weights_note", "cropped") if not values[name])):
            del values[name]
        if self.members:
            values["members"] = [member.as_dict() for member in self.members]
        return values if self.lineage is None else {**values, "lineage": self.lineage.as_dict()}

    def check_mpp(self, tile_px: int, mpp: float) -> str:
        """Return why tiles of so many pixels at that um/px do not suit the encoder, or an empty text.

        What counts is the um/px at its input, after resizing: it may differ by a fifth from one that it was made for.
        """
        if self.members:
            return next(filter(None, (member.check_mpp(tile_px, mpp) for member in self.members)), "")
        target_px = self.resize_px or self.input_px
        if not self.mpps or target_px is None:
            return ""
        found = mpp * tile_px / target_px
        if any(abs(found / wanted - 1) <= MPP_TOLERANCE for wanted in self.mpps):
            return ""
        wanted = " or ".join(f"{value:g}" for value in self.mpps)
        return (
            f"{self.name} was made for tiles of {wanted} um/px at {target_px} px, found {found:.3g} um/px once tiles "
            f"of {tile_px} px at {mpp:.3g} um/px are resized: tile with --mpp {self.mpps[0]:g} --tile-px {target_px}, "
            "or say --off-recipe"
        )


class Encoder(Protocol):
    """A frozen function from tiles to features. It pickles, and may be called from several threads at once."""

    @property
    def spec(self) -> EncoderSpec:
        """What is known of it."""

    def to(self, device: "torch.device") -> Self:
        """Move its tensors to the device; return itself."""

    def encode(self, tiles_NCHW: "Tensor") -> "Tensor":
        """Return (N, dim) features.

        ``tiles_NCHW``: float32 (N, 3, ``input_px``, ``input_px``), RGB, normalised with the spec's mean and std, on the
        encoder's device. Called in inference mode, under autocast where the precision is not fp32. Each row depends on
        its own tile only.
        """


@runtime_checkable
class TunedEncoder(Protocol):
    """An encoder that is a torch module: how it runs can be chosen, before `to`."""

    def compile(self) -> None:
        """Let torch.compile make kernels for it, at the first batch."""

    def keep_channels_first(self) -> None:
        """Leave tensors as (N, C, H, W) in memory, too."""

    def apply_crop(self) -> bool:
        """Take tiles as the model's own transform does; False where it crops nothing."""


@runtime_checkable
class HalfEncoder(Protocol):
    """An encoder that can keep its weights as autocast would cast them for each batch."""

    def hold_in(self, dtype: "torch.dtype") -> None:
        """Cast the weights of convolutions and matrix products now; all else, norms above all, stays in float32.

        It runs under autocast afterwards as before, with the same numbers.
        """


@dataclass(frozen=True, slots=True)
class WeightsChoice:
    """Where the weights come from: a file, a seed, or (neither) the encoder's published ones."""

    file: Path | None = None
    """Local state dict: .safetensors, or a .pt / .pth / .bin that holds tensors only."""
    random_seed: int | None = None

    def __post_init__(self) -> None:
        if self.file is not None and self.random_seed is not None:
            raise RequestError("--weights and --random-weights exclude each other: give one of them")
        if self.random_seed is not None and not 0 <= self.random_seed < 2**63:
            raise RequestError(f"--random-weights {self.random_seed}: expected a seed from 0 to 2^63 - 1")
        if self.file is not None and not self.file.is_file():
            raise RequestError(f"--weights {self.file}: expected a file of weights, found none there")

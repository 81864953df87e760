"""The encoder: tile in, feature vector out. The protocol, what is known of an encoder, and the registry.

A name is ``texture`` (built in, handcrafted) or ``timm:<model>``; other packages add theirs by the entry-point group
``gigamil.encoders``: the entry point's name is the part before the colon, its value an `EncoderEntry`.
Each implementation passes the contract suite in ``tests/features/test_encoder_contract.py``.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from features.lineage import Lineage
from wsi.errors import RequestError

ENTRY_POINTS = "gigamil.encoders"


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
    mpp: float | None = None
    """Recommended um/px of the tiles; None where its authors name none."""
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
    lineage: Lineage | None = None
    """Whom fine-tuned weights have seen; None for others. Not part of the recipe: the weights' hash is."""

    def recipe(self) -> dict[str, Any]:
        """Return what shapes the features: JSON values."""
        return {
            "name": self.name,
            "input_px": self.input_px,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "weights_sha256": self.weights_sha256,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        del values["lineage"]
        return values if self.lineage is None else {**values, "lineage": self.lineage.as_dict()}


class Encoder(Protocol):
    """A frozen function from tiles to features. It pickles, and may be called from several threads at once."""

    @property
    def spec(self) -> EncoderSpec:
        """What is known of it."""

    def to(self, device: torch.device) -> Self:
        """Move its tensors to the device; return itself."""

    def encode(self, tiles_NCHW: Tensor) -> Tensor:
        """Return (N, dim) features.

        ``tiles_NCHW``: float32 (N, 3, ``input_px``, ``input_px``), RGB, normalised with the spec's mean and std, on the
        encoder's device. Called in inference mode, under autocast where the precision is not fp32. Each row depends on
        its own tile only.
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


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """One line of the registry."""

    name_form: str
    """``texture``, ``timm:<model>``."""
    description: str
    licence: str
    build: Callable[[str, WeightsChoice], Encoder]
    """From the whole name and the choice of weights. Raises `RequestError` in one clear line."""


def _texture(name: str, weights: WeightsChoice) -> Encoder:
    from features.texture_encoder import build

    return build(name, weights)


def _timm(name: str, weights: WeightsChoice) -> Encoder:
    from features.timm_encoder import build

    return build(name, weights)


_BUILT_IN = {
    "texture": EncoderEntry(
        "texture",
        "handcrafted colour and texture measures for H&E; no learning, no download; a baseline and the demo's encoder",
        "MIT (part of this software)",
        _texture,
    ),
    "timm": EncoderEntry(
        "timm:<model>",
        "any image model of the timm library, pooled features before its classifier",
        "per model; see its card",
        _timm,
    ),
}


def entries() -> dict[str, EncoderEntry]:
    """Return the registry: the built-in encoders and those of installed packages, by the part before the colon."""
    found = dict(_BUILT_IN)
    for point in entry_points(group=ENTRY_POINTS):
        where = f"entry point {point.name} of {ENTRY_POINTS} ({point.value})"
        if point.name in found:
            raise RequestError(f"{where}: the name is taken; rename it or uninstall its package")
        try:
            found[point.name] = point.load()
        except Exception as error:  # a foreign package may raise anything while it is imported
            raise RequestError(f"{where} cannot be loaded ({error}); repair or uninstall its package") from error
    return found


def build_encoder(name: str, weights: WeightsChoice | None = None) -> Encoder:
    """Build an encoder by name, on the CPU, in evaluation mode.

    Raises
    ------
    RequestError
        The name is unknown, or the weights cannot be had as asked; the message says what to do.
    """
    registry = entries()
    entry = registry.get(name.partition(":")[0])
    if entry is None:
        forms = ", ".join(known.name_form for known in registry.values())
        raise RequestError(f"--encoder {name}: expected one of {forms} (gigamil encoders lists them)")
    return entry.build(name, weights or WeightsChoice())

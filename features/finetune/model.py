"""The model that is trained: an encoder's backbone and a linear classifier on its features.

Batch norm keeps the statistics that it came with (its scale and shift are trained): statistics of a batch would depend
on how it is divided among ranks, and tiles of one slide are far from independent samples. Dropout and stochastic depth
are those of the architecture, which timm leaves at 0 unless its card says otherwise.
"""

import torch
from torch import Tensor, nn

from features.encoders.spec import EncoderSpec
from features.encoders.timm_encoder import TimmEncoder
from features.finetune.options import FinetuneOptions
from wsi.errors import RequestError

NORMS = nn.modules.batchnorm._BatchNorm


class TileClassifier(nn.Module):
    """Class logits of tiles."""

    def __init__(self, backbone: nn.Module, dim: int, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(dim, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tiles_NCHW: Tensor) -> Tensor:
        """Return logits (N, C)."""
        logits: Tensor = self.head(self.backbone(tiles_NCHW))
        return logits

    def train(self, mode: bool = True) -> "TileClassifier":
        """Switch to training, all but the statistics of batch norm."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, NORMS):
                module.train(mode=False)
        return self


def build_model(options: FinetuneOptions, encoder: TimmEncoder, n_classes: int) -> TileClassifier:
    """Build the model with the encoder's weights and a classifier of zeros, on the CPU.

    Raises
    ------
    RequestError
        The architecture takes none of the wanted sizes, or cannot recompute its activations.
    """
    spec = encoder.spec
    sizes = options.sizes or (spec.input_px or 0,)
    backbone = encoder.module
    if any(size != spec.input_px for size in sizes) and _is_fixed(backbone):
        backbone = _of_any_size(options.encoder, encoder)
    for size in dict.fromkeys(sizes):
        _check_size(backbone, spec, size)
    if options.activation_checkpointing:
        _checkpoint_activations(options.encoder, backbone)
    return TileClassifier(backbone.requires_grad_(requires_grad=True), spec.dim, n_classes)


def _is_fixed(backbone: nn.Module) -> bool:
    return bool(getattr(backbone, "pretrained_cfg", {}).get("fixed_input_size"))


def _of_any_size(name: str, encoder: TimmEncoder) -> nn.Module:
    """Return the architecture with position embeddings interpolated to the input's size, and the same weights."""
    try:
        return encoder.module_of_any_size()
    except TypeError:
        raise RequestError(f"--sizes: {name} takes its own input size only: leave --sizes out") from None


@torch.inference_mode()
def _check_size(backbone: nn.Module, spec: EncoderSpec, size: int) -> None:
    try:
        shape = tuple(backbone.eval()(torch.zeros(1, 3, size, size)).shape)
    except (AssertionError, RuntimeError, ValueError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(f"--sizes {size}: {spec.name} cannot take tiles of that size ({told})") from None
    if shape != (1, spec.dim):
        raise RequestError(f"--sizes {size}: expected {spec.dim} features from {spec.name}, found shape {shape}")


def _checkpoint_activations(name: str, backbone: nn.Module) -> None:
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError, NotImplementedError):
        raise RequestError(f"--activation-checkpointing: {name} does not offer it: leave the option out") from None

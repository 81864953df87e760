"""An encoder's network as it is trained: at the wanted sizes of input, computing activations again where asked."""

from collections.abc import Sequence

import torch
from torch import nn

from features.encoders.spec import EncoderSpec
from features.encoders.timm_encoder import TimmEncoder
from wsi.errors import RequestError

NORMS = nn.modules.batchnorm._BatchNorm


def trained_backbone(
    encoder: TimmEncoder, sizes: Sequence[int], *, activation_checkpointing: bool, option: str = "--sizes"
) -> nn.Module:
    """Return the encoder's network, its parameters asking for gradients, on the CPU.

    Raises
    ------
    RequestError
        The architecture takes none of the wanted sizes, or cannot recompute its activations.
    """
    spec, backbone = encoder.spec, encoder.module
    if any(size != spec.input_px for size in sizes) and _is_fixed(backbone):
        backbone = _of_any_size(spec.name, encoder, option)
    for size in dict.fromkeys(sizes):
        _check_size(backbone, spec, size, option)
    if activation_checkpointing:
        _checkpoint_activations(spec.name, backbone)
    return backbone.requires_grad_(requires_grad=True)


def _is_fixed(backbone: nn.Module) -> bool:
    return bool(getattr(backbone, "pretrained_cfg", {}).get("fixed_input_size"))


def _of_any_size(name: str, encoder: TimmEncoder, option: str) -> nn.Module:
    """Return the architecture with position embeddings interpolated to the input's size, and the same weights."""
    try:
        return encoder.module_of_any_size()
    except TypeError:
        raise RequestError(f"{option}: {name} takes its own input size only: leave {option} out") from None


@torch.inference_mode()
def _check_size(backbone: nn.Module, spec: EncoderSpec, size: int, option: str) -> None:
    try:
        device = next(backbone.parameters()).device
        shape = tuple(backbone.eval()(torch.zeros(1, 3, size, size, device=device)).shape)
    except (AssertionError, RuntimeError, ValueError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{option} {size}: {spec.name} cannot take tiles of that size ({told})") from None
    if shape != (1, spec.dim):
        raise RequestError(f"{option} {size}: expected {spec.dim} features from {spec.name}, found shape {shape}")


def _checkpoint_activations(name: str, backbone: nn.Module) -> None:
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError, NotImplementedError):
        raise RequestError(f"--activation-checkpointing: {name} does not offer it: leave the option out") from None

"""Image models of the timm library (R. Wightman, github.com/huggingface/pytorch-image-models) as encoders."""

import difflib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import timm.data
import torch
from huggingface_hub import constants
from torch import Tensor, nn

from features.encoder import EncoderSpec, WeightsChoice
from features.lineage import read_lineage
from features.weights import load_weights, weights_sha256
from wsi.errors import RequestError

HUB_PREFIXES = ("hf-hub:", "hf_hub:")


class TimmEncoder:
    """A timm model without its classifier, in evaluation mode; features are the model's own pooled ones."""

    def __init__(self, model: nn.Module, spec: EncoderSpec) -> None:
        self._model = model.eval().requires_grad_(requires_grad=False)
        self._spec = spec

    @property
    def spec(self) -> EncoderSpec:
        """What is known of it."""
        return self._spec

    @property
    def module(self) -> nn.Module:
        """The model itself, for fine-tuning; its parameters ask for no gradients."""
        return self._model

    def to(self, device: torch.device) -> Self:
        """Move its tensors to the device; return itself."""
        self._model = self._model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def encode(self, tiles_NCHW: Tensor) -> Tensor:
        """Return (N, dim) features; see `features.encoder.Encoder`."""
        features: Tensor = self._model(tiles_NCHW.contiguous(memory_format=torch.channels_last))
        return features


def build(name: str, weights: WeightsChoice) -> TimmEncoder:
    """Build ``timm:<model>``; mean, std and input size are those of timm's data configuration of that model.

    Raises
    ------
    RequestError
        timm knows no such model, its weights cannot be fetched, or the file of weights does not fit.
    """
    model_name = name.partition(":")[2]
    _check_known(name, model_name)
    model = _create(name, model_name, weights)
    if weights.file is not None:
        load_weights(model, weights.file, _classifier_prefixes(model))
    config = timm.data.resolve_model_data_config(model)
    return TimmEncoder(model, _spec(name, model, config, weights))


def _check_known(name: str, model_name: str) -> None:
    if model_name.startswith(HUB_PREFIXES) or timm.is_model(model_name):
        return
    near = difflib.get_close_matches(model_name, timm.list_models(), n=3)
    hint = f"; near: {', '.join(near)}" if near else ""
    raise RequestError(f"--encoder {name}: expected a model that timm {timm.__version__} knows, found none{hint}")


def _create(name: str, model_name: str, weights: WeightsChoice) -> nn.Module:
    pretrained = weights.file is None and weights.random_seed is None
    try:
        with torch.random.fork_rng(devices=[]), _quick_without_network():
            torch.manual_seed(weights.random_seed or 0)
            model: nn.Module = timm.create_model(model_name, pretrained=pretrained, num_classes=0)
            return model
    except Exception as error:  # timm, huggingface_hub, urllib and httpx share no base class
        told = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        what = "its published weights" if pretrained else "its architecture"
        raise RequestError(
            f"--encoder {name}: expected {what}, could not get them ({type(error).__name__}: {told}): check the "
            "network or the Hugging Face token, or use --weights FILE, or --random-weights SEED for untrained features"
        ) from error


@contextmanager
def _quick_without_network() -> Iterator[None]:
    """Let the Hugging Face client use its cache alone where its host has no address: it would retry for a minute."""
    offline, logger = constants.HF_HUB_OFFLINE, logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    constants.HF_HUB_OFFLINE = offline or not _hub_has_address()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logger.setLevel(level)


def _hub_has_address() -> bool:
    if getproxies():
        return True
    host = urlsplit(os.environ.get("HF_ENDPOINT", constants.ENDPOINT)).hostname
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False


def _classifier_prefixes(model: Any) -> tuple[str, ...]:
    named = model.pretrained_cfg.get("classifier") or ()
    return tuple(f"{part}." for part in ((named,) if isinstance(named, str) else named))


def _spec(name: str, model: Any, config: dict[str, Any], weights: WeightsChoice) -> EncoderSpec:
    input_px = int(config["input_size"][-1])
    untrained = weights.random_seed is not None
    source = "random weights" if untrained else "weights of a local file" if weights.file else "published weights"
    return EncoderSpec(
        name=name,
        dim=_dim(name, model, input_px),
        input_px=input_px,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        trained=not untrained,
        weights_sha256=weights_sha256(model),
        lineage=read_lineage(weights.file) if weights.file else None,
        licence=str(model.pretrained_cfg.get("license") or "see the model's card"),
        description=f"timm model {name.partition(':')[2]}, {source}",
        caution=f"{name} has random weights (seed {weights.random_seed}): untrained, its features mean nothing learnt"
        if untrained
        else "",
    )


@torch.inference_mode()
def _dim(name: str, model: nn.Module, input_px: int) -> int:
    """Encode one blank tile: the only answer that holds for every architecture."""
    shape = tuple(model.eval()(torch.zeros(1, 3, input_px, input_px)).shape)
    if len(shape) != 2:
        raise RequestError(f"--encoder {name}: expected one vector per tile, found an output of shape {shape}")
    return int(shape[1])

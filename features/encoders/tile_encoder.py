"""An encoder on its device, asked about tiles as they are: uint8 in, features out."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.encoders.device import AUTO, autocast, hold, reproducible_arithmetic, resolve_device, resolve_precision
from features.encoders.registry import build_encoder
from features.encoders.spec import Encoder, EncoderSpec, WeightsChoice
from features.encoders.tile_input import TileInput
from wsi.errors import RequestError

_AT_ONCE = 64
"""Tiles in one forward pass."""


class TileEncoder:
    """A frozen encoder on a device, with the resizing and the normalisation that belong to it.

    Parameters
    ----------
    encoder
        What `features.encoders.registry.build_encoder` gives.
    device
        Where it runs.
    precision
        ``fp32``, ``bf16`` or ``fp16``: of the network's products; everything else is in float32.
    """

    def __init__(self, encoder: Encoder, device: torch.device, precision: str) -> None:
        self._encoder = encoder.to(device)
        self._input = TileInput(encoder.spec, device)
        self.device, self.precision = device, precision

    @property
    def spec(self) -> EncoderSpec:
        """What is known of the encoder: width (``dim``), input size, um/px that it was made for, licence, ..."""
        return self._encoder.spec

    def __repr__(self) -> str:
        return f"TileEncoder({self.spec.name!r}, dim={self.spec.dim}, device={str(self.device)!r}, {self.precision})"

    def __call__(self, tiles_NCHW: Tensor) -> Tensor:
        """Return float32 (N, dim) on the device, of uint8 (N, 3, T, T) anywhere; in inference mode, as extraction does.

        Only the network runs under autocast: resizing and normalisation are in float32.
        """
        pixels = self._input(tiles_NCHW)
        with autocast(self.device, self.precision):
            return self._encoder.encode(pixels).float()

    def encode_tiles(self, tiles: NDArray[np.uint8] | Tensor, batch_size: int = _AT_ONCE) -> NDArray[np.float32]:
        """Return the features of tiles, float32 (N, dim): what extraction writes into a bag, before its rounding.

        Parameters
        ----------
        tiles
            uint8 RGB, square: (N, 3, T, T) or (N, T, T, 3), or one tile without N, as an array or a tensor. The um/px
            should be one of ``spec.mpps``, where the encoder's authors name any: nothing here can check it.
        batch_size
            Tiles that go through the encoder together; in fp32 no number depends on it by more than 1e-5, in half
            precision by its rounding.

        Raises
        ------
        RequestError
            Another shape or type.
        """
        tiles_NCHW = _as_NCHW(tiles)
        features = np.empty((len(tiles_NCHW), self.spec.dim), np.float32)
        with torch.inference_mode(), reproducible_arithmetic():
            for start in range(0, len(features), batch_size):
                batch = tiles_NCHW[start : start + batch_size]
                features[start : start + batch_size] = self(batch).cpu().numpy()
        return features


def _as_NCHW(tiles: NDArray[np.uint8] | Tensor) -> Tensor:
    given = torch.from_numpy(np.ascontiguousarray(tiles)) if isinstance(tiles, np.ndarray) else tiles
    pixels = given[None] if given.ndim == 3 else given
    if pixels.ndim == 4 and pixels.shape[1] != 3 and pixels.shape[3] == 3:
        pixels = pixels.movedim(3, 1)
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3] or pixels.dtype != torch.uint8:
        raise RequestError(
            f"tiles: expected uint8 (N, 3, T, T) or (N, T, T, 3), found {given.dtype} {tuple(given.shape)}"
        )
    return pixels


def encoder(
    name: str,
    *,
    weights: Path | str | None = None,
    random_weights: int | None = None,
    crop: bool = False,
    device: str = AUTO,
    precision: str = AUTO,
) -> TileEncoder:
    """Return an encoder by name, ready to be asked: ``encoder("uni").encode_tiles(store.read_tiles([0, 1]))``.

    Parameters
    ----------
    name
        ``texture``, a published one (``uni``, ``gigapath``, ...), ``timm:<model>``, or several joined by ``+``;
        ``gigamil encoders`` lists them.
    weights
        Local state dict in place of the published weights.
    random_weights
        Seed of random weights: untrained, for trials without a download.
    crop
        Enlarge tiles and cut out their middle where the encoder's own transform does.
    device
        ``cpu``, ``cuda``, ``cuda:<n>``; ``auto``: a GPU where there is one.
    precision
        ``fp32``, ``bf16``, ``fp16``; ``auto``: fp32 on a CPU, the GPU's own half precision there.

    Raises
    ------
    RequestError
        The name is not known, the weights cannot be had, or there is no such device; the message says what to do.
    """
    choice = WeightsChoice(None if weights is None else Path(weights), random_weights)
    place, built = resolve_device(device), build_encoder(name, choice, crop=crop)
    decided = resolve_precision(precision, place, built.spec)
    hold(built, decided)
    return TileEncoder(built, place, decided)

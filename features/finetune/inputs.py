"""Pieces of batches as the model's input: resized, coloured, mixed, normalised, on the device."""

from dataclasses import replace

import torch
from torch import Tensor

from features.encoders.spec import EncoderSpec
from features.encoders.tile_input import TileInput
from features.finetune.pieces import Piece
from features.learning.colours import coloured


class TrainInput:
    """Turns a piece into the model's input and targets.

    Resizing is the encoder's own (`features.encoders.tile_input.TileInput`), to ``size`` pixels per side. With
    ``mixed``, each tile is blended with the next of its batch, which the piece brings along (mixup, arXiv 1710.09412),
    and so are targets.
    """

    def __init__(self, spec: EncoderSpec, device: torch.device, size: int, *, mixed: bool) -> None:
        plain = replace(spec, input_px=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self._unit, self._device, self._mixed = TileInput(plain, device), device, mixed
        self._mean = torch.tensor(spec.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)

    def __call__(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Return float32 (N, 3, S, S), normalised, and the weighted targets (N, C)."""
        tiles = coloured(self._unit(piece.pixels), self._moved(piece.colours))
        targets = self._moved(piece.targets)
        if self._mixed:
            shares = self._moved(piece.shares)[:-1]
            tiles = tiles[1:].lerp(tiles[:-1], shares[:, None, None, None])
            targets = targets[1:].lerp(targets[:-1], shares[:, None])
        tiles = (tiles - self._mean) / self._std
        if self._device.type == "cuda":
            tiles = tiles.contiguous(memory_format=torch.channels_last)
        return tiles, targets

    def _moved(self, values: Tensor) -> Tensor:
        return values.to(self._device, non_blocking=True)

"""How uint8 tiles become an encoder's input, on its device."""

import threading

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from features.encoders.spec import EncoderSpec


class TileInput:
    """Turns uint8 tiles into an encoder's input on its device.

    Resizing follows timm's transform (antialiased, rounded and clipped to uint8's range as Pillow does) for the whole
    tile: nothing is cropped, no tissue is cut away, unless the encoder was made for the middle of its tiles. On a CPU
    each thread has one buffer for its result: the next call overwrites it.
    """

    def __init__(self, spec: EncoderSpec, device: torch.device) -> None:
        self._size_px, self._mode = spec.resize_px or spec.input_px, spec.interpolation
        self._crop_px = spec.input_px if spec.resize_px else None
        std = torch.tensor(spec.std, device=device).view(1, 3, 1, 1)
        self._scale = 1 / (255 * std)
        self._shift = -torch.tensor(spec.mean, device=device).view(1, 3, 1, 1) / std
        self._device = device
        self._own = threading.local()

    def __call__(self, tiles_NCHW: Tensor) -> Tensor:
        """Return float32 (N, 3, S, S) on the device, from uint8 (N, 3, T, T) anywhere; never in half precision."""
        with torch.autocast(self._device.type, enabled=False):
            return self._prepared(self._as_float(tiles_NCHW))

    def _prepared(self, tiles: Tensor) -> Tensor:
        if self._size_px is not None and tiles.shape[2:] != (self._size_px, self._size_px):
            size = (self._size_px, self._size_px)
            tiles = interpolate(tiles, size, mode=self._mode, align_corners=False, antialias=True)
            tiles = tiles.round_().clamp_(0, 255)
        if self._crop_px is not None:
            first = round((tiles.shape[2] - self._crop_px) / 2)
            tiles = tiles[:, :, first : first + self._crop_px, first : first + self._crop_px]
        return tiles.mul_(self._scale).add_(self._shift)

    def _as_float(self, tiles_NCHW: Tensor) -> Tensor:
        if self._device.type != "cpu":
            return tiles_NCHW.to(self._device, non_blocking=True).float()
        buffer: Tensor | None = getattr(self._own, "buffer", None)
        if buffer is None or buffer.shape != tiles_NCHW.shape:
            buffer = self._own.buffer = torch.empty(tiles_NCHW.shape, dtype=torch.float32)
        return buffer.copy_(tiles_NCHW)

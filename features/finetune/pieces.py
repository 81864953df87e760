"""Pieces of batches, read from the stores by background threads, a bounded number ahead."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.finetune.augment import Change, draw_change, turned
from features.finetune.options import FinetuneOptions
from features.learning.batches import Draw, PieceRequest
from features.learning.colours import COLOURS
from features.learning.slides import Slide, TileReader
from wsi.arrays import Ints
from wsi.machine.ordered import ordered


@dataclass(frozen=True, slots=True)
class Piece:
    """What goes through the model together."""

    request: PieceRequest
    pixels: Tensor
    """uint8 (n, 3, T, T)."""
    colours: Tensor
    """float32 (n, 5)."""
    shares: Tensor
    """float32 (n,)."""
    targets: Tensor
    """float32 (n, C): the class probabilities to be met, times the tile's weight."""


class PieceReader:
    """Reads the pieces of one epoch."""

    def __init__(
        self, options: FinetuneOptions, slides: Sequence[Slide], n_classes: int, tile_px: int, *, pinned: bool
    ) -> None:
        self._options, self._slides, self._n_classes = options, slides, n_classes
        self._tile_px, self._pinned = tile_px, pinned
        self._tiles = TileReader(slides, tile_px)

    def pieces(
        self, draw: Draw, epoch: int, wanted: Iterator[PieceRequest], largest: int, threads: int
    ) -> Iterator[Piece]:
        """Yield pieces in order; ``largest`` is the number of tiles of the largest, which bounds what is read ahead."""
        room = self._options.prefetch_mib * 2**20 // (3 * self._tile_px**2 * max(1, largest))
        return ordered(partial(self._read, draw, epoch), wanted, max(1, min(threads, room // 3)))

    def _read(self, draw: Draw, epoch: int, request: PieceRequest) -> Piece:
        rows, options = request.rows, self._options
        changes = [
            draw_change(
                options.seed, epoch, self._slides[slide].image_id, tile,
                flips=options.flips, jitter=options.jitter, mixup=options.mixup,
            )
            for slide, tile in zip(draw.slides[rows].tolist(), draw.tiles[rows].tolist(), strict=True)
        ]  # fmt: skip
        pixels = torch.from_numpy(self.pixels(draw, rows, changes))
        return Piece(
            request=request,
            pixels=pixels.pin_memory() if self._pinned else pixels,
            colours=torch.from_numpy(np.array([change.colours for change in changes]).reshape(-1, COLOURS)),
            shares=torch.tensor([change.share for change in changes]),
            targets=torch.from_numpy(self._targets(draw, rows)),
        )

    def pixels(self, draw: Draw, rows: Ints, changes: Sequence[Change] = ()) -> NDArray[np.uint8]:
        """Return uint8 (n, 3, T, T) of rows of the draw, turned where changes are given."""
        pixels = self._tiles.pixels(draw, rows)
        for place, change in enumerate(changes):
            if change.turn:
                pixels[place] = turned(pixels[place], change.turn).copy()  # the view lies on what is written
        return pixels

    def _targets(self, draw: Draw, rows: Ints) -> NDArray[np.float32]:
        smoothing = self._options.label_smoothing
        labels = np.array([self._slides[number].label for number in draw.slides[rows]])
        targets = np.full((len(rows), self._n_classes), smoothing / self._n_classes)
        targets[np.arange(len(rows)), labels] += 1 - smoothing
        return (targets * draw.weights[rows, None]).astype(np.float32)

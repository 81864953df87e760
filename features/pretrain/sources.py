"""Where images come from: formulas drawn on the device, or tiles read ahead by threads; both in the same parts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from features.formulas import formula
from features.learning.batches import Draw, PieceRequest, bounds, generator
from features.learning.slides import Slide, TileReader
from features.pretrain.gauge import SAMPLE
from features.pretrain.options import PretrainOptions
from features.pretrain.views import View, draw_changes, plain, viewed
from wsi.arrays import Ints
from wsi.machine.ordered import ordered

SAMPLED = -1
"""The epoch whose draw is looked at: always the same."""


@dataclass(frozen=True, slots=True)
class Part:
    """What goes through the model together."""

    request: PieceRequest
    views: list[Tensor]
    """float32 (n, 3, S, S) in [0, 1], on the device; large ones first."""
    targets: Tensor
    """int64 (n,): classes of formulas; of tiles 0."""


class Source(Protocol):
    """Where images come from."""

    unit: str
    n_sampled: int

    def parts(self, epoch: int, wanted: Iterator[PieceRequest], n_steps: int, threads: int) -> Iterator[Part]:
        """Yield the parts of an epoch."""

    def sampled(self, rows: Ints) -> Tensor:
        """Return some of the sample as the encoder would see it: float32 (n, 3, S, S) in [0, 1], on the device."""


class FormulaImages:
    """Classes and instances of a formula, each once before any comes again."""

    unit = "images"

    def __init__(
        self, options: PretrainOptions, images_per_epoch: int, views: Sequence[View], device: torch.device
    ) -> None:
        self._options, self._count, self._view, self._device = options, images_per_epoch, views[0], device
        self._formula = formula(options.formula, classes=options.classes, seed=options.seed)
        self.n_sampled = min(SAMPLE, options.classes * options.instances)

    def parts(self, epoch: int, wanted: Iterator[PieceRequest], n_steps: int, threads: int) -> Iterator[Part]:
        """See `Source.parts`."""
        chosen = self._chosen(epoch, self._count)
        for request in wanted:
            start, stop = bounds(self._count, n_steps)[request.step]
            rng = generator(self._options.seed, epoch, "views", request.step)
            changes = draw_changes(rng, stop - start, self._view, self._options).rows(request.rows - start)
            classes, images = self._drawn(chosen[request.rows])
            yield Part(request, [viewed(images, changes, self._view, stain=False)], classes)

    def sampled(self, rows: Ints) -> Tensor:
        """See `Source.sampled`."""
        return plain(self._drawn(self._chosen(SAMPLED, self.n_sampled)[rows])[1], self._view)

    def _chosen(self, epoch: int, count: int) -> Ints:
        everything = self._options.classes * self._options.instances
        rng = generator(self._options.seed, epoch, "order")
        return rng.choice(everything, count, replace=False).astype(np.int64)

    def _drawn(self, numbers: Ints) -> tuple[Tensor, Tensor]:
        """Return classes and images of numbers that count instances, class by class."""
        at = torch.from_numpy(numbers).to(self._device)
        classes, instances = at // self._options.instances, at % self._options.instances
        return classes, self._formula.draw(classes, instances, self._view.size)


class TileImages:
    """Tiles of slides: of each center as many, and within a center of each slide."""

    unit = "tiles"

    def __init__(
        self,
        options: PretrainOptions,
        slides: Sequence[Slide],
        tile_px: int,
        images_per_epoch: int,
        views: Sequence[View],
        device: torch.device,
    ) -> None:
        self._options, self._slides, self._count = options, slides, images_per_epoch
        self._views, self._device, self._tile_px = views, device, tile_px
        self._reader = TileReader(slides, tile_px)
        self._sample = draw_balanced(slides, min(SAMPLE, sum(len(s.tiles) for s in slides)), options.seed, SAMPLED)
        self.n_sampled = len(self._sample)

    def parts(self, epoch: int, wanted: Iterator[PieceRequest], n_steps: int, threads: int) -> Iterator[Part]:
        """See `Source.parts`."""
        draw = draw_balanced(self._slides, self._count, self._options.seed, epoch)
        largest = -(-self._count // n_steps) + 1
        room = self._options.prefetch_mib * 2**20 // (3 * self._tile_px**2 * largest)
        for request, pixels in ordered(partial(self._read, draw), wanted, max(1, min(threads, room // 3))):
            start, stop = bounds(self._count, n_steps)[request.step]
            rng = generator(self._options.seed, epoch, "views", request.step)
            drawn = [draw_changes(rng, stop - start, view, self._options) for view in self._views]
            tiles = self._as_float(pixels)
            views = [
                viewed(tiles, changes.rows(request.rows - start), view, stain=self._options.stain_jitter > 0)
                for changes, view in zip(drawn, self._views, strict=True)
            ]
            yield Part(request, views, torch.zeros(len(tiles), dtype=torch.int64, device=self._device))

    def sampled(self, rows: Ints) -> Tensor:
        """See `Source.sampled`."""
        return plain(self._as_float(torch.from_numpy(self._reader.pixels(self._sample, rows))), self._views[0])

    def _read(self, draw: Draw, request: PieceRequest) -> tuple[PieceRequest, Tensor]:
        pixels = torch.from_numpy(self._reader.pixels(draw, request.rows))
        return request, pixels.pin_memory() if self._device.type == "cuda" else pixels

    def _as_float(self, pixels: Tensor) -> Tensor:
        return pixels.to(self._device, non_blocking=True).float().div_(255)


def draw_balanced(slides: Sequence[Slide], count: int, seed: int, epoch: int) -> Draw:
    """Draw ``count`` tiles: of each center as many, within a center of each slide, within a slide none again too soon.

    Shares that are no whole numbers are rounded anew each epoch. The order is random.
    """
    centers = sorted({slide.center_id for slide in slides})
    numbers, tiles = [], []
    for center, of_center in zip(centers, _shares(count, len(centers), seed, epoch, "centers"), strict=True):
        own = [number for number, slide in enumerate(slides) if slide.center_id == center]
        for number, of_slide in zip(own, _shares(of_center, len(own), seed, epoch, center, "slides"), strict=True):
            rng, there = generator(seed, epoch, slides[number].image_id), slides[number].tiles
            rounds = -(-of_slide // len(there))
            taken = np.concatenate([rng.permutation(there) for _ in range(rounds)] or [there[:0]])[:of_slide]
            numbers.append(np.full(len(taken), number, np.int64))
            tiles.append(taken)
    order = generator(seed, epoch, "order").permutation(count)
    return Draw(np.concatenate(numbers)[order], np.concatenate(tiles)[order], np.ones(count))


def _shares(count: int, parts: int, seed: int, epoch: int, *purpose: str) -> list[int]:
    """Divide a count into whole shares that differ by one at most; whose are larger is drawn."""
    lengths = np.array([stop - start for start, stop in bounds(count, parts)])
    return [int(own) for own in generator(seed, epoch, *purpose).permutation(lengths)]

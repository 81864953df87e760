"""Which tiles make which batch: a function of the seed and the epoch alone, divided among ranks afterwards."""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from features.finetune.cohort import Slide
from wsi.arrays import Floats, Ints

VALIDATION = -1
"""The epoch whose draw is validated on: always the same."""


@dataclass(frozen=True, slots=True)
class Draw:
    """The tiles of one epoch, in their order; the arrays run in parallel."""

    slides: Ints
    """Position in the sequence of slides."""
    tiles: Ints
    """Position in the slide's tile list."""
    weights: Floats
    """Of the tile's loss; mean 1."""

    def __len__(self) -> int:
        return len(self.slides)


def draw_tiles(slides: Sequence[Slide], per_slide: int, n_classes: int, seed: int, epoch: int) -> Draw:
    """Draw the tiles of an epoch.

    At most ``per_slide`` (0: all) from each slide, without replacement; in random order, except for `VALIDATION`, which
    keeps the order of slides and tiles.
    """
    own = []
    for slide in slides:
        count = len(slide.tiles) if per_slide == 0 else min(per_slide, len(slide.tiles))
        rng = generator(seed, epoch, slide.image_id)
        own.append(np.sort(rng.choice(slide.tiles, count, replace=False)))
    lengths = [len(tiles) for tiles in own]
    numbers = np.repeat(np.arange(len(slides)), lengths)
    tiles = np.concatenate(own)
    weights = np.repeat(tile_weights(slides, lengths, n_classes), lengths)
    if epoch == VALIDATION:
        return Draw(numbers, tiles, weights)
    order = generator(seed, epoch, "order").permutation(len(tiles))
    return Draw(numbers[order], tiles[order], weights[order])


def tile_weights(slides: Sequence[Slide], lengths: Sequence[int], n_classes: int) -> Floats:
    """Return the weight of a tile of each slide: equal for classes, for the patients of a class, for a patient's tiles.

    Their mean over all tiles drawn is 1.
    """
    tiles_of: Counter[str] = Counter()
    for slide, length in zip(slides, lengths, strict=True):
        tiles_of[slide.patient_id] += length
    label_of = {slide.patient_id: slide.label for slide in slides}
    patients = np.bincount(list(label_of.values()), minlength=n_classes)
    weights = np.array([1 / (tiles_of[s.patient_id] * patients[s.label]) for s in slides])
    return np.asarray(weights * sum(lengths) / np.dot(weights, lengths))


def steps_of(n_tiles: int, batch_size: int) -> int:
    """Return the number of steps of an epoch."""
    return max(1, round(n_tiles / batch_size))


def bounds(n_items: int, n_parts: int) -> list[tuple[int, int]]:
    """Cut ``range(n_items)`` into ``n_parts`` runs whose lengths differ by one at most: their starts and stops."""
    edges = [n_items * part // n_parts for part in range(n_parts + 1)]
    return list(pairwise(edges))


def generator(seed: int, epoch: int, *purpose: Any) -> np.random.Generator:
    """Return random numbers of their own for this seed, epoch and purpose."""
    words = [zlib.crc32(str(part).encode()) for part in purpose]
    return np.random.default_rng(np.random.SeedSequence([seed, epoch + 1, *words]))

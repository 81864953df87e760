"""Which tiles an epoch draws, and how much each weighs: a function of the seed and the epoch alone."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from features.learning.batches import Draw, generator
from features.learning.slides import Slide
from wsi.arrays import Floats

VALIDATION = -1
"""The epoch whose draw is validated on: always the same."""


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

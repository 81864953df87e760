"""What is drawn for an epoch and a batch: the order of the bags, their instances, and which bags are mixed.

Nothing is read here: a `Drawn` says what to read. Every process of a model draws the same from (seed, fold, epoch).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mil.data.cohort import Cohort
from mil.ragged.packing import Rows
from mil.training.options import TrainOptions
from wsi.arrays import Floats, Ints


def slide_weights(labels: Ints, patients: Sequence[str], n_classes: int) -> Floats:
    """Return weights (n,) of mean 1: equal for classes, for the patients of a class, for the slides of a patient."""
    slides = Counter(patients)
    share = np.array([1 / slides[patient] for patient in patients])
    total = np.bincount(labels, weights=share, minlength=n_classes)
    weights = share / total[labels]
    return np.asarray(weights / weights.mean())


def epoch_order(slides: Ints, weights: Floats, balance: str, rng: np.random.Generator) -> Ints:
    """Return the slides of an epoch in order: each once, or with ``sampling`` as many drawn by weight.

    A slide whose weight is k times the mean is drawn k times, rounded up or down at random (systematic sampling): an
    epoch then holds nearly the same number of bags of every class.
    """
    shuffled = rng.permutation(len(slides))
    if balance == "sampling":
        ends = np.cumsum(weights[shuffled] * len(slides) / weights.sum())
        picked = np.searchsorted(ends, np.arange(len(slides)) + rng.random(), side="right")
        shuffled = rng.permutation(shuffled[np.minimum(picked, len(slides) - 1)])
    return np.asarray(slides[shuffled])


@dataclass(frozen=True, slots=True)
class Drawn:
    """The instances of one bag of a batch, and those of the bag mixed with it."""

    slide: int
    size: int
    rows: Ints | None = None
    """Row numbers (size,), ascending; None for all."""
    share: float = 1.0
    """How much of the target is this slide's; the rest is ``partner``'s."""
    partner: "Drawn | None" = None

    def __len__(self) -> int:
        return self.size + (len(self.partner) if self.partner else 0)

    def read(self, cohort: Cohort) -> Rows:
        """Return the features (len, D); the whole bag as it lies in the file where all of it was drawn."""
        bag = cohort.bags[self.slide]
        rows = bag if self.rows is None else np.asarray(bag[self.rows])
        return np.concatenate([rows, self.partner.read(cohort)]) if self.partner else rows


def draw_batch(cohort: Cohort, slides: Ints, options: TrainOptions, rng: np.random.Generator) -> list[Drawn]:
    """Return the bags of a batch: capped, thinned and mixed as the options say."""
    drawn = [_capped(slide, len(cohort.bags[slide]), options.max_tiles, rng) for slide in slides.tolist()]
    if options.instance_dropout:
        drawn = [_thinned(bag, options.instance_dropout, rng) for bag in drawn]
    return _mixed(drawn, options.mixup, rng) if options.mixup else drawn


def _capped(slide: int, size: int, most: int, rng: np.random.Generator) -> Drawn:
    if most == 0 or size <= most:
        return Drawn(slide, size)
    return Drawn(slide, most, np.sort(rng.choice(size, most, replace=False)))


def _thinned(bag: Drawn, probability: float, rng: np.random.Generator) -> Drawn:
    """Return the bag without the instances that drop out; one always stays."""
    kept = np.flatnonzero(rng.random(bag.size) >= probability)
    if len(kept) == 0:
        kept = rng.integers(bag.size, size=1)
    return _part(bag, kept)


def _part(bag: Drawn, positions: Ints) -> Drawn:
    rows = positions if bag.rows is None else bag.rows[positions]
    return replace(bag, size=len(rows), rows=rows)


def _mixed(drawn: list[Drawn], alpha: float, rng: np.random.Generator) -> list[Drawn]:
    """Mix every bag with another of the batch: a share of its instances, the rest of that share from the other.

    The share is Beta(alpha, alpha), at least one half, and mixes the targets, too. Source: Zhang et al., mixup, ICLR
    2018, arXiv 1710.09412; on bags in the manner of Liu et al., Pseudo-Bag Mixup, arXiv 2306.16180, with random instead
    of clustered pseudo-bags.
    """
    others = [drawn[position] for position in rng.permutation(len(drawn)).tolist()]
    return [bag if other is bag else _mix(bag, other, alpha, rng) for bag, other in zip(drawn, others, strict=True)]


def _mix(bag: Drawn, other: Drawn, alpha: float, rng: np.random.Generator) -> Drawn:
    share = float(rng.beta(alpha, alpha))
    share = max(share, 1 - share)
    own, its = max(1, round(share * bag.size)), round((1 - share) * other.size)
    if its == 0:
        return bag
    own_rows, its_rows = (np.sort(rng.choice(n, k, replace=False)) for n, k in ((bag.size, own), (other.size, its)))
    return replace(_part(bag, own_rows), share=share, partner=_part(other, its_rows))

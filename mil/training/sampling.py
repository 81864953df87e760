"""What is drawn for an epoch and a batch: the order of the bags, their instances, and which bags are mixed.

Nothing is read here: a `Drawn` says what to read. Every process of a model draws the same from (seed, fold, epoch).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mil.data.cohort import Cohort
from mil.data.read_ahead import Reading, Wanted, device_rows, read_ahead
from mil.ragged.packing import Rows
from mil.training.options import TrainOptions
from wsi.arrays import Bools, Floats, Ints


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


def shared_order(slides: Ints, n_slides: int, seed: int, epoch: int) -> Ints:
    """Return the slides in the order of an epoch that is the same for all models of a run, whatever their slides are.

    ``n_slides``: of the whole cohort.
    """
    key = [seed, epoch, *b"order"]
    place_N = np.random.default_rng(np.random.SeedSequence(key)).permutation(n_slides)
    return np.asarray(slides[np.argsort(place_N[slides])])


EVENTS = 4
"""Slides with the event in a batch, at least, where a bag's loss is told by those still at risk beside it."""


def risk_set_batches(order: Ints, events_N: Bools, batch_bags: int, patients_N: Ints) -> list[Ints]:
    """Cut an epoch's order into batches with alike shares of events; larger ones where events are too few for that.

    ``events_N``, ``patients_N``: of every slide of the cohort, whether the event was seen and whose it is. A batch
    without an event teaches nothing, one of few says little; an event is a patient's, however many slides there are.
    Who was at risk is who is in the batch. Memory does not grow with a batch: see `mil.training.loop`.
    """
    has = events_N[order]
    count = max(1, min(-(-len(order) // batch_bags), len(np.unique(patients_N[order[has]])) // EVENTS))
    place = np.arange(len(order))
    parts = zip(np.array_split(place[has], count), np.array_split(place[~has], count), strict=True)
    return [order[np.sort(np.concatenate(part))] for part in parts]


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
    reading: Reading | None = field(default=None, compare=False, repr=False)
    """What has been reading it since before it was needed."""

    def __len__(self) -> int:
        return self.size + (len(self.partner) if self.partner else 0)

    def wanted(self, cohort: Cohort) -> list[Wanted]:
        """Return what has to be read: of this bag, then of its partner."""
        return [Wanted(cohort.bags[self.slide], self.rows), *(self.partner.wanted(cohort) if self.partner else [])]

    def with_readings(self, readings: Iterator[Reading]) -> "Drawn":
        """Return the drawing with what reads it, and its partner, in the order of `wanted`."""
        own = next(readings)
        return replace(self, reading=own, partner=self.partner and self.partner.with_readings(readings))

    def read(self, cohort: Cohort) -> Rows | Tensor:
        """Return the features (len, D); the whole bag as it lies in the file where all of it was drawn."""
        rows = Wanted(cohort.bags[self.slide], self.rows).read() if self.reading is None else self.reading.take()
        if self.partner is None:
            return rows
        both = [rows, self.partner.read(cohort)]
        tensors = [own for own in both if isinstance(own, Tensor)]
        return torch.cat(tensors) if len(tensors) == len(both) else np.concatenate([np.asarray(own) for own in both])


def batches_ahead(
    cohort: Cohort,
    batches: Iterable[list[Drawn]],
    share: Callable[[Sequence[int]], Sequence[int]],
    options: TrainOptions,
) -> Iterator[list[Drawn]]:
    """Yield the batches while those that follow are being read: the bags whose positions ``share`` gives of sizes."""

    def own(batch: list[Drawn]) -> Sequence[int]:
        return share([len(bag) for bag in batch])

    def wanted(batch: list[Drawn]) -> list[Wanted]:
        return [one for position in own(batch) for one in batch[position].wanted(cohort)]

    device = device_rows(options.device, options.device_cache, options.processes_per_gpu)
    for batch, readings in read_ahead(batches, wanted, device, options.together):
        left, read = iter(readings), set(own(batch))
        yield [bag.with_readings(left) if number in read else bag for number, bag in enumerate(batch)]


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

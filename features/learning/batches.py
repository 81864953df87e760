"""Batches as functions of the seed and the epoch alone, divided among ranks and accumulated parts afterwards."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from wsi.arrays import Floats, Ints


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


@dataclass(frozen=True, slots=True)
class PieceRequest:
    """Tiles to be read, or images to be made, together."""

    step: int
    part: int
    """Which part of the step's batch, counted over all ranks."""
    rows: Ints
    """Positions in the epoch's draw; with mixup one more than there are results: each tile's partner is the next."""
    last: bool
    """True for the rank's last part of the step."""


def steps_of(n_tiles: int, batch_size: int) -> int:
    """Return the number of steps of an epoch."""
    return max(1, round(n_tiles / batch_size))


def bounds(n_items: int, n_parts: int) -> list[tuple[int, int]]:
    """Cut ``range(n_items)`` into ``n_parts`` runs whose lengths differ by one at most: their starts and stops."""
    edges = [n_items * part // n_parts for part in range(n_parts + 1)]
    return list(pairwise(edges))


def batch_rows(draw_length: int, n_steps: int, step: int) -> Ints:
    """Return the positions in the draw of a step's batch."""
    return np.arange(*bounds(draw_length, n_steps)[step])


def requests(
    draw_length: int, n_steps: int, first_step: int, parts: range, n_parts: int, *, mixup: bool
) -> Iterator[PieceRequest]:
    """Yield a rank's requests of an epoch: its ``parts`` of each step's ``n_parts``."""
    for step in range(first_step, n_steps):
        rows = batch_rows(draw_length, n_steps, step)
        cuts = bounds(len(rows), n_parts)
        for part in parts:
            start, stop = cuts[part]
            taken = np.arange(start, stop + 1) % len(rows) if mixup else np.arange(start, stop)
            yield PieceRequest(step, part, rows[taken], last=part == parts[-1])


def generator(seed: int, epoch: int, *purpose: Any) -> np.random.Generator:
    """Return random numbers of their own for this seed, epoch and purpose."""
    words = [zlib.crc32(str(part).encode()) for part in purpose]
    return np.random.default_rng(np.random.SeedSequence([seed, epoch + 1, *words]))

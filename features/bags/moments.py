"""What is known of a bag's features without reading them: each feature's sum and its spread around the bag's mean.

Any fold's mean and deviation follow from these numbers of its bags. Two parts' spreads are put together as Chan, Golub
and LeVeque do (Updating formulae and a pairwise algorithm for computing sample variances, 1979): no difference of large
numbers is taken, so features far from zero lose nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi.arrays import Features, Floats

STEP = 64
"""Rows that are widened at once; a bag is cut at whole multiples of it, so that its moments are those of its rows
alone, whatever the blocks in which they came."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of the rows of a bag; all values finite."""

    count: int
    """Rows."""
    sum_D: Floats
    """(D,) float64: of each feature's values, added in the order of the rows."""
    spread_D: Floats
    """(D,) float64: of each feature's squared differences from its mean over the rows."""

    @property
    def mean_D(self) -> Floats:
        """Return the mean (D,) of one row or more, bit for bit `numpy.mean` of all rows in float64."""
        return np.asarray(self.sum_D / self.count)

    def spread_around(self, center_D: Floats) -> Floats:
        """Return the mean squared difference (D,) of the rows from another point than their mean."""
        return np.asarray(self.spread_D / self.count + (self.mean_D - center_D) ** 2)

    def followed_by(self, other: "Moments") -> "Moments":
        """Return the moments of these rows and the other's after them."""
        if not self.count or not other.count:
            return other if not self.count else self
        count = self.count + other.count
        between_D = (other.mean_D - self.mean_D) ** 2 * (self.count * other.count / count)
        return Moments(count, self.sum_D + other.sum_D, self.spread_D + other.spread_D + between_D)


def followed(parts: Sequence[Moments]) -> Moments:
    """Return the moments of the parts' rows one after another."""
    return reduce(Moments.followed_by, parts)


def beside(parts: Sequence[Moments]) -> Moments:
    """Return the moments of rows that stand beside each other: the same tiles, more features."""
    sums, spreads = ([getattr(own, name) for own in parts] for name in ("sum_D", "spread_D"))
    return Moments(parts[0].count, np.concatenate(sums), np.concatenate(spreads))


class Gathering:
    """Moments of rows that come in blocks."""

    def __init__(self, dim: int) -> None:
        self._wide = np.empty((STEP + 1, dim))
        self._filled, self._moments = 0, Moments(0, np.zeros(dim), np.zeros(dim))

    def add(self, rows: Features) -> None:
        """Take rows (n, D) in."""
        first = 0
        while first < len(rows):
            count = min(STEP - self._filled, len(rows) - first)
            self._wide[1 + self._filled : 1 + self._filled + count] = rows[first : first + count]
            self._filled, first = self._filled + count, first + count
            if self._filled == STEP:
                self._take_in()

    def moments(self) -> Moments:
        """Return the moments of all rows; none may come after."""
        if self._filled:
            self._take_in()
        return self._moments

    def _take_in(self) -> None:
        so_far, wide = self._moments, self._wide[: self._filled + 1]
        wide[0] = so_far.sum_D  # rows are added to what came before one by one, as numpy's mean over a whole bag does
        sum_D = wide.sum(axis=0)
        own_D, rows = sum_D - so_far.sum_D, wide[1:]
        rows -= own_D / self._filled
        spread_D = np.einsum("nd,nd->d", rows, rows)
        whole = so_far.followed_by(Moments(self._filled, own_D, spread_D))
        self._moments, self._filled = Moments(whole.count, sum_D, whole.spread_D), 0


def moments_of(rows: Features) -> Moments:
    """Return the moments of rows (n, D) that are in memory, or mapped."""
    gathering = Gathering(rows.shape[1])
    gathering.add(rows)
    return gathering.moments()


def packed(moments: Moments) -> npt.NDArray[np.float64]:
    """Return the moments as they are stored: (2, D) float64, sum above spread."""
    return np.stack([moments.sum_D, moments.spread_D])


def unpacked(count: int, table: npt.NDArray[Any]) -> Moments | None:
    """Return moments as stored, or None where they cannot be any rows' moments."""
    sane = bool(np.isfinite(table).all() and (table[1] >= 0).all()) and (count > 0 or not table.any())
    return Moments(count, np.array(table[0]), np.array(table[1])) if sane else None


def seal(table: npt.NDArray[Any], content_sha256: str) -> str:
    """Return the sha256 of stored moments and of whose they are."""
    digest = hashlib.sha256(content_sha256.encode())
    digest.update(np.ascontiguousarray(table, dtype="<f8").data)
    return digest.hexdigest()

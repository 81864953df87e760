"""The same tiles under two names: rounded otherwise, in another order, or a part of them.

A hash tells none of that. A bag's sketch is the tiles that lie furthest along one direction in the space of some of the
features, seen from eight directions: rounding moves them a little, another order not at all, and of half the tiles half
of the sketch is left. Two bags hold the same tiles when a quarter of their sketches, three tiles at the least, agree
within the rounding of half precision; tiles that two other patients have as well (glass, one-hot classes) do not count.
"""

from collections.abc import Sequence

import numpy as np

from mil.ragged.packing import BagRows
from wsi.arrays import Bools, Floats

KEPT = 32
"""Tiles of a sketch."""
AXES = 8
"""Directions that a tile is seen from; beside them stands its size, by which rounding is judged."""
ROUNDED = 2.0**-9
"""Of a tile's size: what rounding to half precision moves it by at most, along one direction."""
SHARE, LEAST = 0.25, 3
"""Of the smaller sketch, and tiles, that must agree."""
_BLOCK = 8192
_SOME = 64
"""Features, or up to twice as many, that tell which tiles lie furthest: all tiles are looked at: it has to be quick."""


def sketch_of(bag: BagRows) -> Floats:
    """Return the sketch (tiles, AXES + 1) of a bag of one tile or more; of equal tiles one is kept."""
    dim = bag.shape[1]
    axes_DA = np.random.default_rng(0).normal(size=(dim, AXES)) / np.sqrt(dim)
    some, furthest = slice(None, None, max(1, dim // _SOME)), np.zeros((0, dim))
    for first in range(0, len(bag), _BLOCK):
        rows_ND = np.asarray(bag[first : first + _BLOCK])
        along_N = rows_ND[:, some].astype(np.float32) @ axes_DA[some, 0].astype(np.float32)
        furthest = np.concatenate([furthest, rows_ND[np.argsort(-along_N, kind="stable")[:KEPT]]], dtype=np.float64)
        furthest = furthest[np.argsort(-(furthest[:, some] @ axes_DA[some, 0]), kind="stable")[:KEPT]]
    sizes_N1 = np.sqrt((furthest**2).mean(axis=1, keepdims=True))
    best = np.concatenate([furthest @ axes_DA, sizes_N1], axis=1)
    return best[[not agree(best[:i], best[i : i + 1]).any() for i in range(len(best))]]


def agree(ones: Floats, others: Floats) -> Bools:
    """Return which tiles of two sketches (N, M) agree within rounding."""
    off = np.abs(ones[:, None, :AXES] - others[None, :, :AXES]).max(axis=2)
    return np.asarray(off <= ROUNDED * np.maximum(ones[:, None, AXES], others[None, :, AXES]))


def shared(one: Floats, other: Floats, rest: Sequence[Floats] = ()) -> int:
    """Return how many tiles two sketches share when they are of the same tiles, else 0.

    ``rest``: sketches of other patients; a tile that two of them have says nothing.
    """
    common = agree(one, other).any(axis=1)
    if common.sum() >= LEAST and len(rest) > 1:
        common &= sum(agree(one, own).any(axis=1).astype(int) for own in rest) < 2
    found = int(common.sum())
    return found if found >= max(LEAST, SHARE * min(len(one), len(other))) else 0


def same_tiles(sketches_SKA: Floats, patients: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return pairs of slides of different patients that hold the same tiles, and how many of those compared, as text.

    ``sketches_SKA`` as `filled` gives them. A tile is compared only with those as far along the first direction. Of
    fewer than four patients it cannot be told what all have, as glass.
    """
    if len(set(patients)) < 4:
        return []
    rows = sketches_SKA.reshape(-1, AXES + 1)
    order = np.argsort(rows[:, 0])[: int((~np.isnan(rows[:, 0])).sum())]
    along, reach = rows[order, 0], ROUNDED * float(rows[order, AXES].max(initial=0))
    owners, own_SKA = order // sketches_SKA.shape[1], [own[~np.isnan(own[:, 0])] for own in sketches_SKA]
    found = []
    for one, sketch in enumerate(own_SKA):
        common_S = np.zeros(len(own_SKA), np.int64)
        first = np.searchsorted(along, sketch[:, 0] - reach, "left")
        last = np.searchsorted(along, sketch[:, 0] + reach, "right")
        for tile, start, stop in zip(sketch, first, last, strict=True):
            common_S[np.unique(owners[start:stop][agree(tile[None], rows[order[start:stop]])[0]])] += 1
        for other in np.flatnonzero(common_S >= LEAST).tolist():
            if other <= one or patients[other] == patients[one]:
                continue
            own = (patients[one], patients[other])
            rest = [own_SKA[i] for i in np.flatnonzero(common_S).tolist() if patients[i] not in own]
            if count := shared(sketch, own_SKA[other], rest):
                found.append((one, other, f"{count} of {min(len(sketch), len(own_SKA[other]))}"))
    return found


def filled(sketch: Floats) -> Floats:
    """Return the sketch with rows of NaN up to `KEPT`, which agree with none."""
    return np.concatenate([sketch, np.full((KEPT - len(sketch), AXES + 1), np.nan)])


def known_with(sketch: Floats, known_SKA: Floats) -> int | None:
    """Return which of the known sketches is of the same tiles; None where none is."""
    if not known_SKA.size:
        return None
    rows = known_SKA.reshape(-1, AXES + 1)
    likely_S = agree(sketch, rows).any(axis=0).reshape(len(known_SKA), -1).sum(axis=1)
    found = int(likely_S.argmax())
    own = known_SKA[found]
    rest = [other for i, other in enumerate(known_SKA) if i != found and likely_S[i] >= LEAST]
    return found if shared(sketch, own[~np.isnan(own[:, 0])], rest) else None

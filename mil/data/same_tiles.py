"""The same tiles under two names: rounded otherwise, in another order, or a part of them.

A hash tells none of that. A bag's sketch is the tiles that lie furthest along one direction in the space of some of the
features, seen from eight directions: rounding moves them a little, another order not at all, and of half the tiles half
of the sketch is left. Two bags hold the same tiles when a quarter of their sketches, three tiles at the least, agree
within the rounding of half precision; tiles that two other patients have as well (glass, one-hot classes) do not count.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from features.bags.bag import BagHeader
from mil.data.cohort import load_rows
from mil.ragged.packing import BagRows
from wsi.arrays import Bools, Floats
from wsi.errors import BagError

KEPT = 32
"""Tiles of a sketch."""
AXES = 8
"""Directions that a tile is seen from; beside them stands its size, by which rounding is judged."""
ROUNDED = 2.0**-9
"""Of a tile's size: what rounding to half precision moves it by at most, along one direction."""
SHARE, LEAST = 0.25, 3
"""Of the smaller sketch, and tiles, that must agree."""
NEAREST = 2
"""Bags whose mean features are nearest are compared with each bag."""
FAR = 25.0
"""Squared distance of means, in units of what chance moves a mean of tiles of one slide by, up to which it is done."""
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


def same_tiles(headers: Mapping[str, BagHeader], patient_of: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Return pairs of image ids whose bags hold the same tiles, and how many of the tiles compared agree, as text.

    Only bags whose mean features lie near each other are read; damaged ones are told of elsewhere.
    """
    ids = [i for i, own in headers.items() if i in patient_of and own.n_tiles >= LEAST and own.moments is not None]
    pairs = [(ids[a], ids[b]) for a, b in _near([headers[i] for i in ids])]
    sketches: dict[str, Floats] = {}
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        try:
            sketches[name] = sketch_of(load_rows(headers[name]))
        except BagError:
            continue
    found = {}
    for one, other in pairs:
        if one in sketches and other in sketches:
            rest = [own for i, own in sketches.items() if patient_of[i] not in (patient_of[one], patient_of[other])]
            if count := shared(sketches[one], sketches[other], rest):
                found[one, other] = f"{count} of {min(len(sketches[one]), len(sketches[other]))}"
    return found


def _near(headers: Sequence[BagHeader]) -> list[tuple[int, int]]:
    """Return the pairs of bags that are worth reading: means as near as those of two parts of one slide may be."""
    moments = [own.moments for own in headers if own.moments is not None]
    if len(moments) < 2:
        return []
    counts_N = np.array([own.count for own in moments])
    within_D = sum(own.spread_D for own in moments) / counts_N.sum()
    varied = within_D > 0
    if not varied.any():
        return []
    means_ND = np.stack([own.mean_D[varied] for own in moments]) / np.sqrt(within_D[varied])
    means_ND -= means_ND.mean(axis=0)
    sizes_N, found = (means_ND**2).sum(axis=1), set[tuple[int, int]]()
    for first in range(0, len(moments), _BLOCK):
        own = means_ND[first : first + _BLOCK]
        off_BN = (sizes_N[first : first + _BLOCK, None] + sizes_N - 2 * own @ means_ND.T) / means_ND.shape[1]
        off_BN *= np.minimum(counts_N[first : first + _BLOCK, None], counts_N)
        off_BN[np.arange(len(own)), first + np.arange(len(own))] = np.inf
        near_BK = np.argsort(off_BN, axis=1)[:, :NEAREST]
        for row, others in enumerate(near_BK):
            found |= {(min(first + row, b), max(first + row, b)) for b in others.tolist() if off_BN[row, b] < FAR}
    return sorted(found)


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

"""Bags of another scale: vectors of length 1 among others are named, rare features of few tiles are not."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from making import SEED

from features.bags.moments import moments_of
from mil.data.scales import note_scales
from wsi.arrays import Floats

DIM = 256


def _notes(bags: Sequence[Floats]) -> list[str]:
    headers: Mapping[str, Any] = {
        f"s{i}": SimpleNamespace(moments=moments_of(rows.astype(np.float32)), n_tiles=len(rows))
        for i, rows in enumerate(bags)
    }
    return note_scales(headers)


def _bags(kind: str, rng: np.random.Generator) -> list[Floats]:
    bags = []
    for _ in range(40):
        rows = rng.normal(size=(rng.integers(1, 4), DIM)) + 0.5 * rng.normal(size=DIM)
        if kind == "rare":
            rows = np.where(rows > 3.3, rows, 0) * rng.lognormal(0, 1, size=(len(rows), 1))
        bags.append(np.exp(1.5 * rows) if kind == "heavy" else rows)
    return [rows for rows in bags if rows.any()]


@pytest.mark.parametrize("kind", ["plain", "rare", "heavy"])
def test_honest_features_of_few_tiles_are_not_named(kind: str) -> None:
    rng = np.random.default_rng(SEED)
    assert sum(len(_notes(_bags(kind, rng))) for _ in range(20)) == 0


@pytest.mark.parametrize("factor", [1 / 16, 16, 255, 0])
def test_length_one_and_grey_levels_are_named(factor: float) -> None:
    bags = _bags("plain", np.random.default_rng(SEED))
    bags[7] *= factor
    (note,) = _notes(bags)
    assert note.startswith("1 slide has features of another scale than the others (s7 ")

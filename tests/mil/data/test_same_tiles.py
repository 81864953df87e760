"""Slides that were filed twice: found whatever was done to their bag, and never where only features are alike.

PYTHONPATH=.:tests python tests/mil/data/test_same_tiles.py      prints the table of docs/EVIDENCE.md
"""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from making import SEED
from witness import facts, grid

from features.bags.bag import BagHeader, read_header, write_bag
from mil.data.duplicates import check_pictures
from mil.data.same_tiles import KEPT, filled, known_with, same_tiles, sketch_of
from wsi.arrays import Floats
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError

DIM = 32
SLIDES = 10


def _slide(rng: np.random.Generator, n_tiles: int) -> Floats:
    """Return features as an encoder makes them: of one slide nearer to each other, never below 0, with an offset."""
    return np.maximum(rng.normal(size=(n_tiles, DIM)) + 0.4 * rng.normal(size=DIM) + 0.5, 0)


def _written(folder: Path, bags: dict[str, Floats], dtype: str = "f4") -> dict[str, BagHeader]:
    for name, rows in bags.items():
        write_bag(folder / f"{name}.h5", [rows.astype(dtype)], grid(len(rows)), facts(name))
    return {name: read_header(folder / f"{name}.h5") for name in bags}


CHANGES: dict[str, Callable[[np.random.Generator, Floats], Floats]] = {
    "in another order": lambda rng, rows: rng.permutation(rows),
    "in half precision": lambda _, rows: rows.astype(np.float16).astype(np.float64),
    "a half, drawn": lambda rng, rows: rows[rng.permutation(len(rows))[: len(rows) // 2]],
    "three in ten": lambda rng, rows: rows[rng.permutation(len(rows))[: max(1, len(rows) * 3 // 10)]],
    "the first half": lambda _, rows: rows[: len(rows) // 2],
}


@pytest.mark.parametrize("n_tiles", [12, 200])
def test_a_slide_that_was_filed_twice_is_found(tmp_path: Path, n_tiles: int) -> None:
    rng = np.random.default_rng(SEED)
    bags = {f"s{i}": _slide(rng, n_tiles) for i in range(SLIDES)}
    known_SKA = np.stack([filled(sketch_of(rows)) for rows in bags.values()])
    assert known_with(sketch_of(_slide(rng, n_tiles)), known_SKA) is None
    first = _written(tmp_path, bags)
    for how, change in CHANGES.items():
        if how == "three in ten" and n_tiles < 20:
            continue  # too few are left to be sure
        again = change(rng, bags["s3"])
        headers = first | _written(tmp_path, {"again": again})
        assert [*same_tiles(headers, {name: f"of {name}" for name in headers})] == [("s3", "again")], how
        assert known_with(sketch_of(again), known_SKA) == 3, how


@pytest.mark.parametrize("kind", ["one-hot", "glass", "no slide differs", "a large offset"])
def test_features_that_are_alike_are_no_same_tiles(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(SEED)

    def rows(n_tiles: int) -> Floats:
        if kind == "one-hot":
            return np.eye(DIM)[rng.integers(6, size=n_tiles)]
        own = rng.normal(size=(n_tiles, DIM))
        if kind == "glass":
            own[: n_tiles // 2] = np.linspace(3, 4, DIM) * rng.integers(1, 5, size=(n_tiles // 2, 1))
        return own / 100 + 30 if kind == "a large offset" else own

    headers = _written(tmp_path, {f"s{i}": rows((4, 60)[i % 2]) for i in range(SLIDES)}, "f2")
    assert not same_tiles(headers, {name: name for name in headers})


def test_two_patients_of_the_same_tiles_are_refused_with_what_the_table_tells_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    bags = {f"s{i}": _slide(rng, 40) for i in range(4)}
    headers = _written(tmp_path, bags | {"again": bags["s1"][::2]})
    rows = [ManifestRow(name, f"p_{name}", "A") for name in bags]
    with pytest.raises(
        RequestError,
        match=r"slides s1 \(patient p_s1\) and again \(patient p_again\) hold the same tiles \(\d+ of 20 that were "
        r"compared\), and the table tells A and B of them: one would be tested",
    ):
        check_pictures([*rows, ManifestRow("again", "p_again", "B")], headers)
    (note,) = check_pictures([*rows, ManifestRow("again", "p_s1", "A")], headers)
    assert note.startswith("slides s1 and again of patient p_s1 hold the same tiles (")


def test_a_sketch_keeps_distinct_tiles_alone() -> None:
    rows = np.random.default_rng(SEED).normal(size=(3000, DIM))
    assert sketch_of(rows).shape == (KEPT, 9)
    assert len(sketch_of(np.repeat(rows[:5], 3, axis=0))) == 5


def _correlated(rng: np.random.Generator, dim: int) -> Callable[[int], Floats]:
    mixing_DD = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return lambda n: (rng.normal(size=(n, dim)) + 0.5 * rng.normal(size=dim)) @ mixing_DD


def _sparse(rng: np.random.Generator, dim: int) -> Callable[[int], Floats]:
    return lambda n: np.maximum(rng.normal(size=(n, dim)) + 0.3 * rng.normal(size=dim) - 0.9, 0)


KINDS: dict[str, Callable[[np.random.Generator, int], Callable[[int], Floats]]] = {
    "correlated features, slides that differ": _correlated,
    "features that are 0 in four of five cases": _sparse,
    "noise in which no slide differs": lambda rng, dim: lambda n: rng.normal(size=(n, dim)),
    "one-hot classes": lambda rng, dim: lambda n: np.eye(dim)[rng.integers(min(dim, 6), size=n)],
    "a large offset": lambda rng, dim: lambda n: 30 + rng.normal(size=(n, dim)) / 60,
}


def main() -> None:
    """Of 60 slides file three again: print how many of them are found by each change, and how many other pairs are."""
    rng = np.random.default_rng(SEED)
    for kind, make in KINDS.items():
        for dim in (4, 24, 384):
            found, wrong, asked = dict.fromkeys(CHANGES, 0), 0, 0
            for n_tiles in (20, 200, 2000):
                draw = make(rng, dim)
                with TemporaryDirectory() as name:
                    bags = {f"s{i}": draw(n_tiles) for i in range(60)}
                    first = _written(Path(name), bags)
                    asked += 3
                    for how, change in CHANGES.items():
                        for i in range(3):
                            again = _written(Path(name), {"again": change(rng, bags[f"s{i}"])})
                            pairs = {*same_tiles(first | again, {own: own for own in [*first, "again"]})}
                            found[how] += (f"s{i}", "again") in pairs
                            wrong += len(pairs - {(f"s{i}", "again")})
            told = " | ".join(f"{own} of {asked}" for own in found.values())
            sys.stdout.write(f"| {kind}, {dim} features | {told} | {wrong} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

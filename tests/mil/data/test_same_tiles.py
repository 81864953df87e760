"""Slides that were filed twice: found whatever was done to their bag, and never where only features are alike.

PYTHONPATH=.:tests python tests/mil/data/test_same_tiles.py      prints the table of docs/EVIDENCE.md
"""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from making import SEED
from witness import DIM as WITNESS_DIM
from witness import Witness, facts, grid

from features.bags.bag import write_bag
from mil.data.same_tiles import KEPT, filled, known_with, same_tiles, sketch_of
from mil.run.ending import ending_of_run
from mil.train import train
from wsi.arrays import Floats

DIM = 32
SLIDES = 10
PATIENTS = tuple(f"p{i}" for i in range(100))


def _slide(rng: np.random.Generator, n_tiles: int) -> Floats:
    """Return features as an encoder makes them: of one slide nearer to each other, never below 0, with an offset."""
    return np.maximum(rng.normal(size=(n_tiles, DIM)) + 0.4 * rng.normal(size=DIM) + 0.5, 0)


def _sketches(bags: Iterable[Floats]) -> Floats:
    return np.stack([filled(sketch_of(rows)) for rows in bags])


CHANGES: dict[str, Callable[[np.random.Generator, Floats], Floats]] = {
    "in another order": lambda rng, rows: rng.permutation(rows),
    "in half precision": lambda _, rows: rows.astype(np.float16).astype(np.float64),
    "a half, drawn": lambda rng, rows: rows[rng.permutation(len(rows))[: len(rows) // 2]],
    "three in ten": lambda rng, rows: rows[rng.permutation(len(rows))[: max(1, len(rows) * 3 // 10)]],
    "the first half": lambda _, rows: rows[: len(rows) // 2],
}


@pytest.mark.parametrize("n_tiles", [12, 200])
def test_a_slide_that_was_filed_twice_is_found(n_tiles: int) -> None:
    rng = np.random.default_rng(SEED)
    bags = {f"s{i}": _slide(rng, n_tiles) for i in range(SLIDES)}
    known_SKA = _sketches(bags.values())
    assert known_with(sketch_of(_slide(rng, n_tiles)), known_SKA) is None
    for how, change in CHANGES.items():
        if how == "three in ten" and n_tiles < 20:
            continue  # too few are left to be sure
        again = change(rng, bags["s3"])
        ((one, other, _),) = same_tiles(_sketches([*bags.values(), again]), PATIENTS)
        assert (one, other) == (3, SLIDES), how
        assert known_with(sketch_of(again), known_SKA) == 3, how


@pytest.mark.parametrize("kind", ["one-hot", "glass", "no slide differs", "a large offset"])
def test_features_that_are_alike_are_no_same_tiles(kind: str) -> None:
    rng = np.random.default_rng(SEED)

    def rows(n_tiles: int) -> Floats:
        if kind == "one-hot":
            return np.eye(DIM)[rng.integers(6, size=n_tiles)]
        own = rng.normal(size=(n_tiles, DIM))
        if kind == "glass":
            own[: n_tiles // 2] = np.linspace(3, 4, DIM) * rng.integers(1, 5, size=(n_tiles // 2, 1))
        return own / 100 + 30 if kind == "a large offset" else own

    bags = [rows((4, 60)[i % 2]).astype(np.float16).astype(np.float64) for i in range(SLIDES)]
    assert not same_tiles(_sketches(bags), PATIENTS[:SLIDES])


def test_two_patients_of_one_slide_are_told_in_the_report_and_the_terminal(
    tmp_path: Path, write_cohort: Callable[..., Witness]
) -> None:
    """Its tiles in another order, half of them: no hash tells it. Two slides of one patient are nobody's harm."""
    witness = write_cohort(tmp_path, n_patients=18)
    rows = np.random.default_rng(1).normal(size=(40, WITNESS_DIM)).astype(np.float16)
    for name, own in {"0001_0": rows, "0002_0": rows[::-2], "0000_0": rows[:8] + 9, "0000_1": rows[:8] + 9}.items():
        write_bag(tmp_path / f"{name}.h5", [own], grid(len(own)), facts(name))
    train(witness.options(tmp_path / "run", folds=2, epochs=1, baselines=()))
    warned = json.loads((tmp_path / "run" / "metrics.json").read_text())["warnings"]
    (line,) = (own for own in warned if "same tiles" in own)
    assert line.startswith(
        "slides 0001_0 (patient 0001) and 0002_0 (patient 0002) hold the same tiles (16 of 20 that were compared): "
    )
    assert line in ending_of_run(tmp_path / "run")["warnings"]
    assert "hold the same tiles (16 of 20" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_of_three_patients_nobody_can_tell_what_all_have() -> None:
    rows = np.random.default_rng(SEED).normal(size=(40, DIM))
    bags = [rows, rows, _slide(np.random.default_rng(0), 40)]
    assert not same_tiles(_sketches(bags), PATIENTS[:3])
    more = [*bags, _slide(np.random.default_rng(1), 40)]
    assert [own[:2] for own in same_tiles(_sketches(more), PATIENTS[:4])] == [(0, 1)]
    assert not same_tiles(_sketches(more), ("a", "a", "b", "c"))


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
                bags = [draw(n_tiles) for _ in range(60)]
                first, asked = _sketches(bags), asked + 3
                for how, change in CHANGES.items():
                    for i in range(3):
                        known_SKA = np.concatenate([first, _sketches([change(rng, bags[i])])])
                        pairs = {own[:2] for own in same_tiles(known_SKA, PATIENTS[:61])}
                        found[how] += (i, 60) in pairs
                        wrong += len(pairs - {(i, 60)})
            told = " | ".join(f"{own} of {asked}" for own in found.values())
            sys.stdout.write(f"| {kind}, {dim} features | {told} | {wrong} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

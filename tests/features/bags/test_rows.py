"""Rows that are read when they are needed, against the same file read whole."""

import io
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from witness import facts, grid

from features.bags import rows as rows_module
from features.bags.bag import read_header, write_bag
from features.bags.content import fill
from features.bags.rows import BesideRows, FollowingRows, StoredRows, runs
from wsi.errors import BagError


def values(n_tiles: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_tiles, dim)).astype(np.float16)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "a.h5"
    write_bag(file, [values(200)], grid(200), facts("a"))
    return file


def chunked(path: Path, n_tiles: int = 40) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values(n_tiles).astype(np.float64), chunks=(8, 6), compression="gzip")
        file["coords"] = grid(n_tiles)
    return path


@given(st.sets(st.integers(0, 199)), st.integers(0, 300))
@settings(max_examples=30)
def test_chosen_rows_are_those_of_the_whole(path: Path, chosen: set[int], near_bytes: int) -> None:
    numbers = np.array(sorted(chosen), np.int64)
    stored = StoredRows(read_header(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "NEAR_BYTES", near_bytes)
        np.testing.assert_array_equal(stored.read(numbers), values(200)[numbers])


def test_runs_hold_neighbours() -> None:
    assert runs(np.array([0, 1, 4, 9, 10]), 3) == [(0, 3), (3, 5)]
    assert runs(np.array([0, 1, 4, 9, 10]), 1) == [(0, 2), (2, 3), (3, 5)]
    assert runs(np.array([], np.int64), 1) == []


def test_only_what_was_drawn_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(file: io.FileIO, block: np.ndarray, name: Path) -> None:
        read.append(block.nbytes)
        fill(file, block, name)

    monkeypatch.setattr(rows_module, "fill", counted)
    monkeypatch.setattr(rows_module, "NEAR_BYTES", 24)  # two rows
    StoredRows(read_header(path)).read(np.array([3, 5, 100, 101, 199]))
    assert read == [3 * 12, 2 * 12, 12]


def test_it_is_an_array_where_one_is_wanted(path: Path) -> None:
    stored, wanted = StoredRows(read_header(path)), values(200)
    assert (len(stored), stored.shape, stored.dtype, stored.nbytes) == (200, (200, 6), wanted.dtype, wanted.nbytes)
    np.testing.assert_array_equal(np.asarray(stored), wanted)
    np.testing.assert_array_equal(stored[5:9], wanted[5:9])
    np.testing.assert_array_equal(stored[np.array([9, 2, 2])], wanted[[9, 2, 2]])
    assert stored[:0].shape == (0, 6)


def test_other_tools_forms_are_read_through_hdf5(tmp_path: Path) -> None:
    stored = StoredRows(read_header(chunked(tmp_path / "b.h5")))
    wanted = values(40).astype(np.float32)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored.read(), wanted)
    np.testing.assert_array_equal(stored.read(np.array([3, 17])), wanted[[3, 17]])
    stored.hold()
    np.testing.assert_array_equal(stored.read(np.array([3, 17])), wanted[[3, 17]])


def test_several_bags_are_one(path: Path, tmp_path: Path) -> None:
    write_bag(tmp_path / "b.h5", [values(30, seed=1)], grid(30), facts("b"))
    write_bag(tmp_path / "c.h5", [values(200, 3, seed=2)], grid(200), facts("c"))
    first, second, third = (StoredRows(read_header(own)) for own in (path, tmp_path / "b.h5", tmp_path / "c.h5"))
    following, beside = FollowingRows([first, second]), BesideRows([first, third])
    both = np.concatenate([values(200), values(30, seed=1)])
    wide = np.concatenate([values(200), values(200, 3, seed=2)], axis=1)
    chosen = np.array([0, 199, 200, 229])
    for found, wanted in ((following, both), (beside, wide)):
        numbers = chosen[chosen < len(wanted)]
        np.testing.assert_array_equal(found.read(), wanted)
        np.testing.assert_array_equal(found.read(numbers), wanted[numbers])
        np.testing.assert_array_equal(found.moments().mean_D, wanted.mean(axis=0, dtype=np.float64))
    for own in (first, second, third):
        own.hold()
    np.testing.assert_array_equal(FollowingRows([first, second]).held, both)
    np.testing.assert_array_equal(BesideRows([first, third]).held, wide)


def test_a_changed_bag_is_told_and_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_bag(path, [values(20)], grid(20), facts("a"))
    stored = StoredRows(read_header(path))
    stored.read()
    write_bag(path, [values(20, seed=5)], grid(20), facts("a"))
    with pytest.raises(BagError, match="was replaced while it was used"):
        stored.read()
    with path.open("r+b") as file:
        file.seek(StoredRows(read_header(path)).place.offset or 0)
        file.write(b"\1")
    with pytest.raises(BagError, match="not those that were written"):
        StoredRows(read_header(path)).read()


def test_no_file_stays_open_and_no_map(path: Path) -> None:
    def in_use() -> int:
        maps = sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())
        return maps + sum(os.path.realpath(f"/proc/self/fd/{own}") == str(path) for own in os.listdir("/proc/self/fd"))

    held = [StoredRows(read_header(path)).read() for _ in range(5)]
    assert (len(held), in_use()) == (5, 0)

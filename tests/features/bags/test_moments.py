"""What bags tell of their rows without being read, against numpy and against sums of fractions."""

from fractions import Fraction
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from witness import facts, grid

from features.bags.bag import read_header, write_bag
from features.bags.moments import Moments, beside, followed, moments_of
from features.bags.options import VerifyBagsOptions
from features.bags.verify import verify_bags
from wsi.errors import BagError
from wsi.progress.outcome import Status


def rows_of(seed: int, n_tiles: int, dim: int = 5, dtype: type = np.float16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n_tiles, dim)) * rng.uniform(0.01, 3, dim) + rng.normal(size=dim)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("n_tiles", [1, 63, 64, 65, 1000])
def test_mean_is_numpys_bit_for_bit_and_spread_its_variance(n_tiles: int, dtype: type) -> None:
    rows = rows_of(n_tiles, n_tiles, dtype=dtype)
    found = moments_of(rows)
    np.testing.assert_array_equal(found.mean_D, rows.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(found.spread_D / n_tiles, rows.astype(np.float64).var(axis=0), rtol=1e-12)


def test_far_from_zero_nothing_cancels() -> None:
    rows = (np.float32(1e6) + np.arange(500, dtype=np.float32)[:, None] / 16).astype(np.float32)
    exact = [Fraction(float(value)) for value in rows[:, 0]]
    mean = sum(exact) / len(exact)
    wanted = float(sum((value - mean) ** 2 for value in exact))
    assert moments_of(rows).spread_D[0] == pytest.approx(wanted, rel=1e-12)
    naive = float((rows.astype(np.float32) ** 2).sum() - len(rows) * np.float32(rows.mean()) ** 2)
    assert abs(naive / wanted - 1) > 1e-3, "the formula that is not used would have done as well"


@given(st.lists(st.integers(0, 150), min_size=1, max_size=6), st.integers(0, 99))
def test_parts_are_the_whole_however_it_is_cut(sizes: list[int], seed: int) -> None:
    rows = rows_of(seed, sum(sizes))
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    found, wanted = followed([moments_of(own) for own in parts]), moments_of(rows)
    assert found.count == wanted.count
    np.testing.assert_allclose(found.sum_D, wanted.sum_D, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.spread_D, wanted.spread_D, rtol=1e-10, atol=1e-12)


def test_features_beside_each_other() -> None:
    first, second = rows_of(0, 70), rows_of(1, 70, dim=3)
    found = beside([moments_of(first), moments_of(second)])
    wanted = moments_of(np.concatenate([first, second], axis=1))
    assert all(np.array_equal(getattr(found, name), getattr(wanted, name)) for name in ("sum_D", "spread_D"))


def test_a_bag_carries_them_whatever_the_blocks_it_was_written_in(tmp_path: Path) -> None:
    rows = rows_of(3, 300)
    for name, cuts in (("one", []), ("many", [7, 64, 65, 200])):
        write_bag(tmp_path / f"{name}.h5", np.split(rows, cuts), grid(300), facts("a"))
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()
    found = read_header(tmp_path / "one.h5").moments
    assert found is not None
    np.testing.assert_array_equal(found.sum_D, moments_of(rows).sum_D)
    np.testing.assert_array_equal(found.spread_D, moments_of(rows).spread_D)


def test_an_empty_bag_has_moments_of_nothing(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", [np.empty((0, 5), np.float16)], grid(0), facts("a"))
    found = read_header(tmp_path / "a.h5").moments
    assert found is not None
    assert (found.count, found.sum_D.tolist()) == (0, [0.0] * 5)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_bag(tmp_path / "bags" / "a.h5", [rows_of(0, 90)], grid(90), facts("a"))
    return tmp_path / "bags" / "a.h5"


def failing(path: Path) -> str:
    (outcome,) = verify_bags(VerifyBagsOptions(bags=(path,))).outcomes
    assert outcome.status is Status.FAILED
    return outcome.reason


def test_a_flipped_bit_of_them_is_told(written: Path) -> None:
    with h5py.File(written, "r+") as file:
        file["moments"][0, 2] += 1e-9
    with pytest.raises(BagError, match="its moments are not those that were written"):
        read_header(written)
    assert "moments" in failing(written)


def test_moments_of_other_rows_are_told_by_verify(written: Path) -> None:
    from features.bags.moments import packed, seal

    with h5py.File(written, "r+") as file:
        table = packed(moments_of(rows_of(1, 90)))
        file["moments"][...] = table
        file["moments"].attrs["sha256"] = seal(table, str(file.attrs["content_sha256"]))
    assert "its moments are not those of its rows" in failing(written)


def test_older_bags_are_without_and_whole(written: Path) -> None:
    with h5py.File(written, "r+") as file:
        del file["moments"], file.attrs["finite"]
    assert read_header(written).moments is None
    assert verify_bags(VerifyBagsOptions(bags=(written,))).outcomes[0].status is Status.DONE


def test_moments_are_those_of_a_point_elsewhere() -> None:
    rows, center = rows_of(5, 200), np.array([0.5, -2, 0, 1, 9.0])
    found: Moments = moments_of(rows)
    wanted = ((rows.astype(np.float64) - center) ** 2).mean(axis=0)
    np.testing.assert_allclose(found.spread_around(center), wanted, rtol=1e-12)

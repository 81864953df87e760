"""Numbers hashed from what they are for."""

import pytest
import torch
from scipy.stats import kstest, norm

from features.formulas import chance

KEYS = chance.keys(7, torch.arange(2000))


def test_mixing_is_splitmix64() -> None:
    # the first numbers of SplitMix64 seeded with 0, as its authors' program prints them
    published = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    ours = chance._mixed(torch.arange(1, 4) * chance._GOLDEN)
    assert [value % 2**64 for value in ours.tolist()] == list(published)


def test_numbers_are_evenly_distributed_and_unrelated() -> None:
    numbers = chance.uniform(KEYS, "a", 6)
    assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.001
    other = chance.uniform(KEYS, "b", 6)
    correlation = torch.corrcoef(torch.cat((numbers, other), 1).T) - torch.eye(12, dtype=torch.float64)
    assert correlation.abs().max() < 0.09  # 4 standard errors of 2000 rows
    assert kstest(chance.normal(KEYS, "a", 3).flatten().numpy(), norm.cdf).pvalue > 0.001


def test_whole_numbers_hold_both_ends() -> None:
    assert chance.whole(KEYS, "n", 2, 5, 4).unique().tolist() == [2, 3, 4, 5]
    assert chance.whole(KEYS, "n", 3, 3).unique().tolist() == [3]


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_shapes(shape: tuple[int, ...]) -> None:
    assert chance.between(KEYS, "s", -2, -1, *shape).shape == (2000, *shape)
    assert chance.between(KEYS, "s", -2, -1, *shape).amax() < -1

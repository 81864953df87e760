"""Bags as rows and offsets."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mil.ragged.packing import group_by_rows, pack
from wsi.errors import BagError


def test_bags_lie_one_after_another_in_the_type_they_are_stored_in() -> None:
    bags = [np.full((n, 2), n, np.float16) for n in (3, 1, 2)]
    packed = pack(bags)
    assert packed.offsets == (0, 3, 4, 6)
    assert packed.sizes == [3, 1, 2]
    assert packed.rows_ND.dtype is torch.float16
    assert packed.rows_ND[:, 0].tolist() == [3, 3, 3, 1, 2, 2]


@pytest.mark.parametrize("held", [0, 1, 2])
def test_bags_that_are_held_as_tensors_are_joined_with_others(held: int) -> None:
    arrays = [np.full((n, 2), n, np.float16) for n in (3, 1)]
    bags = [torch.from_numpy(rows) if n < held else rows for n, rows in enumerate(arrays)]
    packed = pack(bags)
    assert packed.offsets == (0, 3, 4)
    assert packed.rows_ND.dtype is torch.float16
    assert packed.rows_ND.tolist() == [[3, 3]] * 3 + [[1, 1]]
    assert pack([torch.from_numpy(arrays[0])]).rows_ND.data_ptr() == arrays[0].ctypes.data


def test_a_single_bag_is_not_copied_even_where_it_may_only_be_read() -> None:
    bag = np.arange(6, dtype=np.float32).reshape(3, 2)
    bag.flags.writeable = False
    packed = pack([bag])
    assert packed.rows_ND.data_ptr() == bag.ctypes.data
    assert packed.offsets == (0, 3)


def test_empty_bags_are_named_five_at_most() -> None:
    empty, full = np.empty((0, 2), np.float32), np.ones((1, 2), np.float32)
    with pytest.raises(BagError, match="bag number 1 is empty"):
        pack([full, empty])
    with pytest.raises(BagError, match="bag a, b, c, d, e is empty"):
        pack([empty] * 6, names=list("abcdef"))


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 60))
def test_groups_are_as_large_as_they_may_be(sizes: list[int], most: int) -> None:
    groups = group_by_rows(sizes, most)
    assert [i for group in groups for i in group] == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in group) <= most or len(group) == 1 for group in groups)
    for group, following in pairwise(groups):
        assert sum(sizes[i] for i in group) + sizes[following[0]] > most


def test_groups_of_known_sizes() -> None:
    assert group_by_rows([4, 6, 1, 30, 2, 8], 10) == [[0, 1], [2], [3], [4, 5]]
    assert group_by_rows([], 10) == []

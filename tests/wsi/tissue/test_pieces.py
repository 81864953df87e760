"""Quick ways against plain ones: pieces by label, medians by counting, channels side by side, exact means."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi.pixels.channels import largest, smallest
from wsi.scores.quality import _mean
from wsi.store.grid import tile_means
from wsi.tissue.background import _median
from wsi.tissue.mask import clean
from wsi.tissue.pieces import of_pieces, pieces
from wsi.units import YX

SEEDS = st.integers(0, 2**31)


@given(SEEDS, st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.99, 1.0]))
def test_chosen_pieces_are_those_whose_label_is_chosen(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    labels, area = pieces(random.random((40, 50)) > 0.5)
    chosen = random.random(len(area)) < share
    plain = chosen[labels]
    plain[labels == 0] = False
    assert (of_pieces(labels, chosen) == plain).all()


@given(SEEDS)
def test_cleaning_is_by_piece(seed: int) -> None:
    mask = (cv2.blur(np.random.default_rng(seed).random((60, 60)), (3, 3)) > 0.5).astype(np.uint8)
    cleaned, plain = clean(mask, 12.0), mask.copy()
    for value in (1, 0):
        labels, area = pieces(plain == value)
        largest_area = area[1:].max(initial=0)
        enough = 12.0 if value == 0 or largest_area < 12 else min(12.0, 0.1 * largest_area)
        for number in range(1, len(area)):
            if area[number] < enough:
                plain[labels == number] = 1 - value
    assert cleaned.dtype == np.uint8
    assert (cleaned == plain).all()


@given(st.lists(st.integers(0, 255), min_size=1, max_size=60))
def test_a_counted_median_is_the_median(values: list[int]) -> None:
    assert _median(np.array(values, np.uint8)) == int(np.median(values))


@pytest.mark.parametrize("side", [32, 256, 257, 512])
def test_a_quick_mean_is_that_of_float32(side: int) -> None:
    for low in (0, 254):
        grey = np.random.default_rng(side).integers(low, 256, (side, side), np.uint8)
        assert _mean(grey) == grey.astype(np.float32).mean()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int16])
@pytest.mark.parametrize("shape", [(5, 7, 3), (0, 4, 3), (9, 1, 3), (6, 3)])
def test_channels_are_compared_wherever_they_lie(dtype: type, shape: tuple[int, ...]) -> None:
    picture: NDArray[Any] = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)
    for view in (picture, picture[::2]):
        assert (largest(view) == view.max(axis=-1)).all()
        assert (smallest(view) == view.min(axis=-1)).all()
    assert largest(picture).dtype == picture.dtype


def test_of_an_empty_picture_every_tile_has_nothing() -> None:
    means = tile_means(np.zeros((10, 10), np.uint8), 4.0, YX(3, 3), (10.0, 10.0))
    assert means.dtype == np.float32
    assert means.shape == (3, 3)
    assert not means.any()
    one = np.zeros((10, 10), np.uint8)
    one[0, 0] = 1
    assert tile_means(one, 4.0, YX(3, 3), (10.0, 10.0))[0, 0] == 1 / 16

"""Pieces of a mask: their areas are OpenCV's own, however few or many there are."""

import cv2
import numpy as np
import pytest
from making import SEED

from wsi.tissue.pieces import pieces


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("side", [1, 5, 90])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_areas_are_counted_right_of_few_pieces_and_of_many(share: float, side: int, connectivity: int) -> None:
    rng = np.random.default_rng(SEED)
    mask = rng.random((side, 70)) < share
    counted = rng.random(mask.shape) < 0.5
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=connectivity)
    labels, area = pieces(mask, connectivity)
    assert np.array_equal(labels > 0, mask)
    assert sorted(area[1:].tolist()) == sorted(stats[1:, cv2.CC_STAT_AREA].tolist())
    assert area.tolist() == [np.count_nonzero(labels == number) for number in range(len(area))]
    some = pieces(mask, connectivity, counted)[1]
    assert some.tolist() == [np.count_nonzero(counted & (labels == number)) for number in range(len(area))]

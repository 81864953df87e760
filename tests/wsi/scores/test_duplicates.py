"""Repeated sections: the same piece, moved, turned or mirrored, is found; different pieces are not."""

import cv2
import numpy as np
import pytest
from making import SEED

from wsi.arrays import RGB
from wsi.scores.duplicates import find_repeats
from wsi.tissue.mask import find_tissue

BACKGROUND = (240, 239, 241)


def piece(seed: int, side: int = 130) -> RGB:
    """Return one irregular, textured piece of tissue on glass, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    angle = np.arctan2(y, x)
    waves = sum(rng.uniform(-0.12, 0.12) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 7))
    inside = np.hypot(y * 1.25, x) < side * 0.34 * (1 + waves)
    pattern = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 7)
    pattern = 45 * pattern / pattern.std() + rng.normal(0, 8, (side, side))
    rgb = np.full((side, side, 3), BACKGROUND, np.float64)
    rgb[inside] = (np.array([180, 110, 160]) + 0.6 * pattern[..., None])[inside]
    return np.clip(rgb, 0, 255).astype(np.uint8)


def turned(rgb: RGB, degrees: float, mirrored: bool = False) -> RGB:
    """Return the piece turned about its middle, a little paler and with other noise: the next cut."""
    side = rgb.shape[0]
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), degrees, 1.0)
    out = cv2.warpAffine(rgb[:, ::-1] if mirrored else rgb, matrix, (side, side), borderValue=BACKGROUND)
    noise = np.random.default_rng(SEED).normal(0, 5, out.shape)
    return np.clip(out.astype(np.float32) * 0.99 + noise, 0, 255).astype(np.uint8)


def repeats(*pieces: RGB) -> tuple[tuple[tuple[int, ...], ...], np.ndarray]:
    rgb = np.concatenate(pieces, axis=1)
    found = find_repeats(rgb, find_tissue(rgb, 8.0).mask, 8.0, BACKGROUND)
    assert found.pieces == len(pieces)
    return found.groups, found.labels


@pytest.mark.parametrize(("degrees", "mirrored"), [(0, False), (7, False), (95, False), (200, True)])
def test_a_repeat_is_found_however_it_lies(degrees: float, mirrored: bool) -> None:
    one = piece(SEED)
    groups, labels = repeats(one, turned(one, degrees, mirrored))
    assert groups == ((1, 2),)
    marked = [labels[:, :130].max(), labels[:, 130:].max()]
    assert sorted(marked) == [0, 1]


@pytest.mark.parametrize("seed", range(6))
def test_different_pieces_are_no_repeats(seed: int) -> None:
    groups, labels = repeats(piece(seed), piece(seed + 100))
    assert groups == ()
    assert not labels.any()


def test_two_round_pieces_with_different_insides_are_no_repeats() -> None:
    y, x = np.mgrid[:130, :130] - 65
    round_shape = np.hypot(y, x) < 45
    rounds = []
    for seed in (1, 2):
        pattern = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(130, 130)), (0, 0), 6)
        rgb = np.full((130, 130, 3), BACKGROUND, np.float64)
        rgb[round_shape] = (np.array([170, 100, 150]) + 30 * (pattern / pattern.std())[..., None])[round_shape]
        rounds.append(np.clip(rgb, 0, 255).astype(np.uint8))
    assert repeats(*rounds)[0] == ()


def test_groups_are_kept_apart() -> None:
    one, two = piece(11), piece(12)
    groups, labels = repeats(one, two, turned(one, 30), turned(two, 300), turned(one, 180))
    assert sorted(len(group) for group in groups) == [2, 3]
    assert set(np.unique(labels)) == {0, 1, 2}


def test_nothing_to_compare() -> None:
    empty = np.full((50, 60, 3), BACKGROUND, np.uint8)
    found = find_repeats(empty, np.zeros((50, 60), np.uint8), 8.0, BACKGROUND)
    assert (found.pieces, found.copies) == (0, 0)

"""Tissue: found on white, grey, green and dark slides, whatever the background."""

import numpy as np
import pytest
from making import SEED

from wsi.slide import RGB
from wsi.tissue import find_tissue


def scene(background: tuple[int, int, int], tissue: tuple[int, int, int], noise: float = 2) -> tuple[RGB, np.ndarray]:
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:300, :400]
    truth = ((y - 150) / 80.0) ** 2 + ((x - 180) / 110.0) ** 2 < 1
    rgb = np.where(truth[..., None], tissue, background) + rng.normal(0, noise, (300, 400, 3))
    rgb[truth] += rng.normal(0, 12, (int(truth.sum()), 1))
    return np.clip(rgb, 0, 255).astype(np.uint8), truth


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask.astype(bool) & truth).sum() / (mask.astype(bool) | truth).sum())


@pytest.mark.parametrize(
    ("background", "tissue"),
    [
        ((242, 241, 243), (180, 90, 150)),
        ((205, 205, 205), (150, 80, 130)),
        ((150, 220, 160), (130, 90, 130)),
        ((255, 255, 255), (170, 80, 150)),
        ((238, 238, 238), (215, 190, 205)),
        ((3, 3, 8), (30, 40, 160)),
    ],
    ids=["white", "grey", "green", "pure white", "faint", "fluorescence"],
)
def test_tissue_is_found(background: tuple[int, int, int], tissue: tuple[int, int, int]) -> None:
    rgb, truth = scene(background, tissue)
    found = find_tissue(rgb, 8.0)
    assert overlap(found.mask, truth) > 0.93
    assert found.dark_background == (max(background) < 64)
    assert np.abs(np.array(found.background) - background).max() <= 4


def test_unscanned_white_beside_grey_glass_is_not_tissue() -> None:
    rgb, truth = scene((228, 226, 230), (180, 90, 150))
    rgb[:, 330:] = 255
    rgb[:40] = 255
    assert overlap(find_tissue(rgb, 8.0).mask, truth) > 0.93


def test_an_empty_slide_has_no_tissue_and_says_so() -> None:
    rgb = np.random.default_rng(0).normal(240, 1.5, (300, 300, 3)).astype(np.uint8)
    found = find_tissue(rgb, 8.0)
    assert not found.mask.any()
    assert found.notes == ("no tissue found",)


def test_a_tiny_clot_is_found_by_relaxing() -> None:
    rgb = np.full((300, 300, 3), 240, np.uint8)
    rgb[100:108, 100:109] = (190, 120, 160)
    found = find_tissue(rgb, 8.0)
    assert found.ladder_step > 0
    assert 40 <= found.mask.sum() <= 200
    assert "relaxing" in found.notes[0]


def test_damaged_pixels_are_never_tissue() -> None:
    rgb, truth = scene((240, 240, 240), (180, 90, 150))
    damaged = np.zeros(truth.shape, np.uint8)
    damaged[140:160] = 1
    rgb[140:160] = (255, 0, 255)
    mask = find_tissue(rgb, 8.0, damaged).mask
    assert not mask[140:160].any()
    assert overlap(mask[:140], truth[:140]) > 0.9


def test_small_dust_is_left_out_and_small_holes_are_filled() -> None:
    rgb, truth = scene((240, 240, 240), (180, 90, 150), noise=0)
    rgb[10:13, 10:13] = (60, 60, 60)
    rgb[150:153, 180:183] = (240, 240, 240)
    mask = find_tissue(rgb, 8.0).mask
    assert not mask[:30, :30].any()
    assert mask[150:153, 180:183].all()
    assert truth[150, 180]

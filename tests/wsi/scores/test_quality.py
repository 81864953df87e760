"""Scores of single tiles: darkness, focus and texture mean what they say."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import SEED

from wsi.arrays import RGB
from wsi.errors import RequestError
from wsi.scores.drop import Rule, dropped, parse_rules
from wsi.scores.quality import focus_notes, tile_scores
from wsi.tiling.options import TileOptions
from wsi.tissue.density import mean_density

BACKGROUND = (240, 238, 242)


def tile(side: int = 256) -> RGB:
    """Return a tile with structures of every size alike, as tissue has: 1/f noise."""
    rng = np.random.default_rng(SEED)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    picture = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / frequency).real
    grey = 150 + 30 * picture / picture.std()
    return np.clip(grey[..., None] + (10, -40, 0), 0, 255).astype(np.uint8)


def test_darkness_is_the_mean_optical_density() -> None:
    rgb = tile()
    expected = np.maximum(np.log10((np.array(BACKGROUND) + 1.0) / (rgb + 1.0)), 0).mean(axis=2)
    np.testing.assert_allclose(mean_density(rgb, BACKGROUND), expected, rtol=1e-5, atol=1e-6)


def test_an_empty_tile_scores_nothing() -> None:
    empty = np.full((256, 256, 3), BACKGROUND, np.uint8)
    assert mean_density(empty, BACKGROUND).max() == 0
    assert tile_scores(empty, 0.5) == {"focus": 0, "texture": 0}


def test_focus_falls_with_blur_and_knows_no_stain_strength() -> None:
    rgb = tile()
    blurred = [tile_scores(cv2.GaussianBlur(rgb, (0, 0), s), 0.5)["focus"] for s in (0.7, 1.5, 3)]
    sharp = tile_scores(rgb, 0.5)["focus"]
    assert sharp > blurred[0] > blurred[1] > blurred[2]
    assert blurred[2] < sharp / 4
    faded = (240 - (240 - rgb.astype(np.float32)) * 0.5).astype(np.uint8)
    assert tile_scores(faded, 0.5)["focus"] == pytest.approx(sharp, rel=0.1)


def test_a_finer_tile_is_judged_at_the_same_scale() -> None:
    rgb = tile(512)
    coarse = cv2.resize(rgb, (256, 256), interpolation=cv2.INTER_AREA)
    fine, half = tile_scores(rgb, 0.25), tile_scores(coarse, 0.5)
    assert fine["focus"] == pytest.approx(half["focus"], rel=0.05)


@given(st.integers(32, 70).map(lambda half: 2 * half), st.floats(0.1, 8))
def test_scores_are_finite_for_any_tile_size(side: int, mpp: float) -> None:
    assert all(0 <= v < 1e3 and np.isfinite(v) for v in tile_scores(tile(side), mpp).values())


def test_blurred_slides_are_warned_of_only_where_the_bound_is_known() -> None:
    blurred = np.full(9, 0.02, np.float32)
    assert "blurred" in focus_notes(blurred, 0.5)[0]
    assert focus_notes(blurred, 2.0) == focus_notes(blurred * 5, 0.5) == focus_notes(None, 0.5) == []


def test_rules_are_read_and_applied() -> None:
    rules = parse_rules([" pen >= 0.5", "focus<.04", "focus<0.04"])
    assert [str(rule) for rule in rules] == ["focus<0.04", "pen>=0.5"]
    scores = {"focus": np.array([0.01, 0.2, 0.3], np.float32), "pen": np.array([0, 0, 0.5], np.float32)}
    assert dropped(rules, scores, 3).tolist() == [True, False, True]
    assert parse_rules(["duplicate>0"]) == (Rule("duplicate", ">", 0.0),)


@pytest.mark.parametrize("text", ["focus", "focus=1", "sharpness<1", "focus<a", "focus<nan", "1<focus", "focus<1e999x"])
def test_a_wrong_rule_is_one_clear_line(text: str) -> None:
    with pytest.raises(RequestError, match=r"--drop .*expected a rule such as"):
        parse_rules([text])


def test_rules_stand_in_the_recipe_in_one_order() -> None:
    one = TileOptions(slides=(Path("a"),), out=Path("b"), drop=("pen>0.50", "focus<0.04"))
    two = TileOptions(slides=(Path("a"),), out=Path("b"), drop=("focus<.04", "pen>.5"))
    assert one.recipe() == two.recipe()
    assert one.recipe() != TileOptions(slides=(Path("a"),), out=Path("b")).recipe()
    assert one.scores_every_tile
    assert not TileOptions(slides=(Path("a"),), out=Path("b"), drop=("pen>0.5",)).scores_every_tile

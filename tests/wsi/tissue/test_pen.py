"""Pen marks: ink is found in each colour, tissue is never taken for ink."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from making import SEED

from wsi.arrays import RGB
from wsi.scores.artefacts import artefact_masks
from wsi.slide import open_slide
from wsi.tiling.overview import overview_band, plan_overview
from wsi.tissue.background import estimate_background
from wsi.tissue.pen import pen_mask

BACKGROUND = (241, 240, 242)
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def stained(haematoxylin: float, eosin: float, side: int = 150) -> RGB:
    """Return tissue of that mean stain, with nuclei-sized variation, by Beer-Lambert's law."""
    rng = np.random.default_rng(SEED)
    amount = rng.uniform(0.4, 1.6, (side, side, 2)) * (haematoxylin, eosin)
    density = amount[..., :1] * HAEMATOXYLIN + amount[..., 1:] * EOSIN
    return np.clip(np.array(BACKGROUND) * 10**-density, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("ink", [(35, 85, 165), (30, 150, 110), (205, 15, 20), (25, 24, 26), (12, 20, 95)])
@pytest.mark.parametrize("over_tissue", [False, True])
def test_ink_of_each_colour_is_found(ink: tuple[int, int, int], over_tissue: bool) -> None:
    rgb = stained(0.3, 0.35) if over_tissue else np.full((150, 150, 3), BACKGROUND, np.uint8)
    layer = np.full_like(rgb, 255)
    cv2.line(layer, (20, 30), (130, 110), tuple(int(255 * c / b) for c, b in zip(ink, BACKGROUND, strict=True)), 40)
    rgb = (rgb.astype(np.float32) * layer / 255).astype(np.uint8)
    truth = (layer < 250).any(axis=2)
    found = pen_mask(rgb, 8.0, BACKGROUND).astype(bool)
    assert (found & truth).sum() > 0.85 * truth.sum()
    assert (found & ~truth).sum() < 0.05 * truth.sum()


@pytest.mark.parametrize(
    ("haematoxylin", "eosin"), [(0.1, 0.3), (0.9, 0.05), (1.2, 0.0), (0.0, 0.8), (0.6, 0.6), (0.05, 1.2)]
)
def test_haematoxylin_and_eosin_are_no_ink(haematoxylin: float, eosin: float) -> None:
    assert not pen_mask(stained(haematoxylin, eosin), 8.0, BACKGROUND).any()


def test_red_blood_cells_are_no_ink() -> None:
    rng = np.random.default_rng(SEED)
    cells = np.clip(np.array([195, 70, 75]) + rng.normal(0, 12, (150, 150, 1)), 0, 255).astype(np.uint8)
    assert not pen_mask(np.repeat(cells, 1, axis=2), 8.0, BACKGROUND).any()


def test_a_dark_background_has_no_ink() -> None:
    assert not pen_mask(np.full((90, 90, 3), (0, 0, 120), np.uint8), 8.0, (0, 0, 8)).any()


def test_a_fold_is_denser_than_the_tissue_around_it() -> None:
    rgb = stained(0.25, 0.3)
    rgb[60:70, 20:130] = stained(0.6, 0.75)[60:70, 20:130]
    masks = artefact_masks(rgb, np.ones(rgb.shape[:2], np.uint8), 8.0, BACKGROUND)
    assert masks["fold"][62:68, 25:125].mean() > 0.6
    assert masks["fold"][:55].mean() < 0.02
    assert not masks["pen"].any()


def test_a_bubble_is_a_rim_without_stain() -> None:
    rgb = np.full((150, 150, 3), BACKGROUND, np.uint8)
    cv2.circle(rgb, (75, 75), 50, (150, 149, 151), 3)
    rgb[:40, :40] = stained(0.3, 0.4)[:40, :40]
    bubble = artefact_masks(rgb, np.zeros(rgb.shape[:2], np.uint8), 8.0, BACKGROUND)["bubble"]
    assert bubble[75, 24:27].any()
    assert bubble[60:90, 60:90].sum() == 0
    assert bubble[:38, :38].sum() == 0


@pytest.mark.parametrize(("name", "um"), [("tcga-red-pen.png", 4.0), ("wsi-blue-pen.png", 60.0)])
def test_real_pen_marks(real_slides: Path, name: str, um: float) -> None:
    bgr: Any = cv2.imread(str(real_slides / "pen" / name))
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    background, _ = estimate_background(rgb, np.ones(rgb.shape[:2], bool))
    mask = pen_mask(rgb, um, background)
    if "red" in name:
        assert mask[200:300, 60:100].mean() > 0.98
        assert not mask[:, 220:].any()
    else:
        assert mask[67:72, 150:170].mean() > 0.95
        assert not mask[:, :130].any()


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs", "kidney-48-5.tif"])
def test_real_tissue_is_no_ink(real_slides: Path, name: str) -> None:
    slide = open_slide(real_slides / name)
    plan = plan_overview(slide, 0.5)
    rgb = np.concatenate([overview_band(slide, plan, i)[0] for i in range(plan.bands)])
    slide.close()
    background, _ = estimate_background(rgb, np.ones(rgb.shape[:2], bool))
    assert not pen_mask(rgb, 8.0, background).any()

"""Tissue: found on white, grey, green and dark slides, whatever the background."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tissue_pictures as paint
from making import SEED

from wsi.arrays import RGB
from wsi.slide import open_slide
from wsi.tiling.overview import overview_band, plan_overview
from wsi.tissue.borders import border_mask
from wsi.tissue.mask import fill_holes, find_tissue
from wsi.tissue.pen import pen_mask


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


def test_faint_structure_is_tissue_and_a_smooth_shadow_is_not() -> None:
    rng = np.random.default_rng(SEED)
    rgb = rng.normal(238, 1.5, (300, 400, 3))
    rgb[60:160, 60:160] -= (6, 14, 8) + rng.choice([0, 1], (100, 100, 1), p=[0.6, 0.4]) * (10.0, 28.0, 14.0)
    rgb[200:280, 200:380] -= 36
    mask = find_tissue(np.clip(rgb, 0, 255).astype(np.uint8), 8.0).mask
    assert mask[65:155, 65:155].mean() > 0.9
    assert not mask[190:290, 190:390].any()


def test_black_padding_is_not_tissue() -> None:
    rgb, truth = scene((240, 239, 241), (180, 90, 150))
    rgb[:, 340:] = 0
    rgb[:30] = 2
    assert overlap(find_tissue(rgb, 8.0).mask, truth) > 0.93


@pytest.mark.parametrize("width", [0, 40])
def test_tissue_at_the_edge_of_a_grey_slide_is_no_border(width: int) -> None:
    rng = np.random.default_rng(SEED)
    grey, truth = np.full((300, 400), 240.0), np.zeros((300, 400), bool)
    truth[120:, width + 20 : 330] = True
    grain = cv2.GaussianBlur(rng.normal(size=(300, 400)), (0, 0), 0.8)
    grey[truth] = (60 + 7 * grain / grain.std())[truth]
    grey += rng.normal(0, 1.5, grey.shape)
    grey[:, :width] = 20
    rgb = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    border = border_mask(rgb, 8.0, (240, 240, 240))
    assert border[:, :width].all()
    assert border[truth].mean() < 0.01


def test_a_picture_of_fill_alone_is_all_border() -> None:
    assert border_mask(np.full((200, 300, 3), 120, np.uint8), 8.0, (240, 240, 240)).all()


def test_small_pieces_count_beside_a_small_largest_one() -> None:
    rgb = np.full((200, 200, 3), 240, np.uint8)
    rgb[40:60, 40:60] = (180, 90, 150)
    rgb[40:50, 100:112] = (180, 90, 150)
    rgb[150:152, 150:152] = (180, 90, 150)
    mask = find_tissue(rgb, 8.0).mask
    assert mask[45, 45]
    assert mask[45, 106]
    assert not mask[140:, 140:].any()


def test_holes_are_filled_only_where_they_are_holes() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:12, 2:12] = 1
    mask[5:8, 5:8] = 0
    mask[15:, :10] = 1
    mask[17:, 3:6] = 0
    filled = fill_holes(mask)
    assert filled[5:8, 5:8].all()
    assert filled.sum() == mask.sum() + 9


def judged(picture: paint.Picture, mask: np.ndarray) -> tuple[float, float]:
    """Return recall and false tissue, as parts of the tissue."""
    truth, found = picture.truth & ~picture.unsure, (mask > 0) & ~picture.unsure
    return (found & truth).sum() / truth.sum(), (found & ~truth).sum() / truth.sum()


PAINTED: dict[str, tuple[Callable[[], paint.Picture], str | None]] = {
    "very pale": (lambda: paint.pale(41, 0.12), None),
    "fat": (lambda: paint.fat(42, 0.4), None),
    "marker on pale tissue": (lambda: paint.ihc_on_pale(43, 0.2, 0.15), None),
    "control beside pale tissue": (lambda: paint.control(44, 0.15), None),
    "black ring": (lambda: paint.pen(45, "black", 0.25, filled=False), "pen marks"),
    "green patches": (lambda: paint.pen(46, "green", 0.25, filled=True), "pen marks"),
    "red ring": (lambda: paint.pen(47, "red", 0.25, filled=False), "pen marks"),
    "blue over tissue": (lambda: paint.pen(48, "blue", 0.5, filled=False, over=True), "pen marks"),
    "black border": (lambda: paint.border(49, 14, "tblr", strength=0.4), "a border"),
    "grey border": (lambda: paint.border(50, 110, "tl", strength=0.4), "a border"),
    "noisy border": (lambda: paint.border(51, 25, "tblr", noise=8, strength=0.4), "a border"),
    "soft border": (lambda: paint.border(52, 10, "tblr", soft=4, strength=0.5), "a border"),
    "vignette": (lambda: paint.vignette(53, 0.25, 0.25), None),
    "cover slip": (lambda: paint.cover_slip(54, 0.2), "edges of a cover slip"),
    "seams": (lambda: paint.seams(55, 0.03, 0.3), None),
    "dark clot at the edge": (lambda: paint.black_clot(56), None),
    "clot beside pale tissue": (lambda: paint.clots(57, 0.2), None),
    "blue smear": (lambda: paint.smear(58, 0.6), None),
    "dim and bright light": (lambda: paint.fluorescence(59, 0.3), "dark background"),
    "nothing but tissue": (lambda: paint.covered(60, 0.6), None),
    "grey, unscanned": (lambda: paint.unscanned(61, 205, 0.3), "a border"),
    "green glass": (lambda: paint.tinted(62, 0.3), None),
}


@pytest.mark.parametrize("kind", PAINTED)
def test_tissue_is_kept_and_nothing_else(kind: str) -> None:
    make, told = PAINTED[kind]
    picture = make()
    found = find_tissue(picture.rgb, paint.UM_PER_PX)
    recall, false = judged(picture, found.mask)
    assert recall > 0.95
    assert false < 0.1
    assert [note for note in found.notes if told and told in note] if told else not found.notes


@pytest.mark.parametrize("colour", [(1.2, 1.2, 1.15), (1.0, 0.5, 0.2)], ids=["black", "blue"])
def test_an_even_marker_amid_tissue_is_no_ink(colour: tuple[float, float, float]) -> None:
    sheet = paint.glass(65)
    for piece in paint.two_pieces(sheet):
        paint.put(sheet, piece, paint.he(sheet, 0.2))
        spots = piece & (paint.grain(sheet.rng, sheet.shape, 5) > 1)
        paint.put(sheet, spots, np.broadcast_to(np.array(colour, np.float32), (*sheet.shape, 3)))
    picture = paint.develop(sheet, "marker")
    recall, false = judged(picture, find_tissue(picture.rgb, paint.UM_PER_PX).mask)
    assert recall > 0.95
    assert false < 0.1


@pytest.mark.parametrize("density", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("seed", [63, 64])
def test_a_smear_of_blue_cells_is_no_pen(seed: int, density: float) -> None:
    picture = paint.smear(seed, density)
    found = find_tissue(picture.rgb, paint.UM_PER_PX)
    assert pen_mask(picture.rgb, paint.UM_PER_PX, found.background)[picture.truth].mean() < 0.01


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("CMU-1-Small-Region.svs", [(120, 60), (150, 60), (70, 15)], [(20, 20), (150, 10), (40, 125)]),
        ("tcga-cr-7395-01a-01-ts1.svs", [(120, 60), (150, 200), (60, 120)], [(3, 3), (25, 60), (215, 100), (20, 255)]),
        ("test3-DAPI-2-(387).ndpi", [(110, 60), (50, 15), (60, 90)], [(145, 60), (148, 110)]),
    ],
)
def test_real_slides(
    real_slides: Path, name: str, inside: list[tuple[int, int]], outside: list[tuple[int, int]]
) -> None:
    slide = open_slide(real_slides / name)
    plan = plan_overview(slide, 0.2282 if "DAPI" in name else 0.5)
    rgb = np.concatenate([overview_band(slide, plan, i)[0] for i in range(plan.bands)])
    slide.close()
    found = find_tissue(rgb, 8.0)
    assert [bool(found.mask[y, x]) for y, x in inside] == [True] * len(inside)
    assert [bool(found.mask[y, x]) for y, x in outside] == [False] * len(outside)
    assert found.dark_background == ("DAPI" in name)

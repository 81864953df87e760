"""One painted slide: what the class changes and what it does not, file forms, memory."""

import itertools
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from sample_data.make import make_slide
from sample_data.paint import Painter
from sample_data.spec import SlideSpec
from sample_data.spots import CELLS, SPOT_PX, Arrangement, Spot, cell_centres, paint_stamp
from sample_data.texture import BLOCK_PX, build_atlas
from sample_data.tissue import lay_out
from wsi.errors import RequestError

SPEC = SlideSpec(height_px=1300, width_px=1600, seed=(5, 1), tissue_share=0.35)


@pytest.fixture(scope="module")
def both_classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    folder = tmp_path_factory.mktemp("slides")
    make_slide(folder / "ce.tif", SPEC)
    make_slide(folder / "laa.tif", replace(SPEC, label="LAA"))
    return tifffile.imread(folder / "ce.tif"), tifffile.imread(folder / "laa.tif")


def test_the_class_changes_only_the_marked_squares(both_classes: tuple[np.ndarray, np.ndarray]) -> None:
    ce, laa = both_classes
    marked = np.zeros(ce.shape[:2], dtype=bool)
    for top, left, size in lay_out(SPEC).truth:
        marked[top : top + size, left : left + size] = True
    differs = (ce != laa).any(axis=2)
    assert not differs[~marked].any()
    assert differs[marked].mean() > 0.1


def test_mean_colour_does_not_know_the_class(both_classes: tuple[np.ndarray, np.ndarray]) -> None:
    ce, laa = both_classes
    tissue = (np.abs(ce.astype(int) - ce[0, 0]).max(axis=2) > 10) | (
        np.abs(laa.astype(int) - laa[0, 0]).max(axis=2) > 10
    )
    np.testing.assert_allclose(ce[tissue].mean(axis=0), laa[tissue].mean(axis=0), atol=0.4)
    slides = (lay_out(replace(SPEC, seed=(5, n))).look.light for n in range(8))
    assert np.std([light.mean() for light in slides]) > 0.4


def _visible_ink(arrangement: Arrangement, number: int) -> float:
    stamp = paint_stamp(Spot(0, 0, arrangement, (9, number)))
    return float((stamp.nuclei * stamp.alpha).sum())


def test_spots_of_both_classes_have_the_same_ink() -> None:
    islands, rows = (np.mean([_visible_ink(kind, n) for n in range(12)]) for kind in ("islands", "rows"))
    assert islands == pytest.approx(rows, rel=0.015)


def _coherence(nuclei: np.ndarray) -> float:
    """Mean local coherence of the structure tensor, weighted by its energy, at the scale of a row."""
    smooth = cv2.GaussianBlur(nuclei, (0, 0), 7)
    dx, dy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    products = (dx * dx - dy * dy, 2 * dx * dy, dx * dx + dy * dy)
    even, odd, energy = (cv2.GaussianBlur(product, (0, 0), 20) for product in products)
    return float(np.hypot(even, odd).sum() / energy.sum())


def test_local_texture_tells_the_classes_apart() -> None:
    islands = [_coherence(paint_stamp(Spot(0, 0, "islands", (3, n))).nuclei) for n in range(10)]
    rows = [_coherence(paint_stamp(Spot(0, 0, "rows", (3, n))).nuclei) for n in range(10)]
    scatter = [_coherence(paint_stamp(Spot(0, 0, "scatter", (3, n))).nuclei) for n in range(10)]
    assert min(rows) > 1.5 * max(islands)
    assert min(rows) > 1.5 * max(scatter)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), arrangement=st.sampled_from(["islands", "rows", "scatter"]))
def test_cells_stay_inside_their_square(seed: int, arrangement: Arrangement) -> None:
    centres = cell_centres(np.random.default_rng(seed), arrangement)
    assert centres.shape == (CELLS, 2)
    assert centres.min() > 11
    assert centres.max() < SPOT_PX - 11


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1024, 5000),
    width=st.integers(1024, 5000),
    share=st.floats(0.02, 0.4),
)
def test_squares_lie_in_the_slide_and_apart(seed: int, height: int, width: int, share: float) -> None:
    laid = lay_out(SlideSpec(height_px=height, width_px=width, seed=(seed,), tissue_share=share))
    assert len(laid.truth) >= 2
    for top, left, size in laid.truth:
        assert 0 <= top <= height - size
        assert 0 <= left <= width - size
    corners = [(spot.l0_y, spot.l0_x) for spot in laid.spots]
    for number, (y, x) in enumerate(corners):
        assert all(max(abs(y - other_y), abs(x - other_x)) > SPOT_PX for other_y, other_x in corners[:number])


def test_a_block_does_not_depend_on_its_neighbours() -> None:
    laid = lay_out(SPEC)
    first, second = Painter(laid), Painter(laid)
    corners = [(y, x) for y in range(0, 1300, BLOCK_PX) for x in range(0, 1600, BLOCK_PX)]
    forwards = {corner: first.block(*corner) for corner in corners}
    for corner in reversed(corners):
        again = second.block(*corner)
        if again is None:
            assert forwards[corner] is None
        else:
            np.testing.assert_array_equal(again, forwards[corner])


def test_neighbouring_blocks_meet_without_a_seam() -> None:
    painter = Painter(lay_out(SPEC))
    steps, seams = [], []
    for y in range(0, 1280 - BLOCK_PX, BLOCK_PX):
        for x in range(0, 1536, BLOCK_PX):
            upper, lower = painter.block(y, x), painter.block(y + BLOCK_PX, x)
            if upper is not None and lower is not None:
                steps.append(np.abs(upper[-1].astype(int) - upper[-2]).mean())
                seams.append(np.abs(lower[0].astype(int) - upper[-1]).mean())
    assert np.mean(seams) < 1.3 * np.mean(steps)


@pytest.mark.parametrize("kind", ["deflate", "jpeg-pyramid"])
def test_threads_do_not_change_the_bytes(kind: Literal["deflate", "jpeg-pyramid"], tmp_path: Path) -> None:
    spec = replace(SPEC, kind=kind)
    make_slide(tmp_path / "one.tif", spec, threads=1)
    make_slide(tmp_path / "three.tif", spec, threads=3)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "three.tif").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.tif", "three.tif"]


def test_pyramid_levels_show_the_same_picture(tmp_path: Path) -> None:
    make_slide(tmp_path / "slide.tif", replace(SPEC, height_px=2300, width_px=2500, kind="jpeg-pyramid"))
    with tifffile.TiffFile(tmp_path / "slide.tif") as file:
        levels = [page.asarray().astype(np.float32) for page in file.pages]
        resolutions = [np.divide(*page.aspage().tags["XResolution"].value) for page in file.pages]
    assert [level.shape[:2] for level in levels] == [(2300, 2500), (575, 625), (143, 156)]
    assert resolutions == pytest.approx([20_000, 5000, 1248], rel=1e-3)
    for finer, coarser in itertools.pairwise(levels):
        height, width = coarser.shape[:2]
        shrunk = finer[: 4 * height, : 4 * width].reshape(height, 4, width, 4, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - coarser).mean() < 3


def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    build_atlas()
    peaks = []
    for height in (1536, 9216):
        tracemalloc.start()
        make_slide(tmp_path / "slide.tif", replace(SPEC, height_px=height, width_px=1100, tissue_share=0.03))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4_000_000
    assert peaks[1] < 9216 * 1100 * 3


def test_what_cannot_be_painted_is_refused() -> None:
    with pytest.raises(RequestError, match="at least 1024 px"):
        SlideSpec(height_px=500, width_px=2000)
    with pytest.raises(RequestError, match="center_id '9'"):
        SlideSpec(height_px=2000, width_px=2000, center_id="9")
    with pytest.raises(RequestError, match="tissue_share"):
        SlideSpec(height_px=2000, width_px=2000, tissue_share=0.9)

"""Area averaging: exact, and without seams."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi.arrays import RGB
from wsi.pixels.resample import area_average, halve, source_box
from wsi.units import YX, Box


def noise(height: int, width: int, seed: int = 1) -> RGB:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def averaged(pixels: RGB, out: Box, scale: float) -> RGB:
    box = source_box(out, scale)
    padded = np.pad(pixels, ((4, 40), (4, 40), (0, 0)), mode="edge")
    cut = padded[box.y0 + 4 : box.y1 + 4, box.x0 + 4 : box.x1 + 4]
    return area_average(np.ascontiguousarray(cut), YX(box.y0, box.x0), out, scale)


def by_integral(pixels: RGB, out: Box, scale: float) -> np.ndarray:
    """The definition: the mean of the input area, by a finely repeated input."""
    fine = 40
    rows = np.repeat(np.repeat(pixels.astype(float), fine, 0), fine, 1)
    result = np.empty((*out.shape, 3))
    for i, y in enumerate(range(out.y0, out.y1)):
        for j, x in enumerate(range(out.x0, out.x1)):
            ys = slice(round(y * scale * fine), round((y + 1) * scale * fine))
            xs = slice(round(x * scale * fine), round((x + 1) * scale * fine))
            result[i, j] = rows[ys, xs].mean((0, 1))
    return result


@pytest.mark.parametrize("scale", [1.0, 1.25, 1.6, 2.0, 2.5, 3.0, 4.0])
def test_equals_the_mean_of_the_covered_area(scale: float) -> None:
    pixels = noise(34, 38)
    out = Box(2, 1, 7, 8)
    np.testing.assert_allclose(averaged(pixels, out, scale), by_integral(pixels, out, scale), atol=0.51)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.85, 3.7), st.integers(1, 19))
def test_two_boxes_give_the_pixels_of_one(scale: float, cut: int) -> None:
    pixels = noise(90, 90, 3)
    whole = averaged(pixels, Box(0, 0, 20, 20), scale)
    top, bottom = averaged(pixels, Box(0, 0, cut, 20), scale), averaged(pixels, Box(cut, 0, 20, 20), scale)
    difference = np.abs(np.concatenate([top, bottom]).astype(int) - whole)
    assert difference.max() <= 1  # the order of the sums in float32 may tip a rounding


@settings(max_examples=20, deadline=None)
@given(st.floats(0.85, 3.7), st.integers(0, 255))
def test_a_flat_picture_stays_flat(scale: float, value: int) -> None:
    pixels = np.full((80, 80, 3), value, np.uint8)
    assert (averaged(pixels, Box(1, 2, 18, 19), scale) == value).all()


def test_halving_averages_blocks_and_drops_an_odd_end() -> None:
    pixels = noise(7, 5)
    blocks = pixels[:6, :4].reshape(3, 2, 2, 2, 3).mean((1, 3))
    assert halve(pixels).shape == (3, 2, 3)
    np.testing.assert_allclose(halve(pixels), blocks, atol=0.51)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (1.0, (3, 5, 10, 11)),
        (2.0, (6, 10, 20, 22)),
        (3.0, (9, 15, 30, 33)),
        (1.1, (3, 5, 11, 13)),  # 10 * 1.1 is 11.000000000000002
        (2.5, (7, 12, 25, 28)),
        (0.5, (0, 1, 6, 7)),  # and a pixel on each side, to be interpolated with
    ],
)
def test_the_source_is_what_the_output_touches_and_no_more(scale: float, expected: tuple[int, ...]) -> None:
    assert source_box(Box(3, 5, 10, 11), scale) == expected


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.0, 1.3, 0.6])
@pytest.mark.parametrize("cut", [1, 64, 101])
def test_pieces_of_a_large_box_are_the_large_box(scale: float, cut: int) -> None:
    size = YX(150, 7)
    pixels = noise(int(size.y * scale) + 8, int(size.x * scale) + 8)
    whole = averaged(pixels, Box(0, 0, *size), scale).astype(int)
    pieces = [averaged(pixels, Box(0, 0, cut, 7), scale), averaged(pixels, Box(cut, 0, 150, 7), scale)]
    assert np.abs(np.concatenate(pieces) - whole).max() <= (0 if scale in (1, 2, 3) else 1)
    across = [averaged(pixels, Box(0, 0, 150, 3), scale), averaged(pixels, Box(0, 3, 150, 7), scale)]
    assert np.abs(np.concatenate(across, axis=1) - whole).max() <= (0 if scale in (1, 2, 3) else 1)
    if scale == 1.3 and cut == 1:
        np.testing.assert_allclose(whole, by_integral(pixels, Box(0, 0, *size), scale), atol=0.53)


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.8])
def test_enlarging_is_opencvs_linear_interpolation(scale: float) -> None:
    pixels = noise(72, 40)
    out = Box(0, 0, int(72 / scale), int(40 / scale))
    theirs = cv2.resize(pixels.astype(np.float32), (out.x1, out.y1), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(averaged(pixels, out, scale), theirs, atol=0.51)

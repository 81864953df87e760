"""Contours, leaves and tissue against other ways to the same."""

import math

import numpy as np
import pytest
import torch
from skimage.color import hdx_from_rgb, separate_stains
from skimage.draw import ellipse, polygon

from features.formulas import formula
from features.formulas.chance import keys, uniform
from features.formulas.colours import DAB, HAEMATOXYLIN, stains, transmitted
from features.formulas.contours import Contours, product
from features.formulas.leaves import _spans
from features.formulas.noise import octaves, smooth_noise
from features.formulas.splat import Topmost, boxes

KEYS = keys(11, torch.arange(50))


def test_a_polygon_without_noise_is_the_polygon_that_skimage_draws() -> None:
    family = formula("rcdb", classes=400, seed=0)
    assert isinstance(family, Contours)
    class_keys = family._class_keys(torch.arange(400))
    chosen = int((family._lines(class_keys).vertices - 5).abs().argmin())
    lines = family._lines(class_keys[chosen : chosen + 1])
    vertices, size, places = int(lines.vertices), 200, 400
    y, x = (
        (shape[0, 0] + lines.radius[0] * shape[0, 1]).double() * size
        for shape in (family._shapes(lines, KEYS[:1], places * vertices, axis) for axis in range(2))
    )
    filled = np.zeros((size, size), bool)
    filled[polygon(y[::places].numpy(), x[::places].numpy(), (size, size))] = True
    area = 0.5 * float((y * x.roll(-1) - x * y.roll(-1)).sum().abs())
    assert area == pytest.approx(filled.sum(), rel=0.02)


def test_the_product_shape_by_shape_is_the_product() -> None:
    left, right = torch.rand(2, 5, 7), torch.rand(2, 7, 9)

    class OnGpu(torch.Tensor):
        is_cuda = True

    torch.testing.assert_close(product(left.as_subclass(OnGpu), right).as_subclass(torch.Tensor), product(left, right))


@pytest.mark.parametrize("figure", [0, 1, 2])
def test_a_leaf_covers_what_skimage_draws(figure: int) -> None:
    size, radius, length = 120, 50.0, 1.7
    for turn in (0.3, 1.1, 2.0, 4.5):
        centre = torch.tensor([[[60.25, 58.5]]], dtype=torch.float64)
        corners, away = boxes(centre, 118)
        one = torch.ones(1, 1, dtype=torch.float64)
        left, right = _spans(away[:, :, 0], one * turn, one * radius, one * length, torch.tensor([[figure]]))
        columns = away[:, :, 1, None]
        top = Topmost(1, size, torch.device("cpu"))
        top.lay(corners, ((columns >= left[..., None]) & (columns <= right[..., None])).int())
        expected = np.zeros((size, size), bool)
        if figure == 0:
            shape = ellipse(59.75, 58.0, radius / length, radius, (size, size), rotation=-turn)
        else:
            angles = np.arange(4) * math.pi / 2 + math.pi / 4 if figure == 1 else math.pi * (np.arange(3) * 2 / 3 + 0.5)
            u, v = radius * np.cos(angles), radius * np.sin(angles) / length
            y, x = math.cos(turn) * v + math.sin(turn) * u, math.cos(turn) * u - math.sin(turn) * v
            shape = polygon(y + 59.75, x + 58.0, (size, size))
        expected[shape] = True
        assert (expected != top.values()[0].numpy().astype(bool)).mean() < 0.012, turn


def test_topmost_keeps_the_largest_and_cuts_at_the_border() -> None:
    top = Topmost(1, 8, torch.device("cpu"))
    values = torch.stack((torch.full((3, 3), 5), torch.full((3, 3), 7), torch.full((3, 3), 2)))[None].int()
    top.lay(torch.tensor([[[1, 1], [2, 2], [-2, 6]]]), values)
    expected = np.zeros((8, 8), int)
    expected[1:4, 1:4], expected[0, 6:8] = 5, 2
    expected[2:5, 2:5] = 7
    np.testing.assert_array_equal(top.values()[0], expected)


def test_light_through_stain_is_unmixed_by_skimage() -> None:
    amounts = torch.rand(1, 2, 6, 6) * 1.5
    vectors = torch.tensor([[HAEMATOXYLIN, DAB]])
    bright = transmitted(amounts, vectors, KEYS[:1]) / transmitted(amounts * 0, vectors, KEYS[:1])
    unmixed = separate_stains(bright[0].permute(1, 2, 0).double().numpy(), hdx_from_rgb)
    scale = [unmixed[..., i].mean() / amounts[0, j].mean().item() for i, j in ((0, 0), (1, 1))]
    for i, j in ((0, 0), (1, 1)):
        np.testing.assert_allclose(unmixed[..., i] / scale[i], amounts[0, j], atol=0.02)


def test_stains_lie_between_the_published_ones() -> None:
    drawn = stains(KEYS, uniform(KEYS, "dab") < 0.5)
    torch.testing.assert_close(drawn.norm(dim=2), torch.ones(50, 2))
    brown = drawn[:, 1, 2] > drawn[:, 1, 1]  # eosin absorbs green most, DAB blue
    assert torch.equal(brown, uniform(KEYS, "dab") < 0.5)
    assert ((drawn[:, 0] @ torch.tensor(HAEMATOXYLIN)) > 0.93).all()


def test_smooth_noise_goes_through_its_knots() -> None:
    noise = smooth_noise(KEYS, "n", 64, 8)
    torch.testing.assert_close(noise[:, ::8, ::8], uniform(KEYS, "n", 9, 9)[:, :8, :8].float())
    assert noise.min() >= 0
    assert noise.max() <= 1
    assert octaves(KEYS, "n", 64, 4, 3).amax() <= 1

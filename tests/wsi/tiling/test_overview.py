"""The overview: the mean of the slide, by whichever way it is made."""

from pathlib import Path

import numpy as np
import pytest
from making import picture, spoil_tile, write_deflate, write_pyramid

from wsi.arrays import RGB
from wsi.readers.protocol import Level, Slide
from wsi.readers.tiles import DAMAGED_RGB
from wsi.slide import open_slide
from wsi.tiling import overview
from wsi.tiling.overview import MAX_PIXELS, OverviewPlan, overview_band, plan_overview
from wsi.units import YX


def whole(slide: Slide, plan: OverviewPlan) -> RGB:
    return np.concatenate([overview_band(slide, plan, i)[0] for i in range(plan.bands)])


def mean_of(pixels: RGB, factor: int) -> np.ndarray:
    padded = np.pad(pixels, ((0, -pixels.shape[0] % factor), (0, -pixels.shape[1] % factor), (0, 0)), mode="edge")
    height, width = padded.shape[0] // factor, padded.shape[1] // factor
    return padded.reshape(height, factor, width, factor, 3).mean((1, 3))


@pytest.mark.parametrize("shape", [(1500, 1900), (513, 1023), (100, 3000), (1024, 512)])
@pytest.mark.parametrize("by_tiles", [True, False])
def test_each_pixel_is_the_mean_of_its_area(tmp_path: Path, shape: tuple[int, int], by_tiles: bool) -> None:
    pixels = picture(*shape)
    slide = open_slide(write_deflate(tmp_path / "a.tif", pixels))
    plan = plan_overview(slide, 0.5, by_tiles=by_tiles)
    assert plan.factor == 16
    assert np.abs(whole(slide, plan) - mean_of(pixels, 16)).max() <= 0.51


def test_jpeg_tiles_are_averaged_in_the_frequency_domain(tmp_path: Path) -> None:
    pixels = picture(1000, 1300)
    slide = open_slide(write_pyramid(tmp_path / "a.tif", pixels, levels=1))
    plan = plan_overview(slide, 0.5)
    difference = whole(slide, plan) - mean_of(pixels, 16)
    assert np.abs(difference).mean() < 1.5
    assert np.abs(difference).max() < 16


def test_a_pyramid_gives_its_coarse_level(pyramid_slide: Path) -> None:
    plan = plan_overview(open_slide(pyramid_slide), 0.25)
    assert (plan.level, plan.factor) == (2, 8)


def test_bands_do_not_depend_on_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = open_slide(write_deflate(tmp_path / "a.tif", picture(1500, 1900)))
    one = plan_overview(slide, 0.5)
    monkeypatch.setattr(overview, "_BAND_BYTES", 1 << 20)
    many = plan_overview(slide, 0.5)
    assert many.bands > one.bands
    np.testing.assert_array_equal(whole(slide, many), whole(slide, one))


def test_a_gigapixel_slide_gets_a_coarser_overview() -> None:
    class Huge:
        levels = (Level(YX(116_100, 57_000), 1.0, YX(128, 128)),)

    plan = plan_overview(Huge(), 0.5)  # type: ignore[arg-type]
    assert plan.shape.y * plan.shape.x <= MAX_PIXELS
    assert plan.bands > 10


@pytest.mark.parametrize("kind", ["deflate", "jpeg"])
def test_damage_is_told(tmp_path: Path, kind: str) -> None:
    pixels = picture(1100, 1300)
    path = tmp_path / "a.tif"
    write_deflate(path, pixels, 256) if kind == "deflate" else write_pyramid(path, pixels, levels=1)
    spoil_tile(path, 7)
    slide = open_slide(path, "tiff")
    plan = plan_overview(slide, 0.5)
    bands = [overview_band(slide, plan, i) for i in range(plan.bands)]
    rgb, damaged = (np.concatenate(parts) for parts in zip(*bands, strict=True))
    assert np.argwhere(damaged).min(0).tolist() == [16, 16]
    assert np.argwhere(damaged).max(0).tolist() == [31, 31]
    assert (rgb[damaged == 1] == DAMAGED_RGB).all()

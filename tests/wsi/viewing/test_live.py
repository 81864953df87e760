"""Slides straight from their files: what is shown is what the slide's own region says."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from making import RGB, picture, spoil_tile, write_deflate, write_ome_zarr, write_pyramid

from wsi.slide import open_slide
from wsi.store.grid import Grid
from wsi.units import Box
from wsi.viewing.live import LivePicture


def whole(live: LivePicture, level: int) -> RGB:
    """Put a level together from its JPEG tiles."""
    side = live.tile_px
    rows, columns = live.present(level).shape
    out = np.zeros((rows * side, columns * side, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            file = live.jpeg(level, row, column)
            assert file is not None
            out[row * side : (row + 1) * side, column * side : (column + 1) * side] = imagecodecs.jpeg8_decode(file)
    height, width = live.levels[level]
    return out[:height, :width]


def far(one: RGB, other: RGB) -> float:
    """Return the mean distance in grey levels."""
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def block_means(pixels: RGB, factor: int) -> RGB:
    """Average by hand."""
    height, width = (side // factor for side in pixels.shape[:2])
    blocks = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)


def test_one_level_is_shown_at_every_power_of_two(deflate_slide: Path, slide_pixels: RGB) -> None:
    with open_slide(deflate_slide) as slide:
        live = LivePicture(slide, "a", 0.5)
        assert live.tile_px == 128
        assert list(live.levels) == Grid(slide.levels[0].shape, 128).levels()
        for level in range(len(live.levels)):
            expected = block_means(slide_pixels, 2**level)[: live.levels[level].y, : live.levels[level].x]
            assert far(whole(live, level), expected) < 3, level  # JPEG's loss, on noise
        pixels = live.pixels(0, 2, 3)
        np.testing.assert_array_equal(pixels, slide_pixels[256:384, 384:512])


def test_the_last_tiles_are_whole_and_white_beyond_the_slide(deflate_slide: Path, slide_pixels: RGB) -> None:
    with open_slide(deflate_slide) as slide:
        live = LivePicture(slide, "a", 0.5)
        rows, columns = live.present(0).shape
        last = live.pixels(0, rows - 1, columns - 1)
        height, width = 1500 - (rows - 1) * 128, 1900 - (columns - 1) * 128
        np.testing.assert_array_equal(last[:height, :width], slide_pixels[-height:, -width:])
        assert (last[height:] == 255).all()
        assert (last[:, width:] == 255).all()
        assert live.jpeg(0, rows, 0) is None
        assert live.jpeg(0, -1, 0) is None
        assert live.jpeg(len(live.levels), 0, 0) is None


def test_jpeg_tiles_are_copied_bit_by_bit(pyramid_slide: Path) -> None:
    with open_slide(pyramid_slide, "tiff") as slide, tifffile.TiffFile(pyramid_slide) as tiff:
        live = LivePicture(slide, "a", 0.25)
        for level in (0, 1, 2):  # each is in the file
            page, place = tiff.pages[level], -(-tiff.pages[level].imagewidth // 256) + 1
            file = live.jpeg(level, 1, 1)
            assert file is not None
            tiff.filehandle.seek(page.dataoffsets[place])
            own = tiff.filehandle.read(page.databytecounts[place])
            assert file.endswith(own[own.index(b"\xff\xda") :])  # the coded pixels, undecoded
            expected = slide.read(level, Box(256, 256, 512, 512).clipped(slide.levels[level].shape))
            height, width = expected.shape[:2]
            np.testing.assert_array_equal(imagecodecs.jpeg8_decode(file)[:height, :width], expected)
        assert far(whole(live, 3), block_means(whole(live, 2), 2)) < 2  # coarser than the file's


def test_a_damaged_tile_is_magenta_and_the_others_are_shown(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(700, 700), levels=1)
    spoil_tile(path, 4)
    with open_slide(path) as slide:
        live = LivePicture(slide, "a", 0.5)
        file = live.jpeg(0, 1, 1)
        assert file is not None
        np.testing.assert_allclose(imagecodecs.jpeg8_decode(file)[100, 100], (255, 0, 255), atol=3)
        assert live.jpeg(0, 0, 1) is not None


@pytest.mark.parametrize("kind", ["zarr", "stripes"])
def test_other_files_are_shown_too(tmp_path: Path, kind: str) -> None:
    if kind == "zarr":
        path, pixels = write_ome_zarr(tmp_path / "a.zarr"), picture(600, 700)
    else:
        pixels = picture(600, 700)
        path = write_deflate(tmp_path / "a.tif", pixels, tile_px=64)
    with open_slide(path) as slide:
        live = LivePicture(slide, "a", 0.5)
        assert live.tile_px == 256  # 64 px are too small to be fetched one by one
        assert far(whole(live, 0), pixels) < 3
        np.testing.assert_array_equal(live.pixels(0, 1, 1), pixels[256:512, 256:512])
        assert far(whole(live, 1), block_means(pixels, 2)) < 3


def test_levels_between_the_files_own_are_averaged(real_slides: Path) -> None:
    """CMU-1-Small-Region has one level; a pyramid by fours has gaps."""
    with open_slide(real_slides / "CMU-1-Small-Region.svs") as slide:
        live = LivePicture(slide, "a", 0.499)
        region = slide.read(0, Box(0, 0, 4 * live.tile_px, 4 * live.tile_px))
        assert far(live.pixels(2, 0, 0), block_means(region, 4)) < 1.5
        assert far(live.pixels(3, 0, 0)[: live.tile_px // 2, : live.tile_px // 2], block_means(region, 8)) < 1.5


def test_the_background_is_the_slides_own(deflate_slide: Path, tmp_path: Path) -> None:
    with open_slide(deflate_slide) as slide:
        assert LivePicture(slide, "a", 0.5).background == (236, 238, 237)
    large = np.full((2300, 2300, 3), (236, 238, 237), np.uint8)
    large[600:1700, 600:1700] = picture(1100, 1100)
    with open_slide(write_deflate(tmp_path / "a.tif", large)) as slide:  # looked for along the border
        assert LivePicture(slide, "a", 0.5).background == (236, 238, 237)

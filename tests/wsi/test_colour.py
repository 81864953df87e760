"""Colours against the pixels that were encoded: tag, codestream and codec in unlike combinations."""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from making import picture, write_pyramid

from wsi.export.ome_tiff import OmeTiffOptions, export_ome_tiff
from wsi.slide import open_slide
from wsi.store import TileStore
from wsi.units import Box


def test_jpeg_2000_of_other_writers_goes_by_the_tag(tmp_path: Path) -> None:
    pixels = picture(256, 256)
    options = {"photometric": "rgb", "tile": (128, 128), "compression": 33003, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", pixels, compressionargs={"reversible": True, "mct": False}, **options)
    slide = open_slide(tmp_path / "a.tif", "tiff")
    np.testing.assert_array_equal(slide.read(0, Box(0, 0, 256, 256)), pixels)


def test_jfif_goes_before_a_tag_that_says_rgb(tmp_path: Path) -> None:
    pixels = picture(256, 256)
    data = bytes(imagecodecs.jpeg8_encode(pixels, 90, subsampling="444"))
    assert b"JFIF" in data[:32]
    options = {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}, "compression": "jpeg"}
    tifffile.imwrite(
        tmp_path / "a.tif", iter([data]), shape=(256, 256, 3), dtype=np.uint8, tile=(256, 256), metadata=None, **options
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages.first.photometric.name == "RGB"
    slide = open_slide(tmp_path / "a.tif", "tiff")
    np.testing.assert_array_equal(slide.read(0, Box(0, 0, 256, 256)), imagecodecs.jpeg8_decode(data))


@pytest.mark.parametrize("colours", ["rgb", (1, 1), (2, 1), (2, 2)])
def test_an_export_shows_its_colours_everywhere(
    tmp_path: Path, tiled: Callable[..., TileStore], colours: str | tuple[int, int]
) -> None:
    rgb = {"subsampling": (1, 1), "compressionargs": {"outcolorspace": "rgb", "level": 90}}
    options = rgb if colours == "rgb" else {"subsampling": colours}
    path = write_pyramid(tmp_path / "a.tif", picture(600, 600), levels=1, **options)
    store = tiled(path, tmp_path / "out", assume_mpp=None, keep_background=True)
    out = tmp_path / "a.ome.tiff"
    summary = export_ome_tiff(OmeTiffOptions(store=store.path, out=out))
    assert summary.outcomes[0].facts["compression"][0] == "jpeg, copied"
    true = store.read_level(0).transpose(1, 2, 0).astype(int)
    with openslide.OpenSlide(out) as slide:
        shown = [np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]]
    shown += [tifffile.imread(out), pyvips.Image.new_from_file(str(out)).numpy()[..., :3]]
    for pixels in shown:
        assert np.abs(pixels.astype(int) - true).max() <= 1

"""What OpenSlide leaves transparent is background, never black "tissue"."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from making import picture

from wsi.slide import open_slide
from wsi.store.tile_store import TileStore
from wsi.units import Box

SIDE = 512
APERIO = "Aperio Image Library v11|AppMag = 20|MPP = 0.4990"


def write_holed_svs(path: Path) -> Path:
    """Write four tiles of 256 px of which the first was never written."""
    options = {"photometric": "rgb", "tile": (256, 256), "compression": "jpeg", "description": APERIO}
    tifffile.imwrite(path, picture(SIDE, SIDE), metadata=None, **options)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        counts = list(tiff.pages.first.databytecounts)
        tiff.pages.first.tags[325].overwrite([0, *counts[1:]])
    return path


def write_transparent(path: Path, alpha: int) -> Path:
    """Write RGBA whose first quarter is of that alpha, everything else opaque."""
    rgba = np.dstack([picture(SIDE, SIDE), np.full((SIDE, SIDE), 255, np.uint8)])
    rgba[:256, :256] = (100, 50, 150, alpha)
    options = {"photometric": "rgb", "tile": (256, 256), "compression": "adobe_deflate"}
    tifffile.imwrite(path, rgba, extrasamples=["unassalpha"], metadata=None, **options)
    return path


def test_tiles_that_were_never_written_are_white(tmp_path: Path) -> None:
    path = write_holed_svs(tmp_path / "a.svs")
    with openslide.OpenSlide(path) as handle:
        assert handle.read_region((0, 0), 0, (1, 1)).getpixel((0, 0)) == (0, 0, 0, 0)
    read = open_slide(path, "openslide").read(0, Box(0, 0, SIDE, SIDE))
    assert (read[:256, :256] == 255).all()
    with tifffile.TiffFile(path) as tiff:
        rest = tiff.pages.first.asarray()
    assert np.abs(read[256:].astype(int) - rest[256:]).max() <= 1
    np.testing.assert_array_equal(read[:256, :256], open_slide(path, "tiff").read(0, Box(0, 0, 256, 256)))


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_transparency_is_laid_on_white(tmp_path: Path, alpha: int) -> None:
    path = write_transparent(tmp_path / "a.tif", alpha)
    read = open_slide(path, "openslide").read(0, Box(0, 0, SIDE, SIDE))
    expected = np.array([100, 50, 150]) * alpha / 255 + 255 - alpha
    assert np.abs(read[:256, :256] - expected).max() <= 2
    np.testing.assert_array_equal(read[256:], picture(SIDE, SIDE)[256:])


def test_no_tile_of_a_store_is_black_where_the_slide_is_transparent(
    tmp_path: Path, tiled: Callable[..., TileStore]
) -> None:
    path = write_holed_svs(tmp_path / "a.svs")
    store = tiled(path, tmp_path / "out", reader="openslide", assume_mpp=None, keep_background=True)
    pixels = store.read_level(0).transpose(1, 2, 0)
    assert (pixels[:240, :240] == 255).all()

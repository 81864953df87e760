"""Colours against the pixels that were encoded: tag, codestream and codec in unlike combinations."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
import zarr
from making import picture, write_pyramid
from PIL import Image

import wsi.zarr_jpeg  # noqa: F401
from wsi.export.ome_tiff import export_ome_tiff
from wsi.export.options import OmeTiffOptions
from wsi.slide import open_slide
from wsi.store.layout import shard_key
from wsi.store.tile_store import TileStore
from wsi.units import Box


def test_jpeg_2000_of_other_writers_goes_by_the_tag(tmp_path: Path) -> None:
    pixels = picture(256, 256)
    options: dict[str, Any] = {"photometric": "rgb", "tile": (128, 128), "compression": 33003, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", pixels, compressionargs={"reversible": True, "mct": False}, **options)
    slide = open_slide(tmp_path / "a.tif", "tiff")
    np.testing.assert_array_equal(slide.read(0, Box(0, 0, 256, 256)), pixels)


def test_jfif_goes_before_a_tag_that_says_rgb(tmp_path: Path) -> None:
    pixels = picture(256, 256)
    data = bytes(imagecodecs.jpeg8_encode(pixels, 90, subsampling="444"))
    assert b"JFIF" in data[:32]
    options: dict[str, Any] = {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}, "compression": "jpeg"}
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
    shown += [tifffile.imread(out), *by_libvips(out)]
    for pixels in shown:
        assert np.abs(pixels.astype(int) - true).max() <= 1


def by_libvips(path: Path) -> list[np.ndarray]:
    """Return what libvips shows, nothing where it is not installed."""
    try:
        import pyvips
    except (ImportError, OSError):
        return []
    return [pyvips.Image.new_from_file(str(path)).numpy()[..., :3]]


def test_an_export_of_a_grey_slide_is_grey_everywhere(tmp_path: Path, tiled: Callable[..., TileStore]) -> None:
    grey = picture(600, 600)[..., 1].copy()
    options: dict[str, Any] = {"photometric": "minisblack", "compressionargs": {"level": 90}}
    path = write_pyramid(tmp_path / "a.tif", grey, levels=1, **options)
    store = tiled(path, tmp_path / "out", assume_mpp=None, keep_background=True)
    out = tmp_path / "a.ome.tiff"
    export_ome_tiff(OmeTiffOptions(store=store.path, out=out))
    true = np.repeat(tifffile.imread(path)[..., None], 3, axis=2).astype(int)
    with openslide.OpenSlide(out) as slide:
        shown = [np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]]
    for pixels in [*shown, tifffile.imread(out), *by_libvips(out), store.read_level(0).transpose(1, 2, 0)]:
        assert np.abs(pixels.astype(int) - true).max() <= 1


@pytest.mark.parametrize("codec", ["auto", "zstd"])
def test_jfif_tiles_that_are_tagged_rgb_are_copied_with_their_true_colours(
    tmp_path: Path, tiled: Callable[..., TileStore], codec: str
) -> None:
    pixels = picture(512, 512)
    tiles = [
        bytes(imagecodecs.jpeg8_encode(pixels[y : y + 256, x : x + 256], 90, subsampling="444"))
        for y in (0, 256)
        for x in (0, 256)
    ]
    options: dict[str, Any] = {"photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}, "compression": "jpeg"}
    options |= {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "metadata": None}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, iter(tiles), shape=(512, 512, 3), dtype=np.uint8, tile=(256, 256), **options)
    store = tiled(path, tmp_path / "out", assume_mpp=None, keep_background=True, codec=codec)
    assert store.codec_names[0] == ("jpeg" if codec == "auto" else codec)
    shown = zarr.open_group(store.path, mode="r")["0"][...].transpose(1, 2, 0)[:512, :512]
    for index, data in enumerate(tiles):
        y, x = index // 2 * 256, index % 2 * 256
        expected = imagecodecs.jpeg8_decode(data)
        np.testing.assert_array_equal(shown[y : y + 256, x : x + 256], expected)
    if codec == "auto":
        for (row, column), data in zip(((0, 0), (0, 1), (1, 0), (1, 1)), tiles, strict=True):
            side = store.grid.shard_tiles(0)
            (chunk,) = store.folder.chunks([(shard_key(0, 0, 0), row * side + column)], side**2)
            assert chunk is not None
            with Image.open(io.BytesIO(bytes(chunk))) as opened:
                assert opened.info["adobe_transform"] == 1
                np.testing.assert_allclose(np.asarray(opened), imagecodecs.jpeg8_decode(data), atol=2)

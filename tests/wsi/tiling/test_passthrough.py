"""JPEG tiles copied undecoded: the same pixels by every decoder."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from making import picture, write_deflate, write_pyramid
from PIL import Image

import wsi.zarr_jpeg  # noqa: F401
from wsi.pixels.jpeg_file import complete_jpeg
from wsi.readers.tiff.reader import TiffReader
from wsi.readers.tiles import DAMAGED_RGB
from wsi.slide import open_slide
from wsi.store.shards import ShardFile
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
from wsi.units import YX, Box

Tiled = Callable[..., TileStore]

COLOURS: dict[str, dict[str, Any]] = {
    "ycbcr 4:2:0": {"subsampling": (2, 2)},
    "ycbcr 4:4:4": {"subsampling": (1, 1)},
    "rgb": {"compressionargs": {"outcolorspace": "rgb", "level": 90}},
}


@pytest.mark.parametrize("colours", COLOURS)
def test_copied_tiles_decode_to_the_source_pixels(tmp_path: Path, tiled: Tiled, colours: str) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(1300, 1500), levels=3, **COLOURS[colours])
    store = tiled(path, tmp_path / "out", codec="auto", assume_mpp=None)
    slide = open_slide(path, "tiff")
    assert isinstance(slide, TiffReader)
    assert zarr.open_group(store.path, mode="r").attrs["gigamil"]["codecs"][:4] == ["jpeg"] * 4
    array = zarr.open_array(Path(store.path) / "0", mode="r")
    tiles = store.read_tiles(np.arange(store.n_tiles))
    shard = ShardFile(Path(store.path) / "0" / "c" / "0" / "0" / "0", 256)
    assert store.n_tiles > 4
    for (row, column), pixels in zip(store.tiles_yx.tolist(), tiles, strict=True):
        place = Box(row * 256, column * 256, min(1300, (row + 1) * 256), min(1500, (column + 1) * 256))
        true = slide.read(0, place).transpose(2, 0, 1)
        wanted = hashlib.sha256(np.ascontiguousarray(true).tobytes()).hexdigest()
        height, width = place.shape
        data = shard.chunk(row * 16 + column)
        assert data is not None
        with_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
        for found in (pixels, with_pillow, array[:, place.y0 : place.y1, place.x0 : place.x1]):
            cut = np.ascontiguousarray(found[:, :height, :width])
            assert hashlib.sha256(cut.tobytes()).hexdigest() == wanted
        assert b"JFIF" not in data
        assert len(data) < slide.stored_levels[0].byte_counts[row * 6 + column] + 1000


def test_levels_that_the_slide_lacks_are_made_from_the_copied_tiles(tmp_path: Path, tiled: Tiled) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(1300, 1500), levels=1)
    store = tiled(path, tmp_path / "out", codec="auto", assume_mpp=None)
    assert zarr.open_group(store.path, mode="r").attrs["gigamil"]["codecs"][:2] == ["jpeg", "jpeg"]
    finer, coarser = store.read_level(0).astype(float), store.read_level(1)
    mean = finer.reshape(3, 650, 2, 750, 2).mean((2, 4))
    difference = np.abs(mean - coarser)
    assert difference.mean() < 1
    assert np.percentile(difference, 99) <= 10


@pytest.mark.parametrize(("tile_px", "mpp"), [(224, 0.5), (256, 1.3)])
def test_what_does_not_fit_is_stored_without_loss(tmp_path: Path, tiled: Tiled, tile_px: int, mpp: float) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(1300, 1500), levels=1)
    store = tiled(path, tmp_path / "out", codec="auto", assume_mpp=None, tile_px=tile_px, target_mpp=mpp)
    assert set(zarr.open_group(store.path, mode="r").attrs["gigamil"]["codecs"]) == {"zstd"}


def test_jpeg_reencodes_what_cannot_be_copied(tmp_path: Path, tiled: Tiled) -> None:
    path = write_deflate(tmp_path / "a.tif", picture(900, 1200))
    lossless, small = tiled(path, tmp_path / "z"), tiled(path, tmp_path / "j", codec="jpeg")
    np.testing.assert_array_equal(small.tiles_yx, lossless.tiles_yx)
    indices = np.arange(small.n_tiles)
    difference = np.abs(small.read_tiles(indices).astype(int) - lossless.read_tiles(indices))
    assert difference.mean() < 4
    size = {
        s: sum(int(p.stat().st_size) for p in Path(s.path).glob("0/c/**/*") if p.is_file()) for s in (small, lossless)
    }
    assert size[small] < size[lossless] / 2
    np.testing.assert_array_equal(zarr.open_array(Path(small.path) / "2", mode="r")[:], small.read_level(2))


def spoil(path: Path, index: int, content: bytes | None = None) -> None:
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages.first.dataoffsets[index], tiff.pages.first.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content or b"\0" * count)


def test_a_damaged_tile_is_never_copied(tmp_path: Path, tiled: Tiled) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(1300, 1500), levels=3)
    whole = tiled(path, tmp_path / "whole", codec="auto", assume_mpp=None)
    row, column = whole.tiles_yx[2].tolist()
    spoil(path, row * 6 + column)
    failed = tile(TileOptions(slides=(path,), out=tmp_path / "fail", workers=0))
    assert failed.exit_code == 1
    assert f"tile {row * 6 + column} of level 0" in failed.outcomes[0].reason
    store = tiled(path, tmp_path / "skip", codec="auto", assume_mpp=None, on_damage="skip")
    assert [row, column] not in store.tiles_yx.tolist()
    assert zarr.open_array(Path(store.path) / "tiles" / "damaged", mode="r")[:].tolist() == [[row, column]]
    shown = store.read_level(0)[:, row * 256 : row * 256 + 256, column * 256 : column * 256 + 256]
    assert np.abs(shown.transpose(1, 2, 0).astype(int) - DAMAGED_RGB).max() <= 3


def test_a_jpeg_of_another_size_is_damage(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(600, 600), levels=1)
    other = bytes(imagecodecs.jpeg8_encode(np.zeros((64, 64, 3), np.uint8), 50))
    spoil(path, 1, other)
    tiles = open_slide(path, "tiff").tiles(0)
    assert tiles is not None
    with pytest.raises(ValueError, match="64 x 64"):
        tiles.file(1)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8abc\xff\xd9", b"II*\0\xff\xd9"])
def test_what_is_no_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="JPEG"):
        complete_jpeg(data, None, "YCBCR", YX(256, 256))

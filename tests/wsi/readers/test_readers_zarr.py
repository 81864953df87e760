"""OME-Zarr pictures as slides: 0.4 and 0.5, ours and others'."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from making import RGB, picture

from wsi.cohort.slides import find_jobs
from wsi.errors import RequestError, UnreadableSlideError
from wsi.readers.protocol import Slide
from wsi.readers.tiles import DAMAGED_RGB
from wsi.slide import open_slide
from wsi.store.tile_store import TileStore
from wsi.units import Box


def whole(slide: Slide, level: int = 0) -> RGB:
    return slide.read(level, Box(0, 0, *slide.levels[level].shape))


def write_zarr(
    path: Path, pixels: np.ndarray, axes: str, version: str = "0.5", unit: str | None = "micrometer"
) -> Path:
    """Write a two-level picture; ``pixels`` are (y, x, c) and are put into the order of ``axes``."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for level in range(2):
        shrunk = pixels[:: 2**level, :: 2**level]
        order = [("yxc").index(name) for name in axes if name in "yxc"]
        array = shrunk.transpose(order).reshape([1 if n in "tz" else shrunk.shape["yxc".index(n)] for n in axes])
        chunks = tuple({"t": 1, "z": 1, "c": 3}.get(name, 100) for name in axes)
        group.create_array(str(level), data=array, chunks=chunks)
        scale = [0.25 * 2**level if name in "yx" else 1.0 for name in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axis = {name: {"name": name} | ({"unit": unit} if unit and name in "yx" else {}) for name in axes}
    multiscale = {"version": version, "axes": [axis[name] for name in axes], "datasets": datasets}
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    else:
        group.attrs["multiscales"] = [multiscale]
    return path


@pytest.mark.parametrize("axes", ["cyx", "yxc", "tczyx"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_axes_and_versions(tmp_path: Path, axes: str, version: str) -> None:
    pixels = picture(230, 310)
    slide = open_slide(write_zarr(tmp_path / "a.zarr", pixels, axes, version), threads=2)
    assert (slide.reader, slide.format) == ("ome-zarr", f"ome-zarr {version}")
    assert [level.downsample for level in slide.levels] == [1, 2]
    assert slide.mpp_claims[0].mpp_yx == (0.25, 0.25)
    np.testing.assert_array_equal(whole(slide), pixels)
    np.testing.assert_array_equal(whole(slide, 1), pixels[::2, ::2])
    np.testing.assert_array_equal(slide.read(0, Box(90, 205, 330, 320))[:140, :105], pixels[90:, 205:])


def test_our_own_stores_can_be_read_again(small_store: TileStore) -> None:
    slide = open_slide(small_store.path)
    assert slide.levels[0].shape == small_store.shape_yx
    row, column = small_store.tiles_yx[len(small_store.tiles_yx) // 2]
    side = small_store.tile_px
    tile = small_store.read_tiles(np.array([len(small_store.tiles_yx) // 2]))[0]
    box = Box(int(row) * side, int(column) * side, (int(row) + 1) * side, (int(column) + 1) * side)
    np.testing.assert_array_equal(slide.read(0, box), tile.transpose(1, 2, 0))


def test_a_unit_that_is_not_said_is_no_resolution(tmp_path: Path) -> None:
    assert open_slide(write_zarr(tmp_path / "a.zarr", picture(100, 100), "cyx", unit=None)).mpp_claims == ()


def test_what_is_no_rgb_picture_is_refused(tmp_path: Path) -> None:
    wide = write_zarr(tmp_path / "wide.zarr", picture(100, 100).astype(np.uint16), "cyx")
    with pytest.raises(UnreadableSlideError, match="expected uint8 RGB"):
        open_slide(wide)
    stained = write_zarr(tmp_path / "stained.zarr", picture(100, 100), "cyx")
    group = zarr.open_group(stained)
    channels = [{"color": colour} for colour in ("0000FF", "00FF00", "FF0000")]
    group.attrs["ome"] = group.attrs["ome"] | {"omero": {"channels": channels}}
    with pytest.raises(UnreadableSlideError, match="expected red, green, blue"):
        open_slide(stained)
    zarr.open_group(tmp_path / "bare.zarr", mode="w")
    with pytest.raises(UnreadableSlideError, match="without OME multiscales"):
        open_slide(tmp_path / "bare.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnreadableSlideError, match="is a folder"):
        open_slide(tmp_path / "folder")


def test_a_damaged_chunk_is_named_and_never_background(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", picture(300, 300), "cyx")
    (path / "0/c/0/1/1").write_bytes(b"spoiled")
    damaged: list[Box] = []
    slide = open_slide(path)
    read = slide.read(0, Box(0, 0, 300, 300), damaged)
    assert damaged == [Box(100, 100, 200, 200)]
    assert (read[100:200, 100:200] == DAMAGED_RGB).all()


def test_folders_are_searched_for_zarr_slides_but_not_for_our_stores(tmp_path: Path, small_store: TileStore) -> None:
    write_zarr(tmp_path / "a.ome.zarr", picture(100, 100), "cyx")
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "b.zarr").symlink_to(small_store.path)
    assert [job.image_id for job in find_jobs([tmp_path], None)] == ["a"]
    named = find_jobs([tmp_path / "stores" / "b.zarr"], None)
    assert [job.image_id for job in named] == ["b"]
    with pytest.raises(RequestError, match="holds no slide"):
        find_jobs([tmp_path / "stores"], None)

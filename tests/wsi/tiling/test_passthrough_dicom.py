"""JPEG frames of a DICOM slide copied undecoded, or decoded at a part of their size, as a TIFF's tiles are."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr
from making import RGB, picture
from making_dicom import JPEG, JPEG_LS, SIDE, write_dicom
from PIL import Image
from pydicom.dataset import Dataset

from wsi.progress.outcome import Status
from wsi.readers.tiles import DAMAGED_RGB
from wsi.slide import open_slide
from wsi.store.options import VerifyOptions
from wsi.store.shards import ShardFile
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify
from wsi.tiling.options import TileOptions
from wsi.tiling.overview import overview_band, plan_overview
from wsi.tiling.tiler import tile
from wsi.units import Box

pytestmark = pytest.mark.filterwarnings("ignore")
Tiled = Callable[..., TileStore]
Coder = Callable[[RGB, str], bytes]


def jpeg_as(inside: str, subsampling: str) -> Coder:
    return lambda frame, _: bytes(
        imagecodecs.jpeg8_encode(frame, level=95, colorspace="RGB", outcolorspace=inside, subsampling=subsampling)
    )


COLOURS = {
    "YBR_FULL_422": ("YBR_FULL_422", jpeg_as("YCBCR", "422")),
    "YBR_FULL_422 of 4:2:0": ("YBR_FULL_422", jpeg_as("YCBCR", "420")),
    "YBR_FULL": ("YBR_FULL", jpeg_as("YCBCR", "444")),
    "RGB": ("RGB", jpeg_as("RGB", "444")),
    "RGB that JFIF contradicts": ("RGB", jpeg_as("YCBCR", "444")),
}


def slide_of(path: Path, colours: str = "YBR_FULL_422", pixels: RGB | None = None, **changes: Any) -> Path:
    photometric, coder = COLOURS[colours]
    pixels = picture(900, 1210) if pixels is None else pixels
    return write_dicom(path, pixels, JPEG, coder=coder, PhotometricInterpretation=photometric, **changes)


def is_whole(store: TileStore) -> bool:
    return verify(VerifyOptions(stores=(store.path,), threads=1)).outcomes[0].status is Status.DONE


@pytest.mark.parametrize("colours", COLOURS)
def test_copied_frames_decode_to_the_readers_pixels(tmp_path: Path, tiled: Tiled, colours: str) -> None:
    path = slide_of(tmp_path / "a.dcm", colours)
    store = tiled(path, tmp_path / "out", tile_px=SIDE, target_mpp=0.25)
    assert store.recipe["effect"]["copied"] == {"0": 0}
    assert set(zarr.open_group(store.path, mode="r").attrs["gigamil"]["codecs"]) == {"jpeg"}
    assert is_whole(store)
    slide = open_slide(path)
    shard = ShardFile(Path(store.path) / "0" / "c" / "0" / "0" / "0", 256)
    assert store.n_tiles > 20
    for index, (row, column) in enumerate(store.tiles_yx.tolist()):
        box = Box(row * SIDE, column * SIDE, (row + 1) * SIDE, (column + 1) * SIDE)
        true = slide.read(0, box)
        np.testing.assert_array_equal(store.read_tiles([index])[0].transpose(1, 2, 0), true)
        data = shard.chunk(row * 16 + column) if row < 16 and column < 16 else None
        if data is not None:
            inside = box.clipped(slide.levels[0].shape).shape
            with_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[: inside.y, : inside.x]
            np.testing.assert_array_equal(with_pillow, true[: inside.y, : inside.x])
            assert b"JFIF" not in data


def test_each_level_of_a_series_is_copied(tmp_path: Path, tiled: Tiled) -> None:
    pixels = picture(900, 1210)
    slide_of(tmp_path / "a.dcm", pixels=pixels)
    slide_of(tmp_path / "b.dcm", pixels=np.ascontiguousarray(pixels[::2, ::2]))
    store = tiled(tmp_path / "a.dcm", tmp_path / "out", tile_px=SIDE, target_mpp=0.25)
    assert store.recipe["effect"]["copied"] == {"0": 0, "1": 1}
    true = open_slide(tmp_path / "a.dcm").read(1, Box(128, 128, 192, 192))
    np.testing.assert_array_equal(store.read_level(1)[:, 128:192, 128:192].transpose(1, 2, 0), true)
    assert is_whole(store)


def grey(frame: RGB, _: str) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(frame[..., 1]), level=95))


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"tile_px": 32}, {}),
        ({"target_mpp": 0.4}, {}),
        ({"codec": "zstd"}, {}),
        ({}, {"coder": grey, "PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 1}),
        ({}, {"syntax": JPEG_LS, "PhotometricInterpretation": "RGB"}),
    ],
)
def test_what_does_not_fit_is_decoded(
    tmp_path: Path, tiled: Tiled, options: dict[str, object], changes: dict[str, object]
) -> None:
    path = write_dicom(tmp_path / "a.dcm", picture(600, 700), **({"syntax": JPEG} | changes))  # type: ignore[arg-type]
    store = tiled(path, tmp_path / "out", **({"tile_px": SIDE, "target_mpp": 0.25} | options))
    assert store.recipe["effect"]["copied"] == {}
    assert set(zarr.open_group(store.path, mode="r").attrs["gigamil"]["codecs"]) == {"zstd"}
    assert store.n_tiles


def test_a_place_without_a_frame_is_background(tmp_path: Path, tiled: Tiled) -> None:
    pixels = np.ascontiguousarray(picture(900, 1210)[:832, :1152])
    per_frame = []
    for row in range(13):
        for column in range(18):
            position, groups = Dataset(), Dataset()
            placed = 13 if (row, column) == (5, 5) else row  # the only one of its row, and a gap where it would be
            position.RowPositionInTotalImagePixelMatrix = placed * SIDE + 1
            position.ColumnPositionInTotalImagePixelMatrix = column * SIDE + 1
            groups.PlanePositionSlideSequence = [position]
            per_frame.append(groups)
    changes: dict[str, Any] = {
        "DimensionOrganizationType": "TILED_SPARSE",
        "PerFrameFunctionalGroupsSequence": per_frame,
    }
    path = slide_of(tmp_path / "a.dcm", pixels=pixels, TotalPixelMatrixRows=14 * SIDE, **changes)
    store = tiled(path, tmp_path / "out", tile_px=SIDE, target_mpp=0.25, keep_background=True)
    assert store.recipe["effect"]["copied"] == {"0": 0}
    place = np.s_[5 * SIDE : 6 * SIDE]
    assert (store.read_level(0)[:, place, place] == 255).all()
    assert is_whole(store)


def spoil_frame(path: Path) -> int:
    """Zero the frame in the middle of the slide; return its index."""
    data = path.read_bytes()
    starts = [i for i in range(len(data)) if data.startswith(b"\xff\xd8\xff", i)]
    index = 4 * 19 + 6
    assert len(starts) == 15 * 19
    stop = starts[index + 1] - 8
    path.write_bytes(data[: starts[index]] + bytes(stop - starts[index]) + data[stop:])
    return index


def test_a_damaged_frame_is_never_copied(tmp_path: Path, tiled: Tiled) -> None:
    path = slide_of(tmp_path / "a.dcm")
    index = spoil_frame(path)
    options = {"tile_px": SIDE, "target_mpp": 0.25}
    failed = tile(TileOptions(slides=(path,), out=tmp_path / "fail", workers=0, **options))  # type: ignore[arg-type]
    assert failed.exit_code == 1
    store = tiled(path, tmp_path / "skip", on_damage="skip", **options)
    row, column = divmod(index, 19)
    assert zarr.open_array(Path(store.path) / "tiles" / "damaged", mode="r")[:].tolist() == [[row, column]]
    assert [row, column] not in store.tiles_yx.tolist()
    shown = store.read_level(0)[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
    assert np.abs(shown.transpose(1, 2, 0).astype(int) - DAMAGED_RGB).max() <= 3


@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_frames_are_decoded_smaller_on_request(tmp_path: Path, tiled: Tiled, mpp: float) -> None:
    path = slide_of(tmp_path / "a.dcm", "YBR_FULL")
    area = tiled(path, tmp_path / "area", target_mpp=mpp, tile_px=SIDE)
    dct = tiled(path, tmp_path / "dct", target_mpp=mpp, tile_px=SIDE, downscale="dct")
    assert (area.provenance["downscale"], dct.provenance["downscale"]) == ("area", "dct")
    assert area.recipe["effect"]["jpeg_reduced"] == 1
    assert dct.recipe["effect"]["jpeg_reduced"] == round(mpp / 0.25)
    both = [(store.read_level(0)[:, 96:288, 96:288]).astype(int) for store in (area, dct)]
    assert 0 < np.abs(both[0] - both[1]).mean() < 3
    assert is_whole(dct)


def test_the_overview_of_frames_decoded_smaller_is_near_the_mean(tmp_path: Path) -> None:
    slide = open_slide(slide_of(tmp_path / "a.dcm", "YBR_FULL"))
    rgb = [overview_band(slide, plan_overview(slide, 0.5, by_tiles=by_tiles), 0)[0] for by_tiles in (True, False)]
    difference = np.abs(rgb[0].astype(int) - rgb[1])
    assert 0 < difference.mean() < 1.5


def test_frames_that_are_not_copied_give_the_overview_of_stores_made_before(tmp_path: Path, tiled: Tiled) -> None:
    """Whose recipe says nothing of it: the same settings give the same store."""
    path = slide_of(tmp_path / "a.dcm", "YBR_FULL")
    store = tiled(path, tmp_path / "out", tile_px=32, target_mpp=0.25)
    slide = open_slide(path)
    rgb, _ = overview_band(slide, plan_overview(slide, 0.25, by_tiles=False), 0)
    stored = np.asarray(zarr.open_array(Path(store.path) / "overview" / "0", mode="r")[...])
    np.testing.assert_array_equal(stored.transpose(1, 2, 0), rgb)


def test_a_slide_is_a_context_that_closes_it(tmp_path: Path) -> None:
    with open_slide(slide_of(tmp_path / "a.dcm")) as slide:
        assert slide.read(0, Box(0, 0, 8, 8)).shape == (8, 8, 3)
    with pytest.raises(OSError, match="Bad file descriptor"):
        slide.read(0, Box(800, 800, 832, 832))

"""The slide's colour profile: kept, told, applied, carried on."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from making import picture, write_deflate, write_pyramid
from PIL import Image, ImageCms

from wsi.errors import NotASlideError, StoreError
from wsi.export.ome_tiff import export_ome_tiff
from wsi.export.ome_zarr import export_ome_zarr
from wsi.export.options import OmeTiffOptions, OmeZarrOptions
from wsi.pixels.icc import checked_profile
from wsi.pixels.neutral_icc import neutral_profile
from wsi.qc.info import describe_all
from wsi.qc.options import InfoOptions
from wsi.slide import open_slide
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
from wsi.units import Box

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PIXELS = picture(512, 768)


def other_profile() -> bytes:
    """Return an RGB profile whose red and blue are swapped: nothing is taken for sRGB by mistake."""
    data = bytearray(SRGB)
    for at in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12):
        name = bytes(data[at : at + 4])
        if name in {b"rXYZ", b"bXYZ"}:
            data[at : at + 4] = b"bXYZ" if name == b"rXYZ" else b"rXYZ"
    return bytes(data)


OTHER = other_profile()


def converted(pixels: np.ndarray) -> np.ndarray:
    """Return what Pillow makes of it."""
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    source, target = (ImageCms.ImageCmsProfile(io.BytesIO(p)) for p in (OTHER, SRGB))
    image = ImageCms.profileToProfile(Image.fromarray(pixels), source, target, intent)
    assert image is not None
    return np.asarray(image)


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_pixels_are_taken_to_srgb_on_request_only(tmp_path: Path, reader: str) -> None:
    path = write_deflate(tmp_path / "a.tif", PIXELS, iccprofile=OTHER)
    box = Box(100, 100, 300, 400)
    plain, srgb = (open_slide(path, reader, srgb=wanted) for wanted in (False, True))
    assert plain.icc == srgb.icc == OTHER
    np.testing.assert_array_equal(plain.read(0, box), PIXELS[100:300, 100:400])
    wanted = converted(PIXELS)[100:300, 100:400]
    assert np.abs(srgb.read(0, box).astype(int) - wanted).max() <= 1
    assert np.abs(wanted.astype(int) - PIXELS[100:300, 100:400]).mean() > 5  # so that it is seen whether it was applied


@pytest.mark.parametrize("icc", [None, "srgb"])
def test_a_store_keeps_the_profile_and_an_export_carries_it(tmp_path: Path, icc: str | None) -> None:
    path = write_pyramid(tmp_path / "a.tif", PIXELS, levels=1, iccprofile=OTHER)
    options: dict[str, Any] = {"slides": (path,), "out": tmp_path / "s", "icc": icc, "workers": 0, "min_tissue": 0.0}
    tile(TileOptions(**options, keep_background=True, roi=None, reader="tiff"))
    store = TileStore(next((tmp_path / "s").glob("*.zarr")))
    assert store.icc_profile == OTHER
    assert store.recipe.get("icc") == icc
    assert store.codec_names[0] == ("zstd" if icc else "jpeg")
    chunk = np.empty((1, 3, 256, 256), np.uint8)
    store.read_chunks(0, np.array([[1, 1]]), chunk)
    plain = open_slide(path).read(0, Box(256, 256, 512, 512))
    np.testing.assert_array_equal(chunk[0].transpose(1, 2, 0), converted(plain) if icc else plain)
    export_ome_tiff(OmeTiffOptions(store=store.path, out=tmp_path / "b.ome.tif"))
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as tiff:
        assert tiff.pages.first.tags.valueof(34675) == (None if icc else neutral_profile(OTHER))
    assert open_slide(tmp_path / "b.ome.tif").icc == (b"" if icc else neutral_profile(OTHER))
    export_ome_zarr(OmeZarrOptions(store=store.path, out=tmp_path / "b.zarr"))
    beside = tmp_path / "b.zarr" / "OME" / "icc.icc"
    assert beside.read_bytes() == neutral_profile(OTHER) if not icc else not beside.exists()
    np.testing.assert_array_equal(
        open_slide(tmp_path / "b.zarr").read(0, Box(256, 256, 512, 512)), chunk[0].transpose(1, 2, 0)
    )
    (tmp_path / "s" / "a.zarr" / "icc.icc").write_bytes(SRGB)
    with pytest.raises(StoreError, match="ICC profile is missing or changed"):
        _ = store.icc_profile


def test_without_a_profile_nothing_is_asked_or_written(tmp_path: Path, deflate_slide: Path) -> None:
    slide = open_slide(deflate_slide, srgb=True)
    assert slide.icc == b""
    np.testing.assert_array_equal(
        slide.read(0, Box(0, 0, 99, 99)), open_slide(deflate_slide).read(0, Box(0, 0, 99, 99))
    )


def test_info_says_that_there_is_one(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", PIXELS, levels=1, iccprofile=SRGB)
    assert (
        f"ICC profile: sRGB built-in ({len(SRGB)} bytes), kept; --icc srgb applies it"
        in describe_all(InfoOptions(slides=(path,)))[0]["notes"]
    )


def test_a_profile_that_is_none_or_of_other_colours(tmp_path: Path) -> None:
    assert checked_profile(b"x" * 500) == checked_profile(None) == b""
    assert checked_profile(OTHER + b"\0") == OTHER
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    path = write_deflate(tmp_path / "a.tif", PIXELS, iccprofile=lab)
    assert open_slide(path).icc == lab
    with pytest.raises(NotASlideError, match=r"cannot be applied .*: leave out --icc srgb"):
        open_slide(path, srgb=True)

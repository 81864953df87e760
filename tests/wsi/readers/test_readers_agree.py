"""Readers: right pixels, compared with each other; what cannot be read right is refused in one line."""

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from making import RGB, picture, spoil_tile, write_deflate, write_pyramid

from wsi.errors import DamagedSlideError, GigamilError, RequestError, UnreadableSlideError
from wsi.readers.protocol import Slide
from wsi.readers.tiles import DAMAGED_RGB
from wsi.slide import open_slide
from wsi.units import Box


def whole(slide: Slide, level: int = 0) -> RGB:
    return slide.read(level, Box(0, 0, *slide.levels[level].shape))


def test_deflate_tiles_give_the_written_pixels(deflate_slide: Path, slide_pixels: RGB) -> None:
    slide = open_slide(deflate_slide)
    assert slide.reader == "tiff"
    np.testing.assert_array_equal(whole(slide), slide_pixels)


def test_both_readers_agree_on_jpeg(pyramid_slide: Path) -> None:
    ours, theirs = open_slide(pyramid_slide), open_slide(pyramid_slide, "openslide")
    assert [level.shape for level in ours.levels] == [level.shape for level in theirs.levels]
    assert [level.downsample for level in ours.levels] == [1, 2, 4]
    for level in range(3):
        difference = np.abs(whole(ours, level).astype(int) - whole(theirs, level))
        assert difference.max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw"},
        {"compression": "zstd"},
        {"compression": "adobe_deflate", "predictor": True},
        {"compression": None},
        {"compression": "adobe_deflate", "bigtiff": True},
        {"compression": "adobe_deflate", "byteorder": ">"},
        {"compression": "adobe_deflate", "rowsperstrip": 64, "tile": None},
        {"compression": None, "tile": None},
        {"compression": "lzw", "planarconfig": "separate"},
        {"compression": "webp", "compressionargs": {"lossless": True}},
    ],
    ids=lambda options: "-".join(f"{key}={value}" for key, value in options.items()),
)
def test_lossless_flavours(tmp_path: Path, options: dict[str, object]) -> None:
    pixels = picture(300, 421)
    stored = pixels.transpose(2, 0, 1) if options.get("planarconfig") else pixels
    settings = {"photometric": "rgb", "tile": (128, 128), "metadata": None} | options
    tifffile.imwrite(tmp_path / "a.tif", stored, **settings)
    np.testing.assert_array_equal(whole(open_slide(tmp_path / "a.tif", "tiff")), pixels)


def test_rgba_is_laid_on_white_and_never_black(tmp_path: Path) -> None:
    rgba = np.zeros((200, 200, 4), np.uint8)
    rgba[50:100, 50:100] = (200, 10, 20, 255)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(64, 64))
    pixels = whole(open_slide(tmp_path / "a.tif"))
    assert (pixels[:50] == 255).all()
    assert (pixels[50:100, 50:100] == (200, 10, 20)).all()


def test_sixteen_bits_are_scaled_and_said(tmp_path: Path) -> None:
    wide = (np.arange(64 * 64 * 3).reshape(64, 64, 3) * 5).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", wide, photometric="rgb", tile=(64, 64))
    slide = open_slide(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(slide), np.rint(wide / 257).astype(np.uint8))
    assert any("16-bit" in note for note in slide.notes)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    shown = picture(150, 230)
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.transpose(1, 0, 2),
        6: shown[:, ::-1].transpose(1, 0, 2),
        7: shown[::-1, ::-1].transpose(1, 0, 2),
        8: shown[::-1].transpose(1, 0, 2),
    }[orientation]
    extra = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", tile=(64, 64), extratags=extra, metadata=None)
    slide = open_slide(tmp_path / "a.tif")
    np.testing.assert_array_equal(whole(slide), shown)
    np.testing.assert_array_equal(slide.read(0, Box(20, 30, 70, 45)), shown[20:70, 30:45])


@pytest.mark.parametrize("kind", ["deflate", "jpeg"])
def test_a_damaged_tile_is_named_and_never_background(tmp_path: Path, kind: str) -> None:
    pixels = picture(700, 700)
    path = tmp_path / "a.tif"
    write_deflate(path, pixels, 256) if kind == "deflate" else write_pyramid(path, pixels, levels=1)
    spoil_tile(path, 4)
    slide = open_slide(path, "tiff")
    with pytest.raises(DamagedSlideError, match="tile 4"):
        whole(slide)
    damaged: list[Box] = []
    read = slide.read(0, Box(0, 0, 700, 700), damaged)
    assert damaged == [Box(256, 256, 512, 512)]
    assert (read[256:512, 256:512] == DAMAGED_RGB).all()
    assert not (read[:256] == DAMAGED_RGB).all(axis=2).any()


def test_openslide_goes_on_after_a_failed_read(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(700, 700), levels=1)
    good = open_slide(path, "openslide").read(0, Box(0, 0, 100, 100))
    spoil_tile(path, 4)
    slide = open_slide(path, "openslide")
    with pytest.raises(DamagedSlideError):
        slide.read(0, Box(300, 300, 400, 400))
    np.testing.assert_array_equal(slide.read(0, Box(0, 0, 100, 100)), good)


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(700, 700))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.97)])
    try:
        missing = open_slide(path, "tiff").missing
    except UnreadableSlideError as error:
        missing = str(error)
    assert "cut short" in missing or "past the end" in missing or "TIFF" in missing


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.svs", b"", "empty"),
        ("text.svs", b"just some text, no slide at all", "not a TIFF file"),
        ("lfs.svs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        ("ifd.tif", b"II*\0\x08\0\0\0\0\0\0\0", "expected one RGB"),
        ("a.svs", b"\x89PNG\r\n\x1a\n", r"a\.svs is a PNG picture: expected a slide; write it as a tiled TIFF"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "is a JPEG picture"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n", "is a JP2 picture"),
        ("far.tif", b"II*\0\xff\xff\xff\x7f", "TIFF"),
    ],
)
def test_what_is_no_slide_is_refused(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableSlideError, match=expected) as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)


def test_float_samples_are_refused_and_stacks_are_scenes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((64, 64), np.float32), tile=(32, 32))
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 64, 64, 3), np.uint8), photometric="rgb", tile=(32, 32))
    with pytest.raises(UnreadableSlideError, match="expected"):
        open_slide(tmp_path / "float.tif", "tiff")
    stack = open_slide(tmp_path / "stack.tif", "tiff")
    assert len(stack.scenes) == 5
    assert any("of 5 is read" in note for note in stack.notes)


def test_an_unknown_reader_is_a_wrong_request(deflate_slide: Path) -> None:
    with pytest.raises(RequestError, match="expected one of tiff, ndpi, mirax, openslide"):
        open_slide(deflate_slide, "vips")


def test_every_real_slide_opens_or_says_why(real_slides: Path) -> None:
    files = [p for p in sorted(real_slides.rglob("*")) if p.is_file() and p.suffix not in {".md", ".png"}]
    opened, reasons = {}, []
    for path in files:
        try:
            slide = open_slide(path)
        except GigamilError as error:
            reasons.append(str(error))
            continue
        opened[path.name] = slide.reader
        slide.close()
    assert all(reason and "\n" not in reason for reason in reasons)
    assert opened["CMU-1-Small-Region.svs"] == "tiff"
    assert opened["test3-DAPI-2-(387).ndpi"] == "ndpi"
    assert opened["cmu_truncated_99pct.svs"] == "tiff"
    assert not {"broken.svs", "unreadable.svs", "zero_byte.svs", "libtiff_segfault.tif"} & set(opened)


def test_what_openslide_calls_transparent_is_white(tmp_path: Path) -> None:
    """A tile that the scanner did not write."""
    pixels = picture(128, 192)
    about = "Aperio Image Library v10.2.41\r\n192x128 [0,0 192x128] (64x64) |AppMag = 20|MPP = 0.4990"
    path = tmp_path / "a.svs"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), description=about, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        tag.overwrite([0 if place == 4 else count for place, count in enumerate(tag.value)])
    with openslide.OpenSlide(path) as slide:
        theirs = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
    assert (theirs[64:, 64:128] == 0).all()
    pixels[64:, 64:128] = 255
    for reader in ("openslide", "tiff"):
        np.testing.assert_array_equal(whole(open_slide(path, reader)), pixels)

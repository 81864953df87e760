"""The table of colours, cell by cell: each picture is written in a known way and must come back as it was.

JPEG: what the data are, which markers say so, what the container's tag says. JPEG 2000: what the components are,
whether the codestream transforms or subsamples them, what the container's tag and compression say.
"""

from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
from colour_cells import J2K_CELLS, JPEG_CELLS, LOSS, SIDE, apart, j2k, jpeg, read, smooth, to_ycbcr, write_tiff
from making import picture

from wsi.pixels.colour import ycbcr_to_rgb
from wsi.pixels.jpeg import jpeg_header
from wsi.slide import open_slide
from wsi.units import YX


@pytest.mark.parametrize(("inside", "subsampling", "marker", "tag"), JPEG_CELLS)
@pytest.mark.parametrize("compression", [7, 33007])
def test_jpeg(tmp_path: Path, inside: str, subsampling: str, marker: str, tag: str, compression: int) -> None:
    path = write_tiff(tmp_path / "a.tif", jpeg(inside, subsampling, marker), compression, tag)
    assert apart(read(path), smooth()) < LOSS


@pytest.mark.parametrize(("inside", "subsampling", "marker", "tag"), JPEG_CELLS)
def test_a_copied_jpeg_says_its_colours_to_every_decoder(
    tmp_path: Path, inside: str, subsampling: str, marker: str, tag: str
) -> None:
    from PIL import Image

    from wsi.pixels.jpeg_file import complete_jpeg

    whole = complete_jpeg(jpeg(inside, subsampling, marker), None, tag, YX(SIDE, SIDE))
    assert jpeg_header(whole).adobe == (1 if inside == "YCBCR" else 0)
    (tmp_path / "a.jpg").write_bytes(whole)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert apart(np.asarray(picture.convert("RGB")), smooth()) < LOSS
    assert apart(imagecodecs.jpeg8_decode(whole), smooth()) < LOSS


@pytest.mark.parametrize(("form", "compression", "tag"), J2K_CELLS)
def test_jpeg2000(tmp_path: Path, form: str, compression: int, tag: str) -> None:
    path = write_tiff(tmp_path / "a.tif", j2k(form), compression, tag)
    assert apart(read(path), smooth()) < LOSS


@pytest.mark.parametrize("inside", ["YCBCR", "RGB"])
@pytest.mark.parametrize("software", ["", "other"])
def test_what_libvips_tags_as_rgb_is_told_by_how_it_looks(tmp_path: Path, inside: str, software: str) -> None:
    """libvips, up to 8.14 at least, tags its YCbCr as RGB, and writes no name of its own; others put RGB there."""
    shown = picture(64, 64)
    stored = to_ycbcr(shown) if inside == "YCBCR" else shown
    tile = bytes(imagecodecs.jpeg2k_encode(stored, level=0, mct=True, codecformat="j2k"))
    path = write_tiff(tmp_path / "a.tif", tile, 33004, "RGB", software=software)
    converted = inside == "YCBCR" and not software
    wanted = shown if converted or inside == "RGB" else to_ycbcr(shown)
    assert apart(read(path), wanted) < LOSS
    assert any("looks like YCbCr" in note for note in open_slide(path).notes) is converted


APERIO = "Aperio Image Library v10.2.41\r\n64x64 [0,0 64x64] (64x64) J2K/YUV16 Q=30|AppMag = 20|MPP = 0.4990"


@pytest.mark.parametrize(("form", "compression"), [("ycc", 33003), ("422", 33003), ("rgb", 33005), ("plain", 33005)])
def test_the_scanners_own_files_look_as_openslide_shows_them(tmp_path: Path, form: str, compression: int) -> None:
    tag = "YCBCR" if compression == 33003 else "RGB"
    for number, own in enumerate((tag, "RGB")):  # Aperio's software writes the tag RGB for both
        path = write_tiff(tmp_path / f"{number}.svs", j2k(form), compression, own, description=APERIO, metadata=None)
        with openslide.OpenSlide(path) as slide:
            assert slide.properties["openslide.vendor"] == "aperio"
            theirs = np.asarray(slide.read_region((0, 0), 0, (SIDE, SIDE)).convert("RGB"))
        assert np.abs(read(path).astype(int) - theirs.astype(int)).max() <= 2
        assert apart(read(path), smooth()) < LOSS


def test_the_conversion_is_that_of_libjpeg() -> None:
    rng = np.random.default_rng(0)
    ycbcr = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    expected = imagecodecs.jpeg8_decode(
        imagecodecs.jpeg8_encode(ycbcr, 100, colorspace="YCBCR", outcolorspace="YCBCR", subsampling="444"),
        colorspace="YCBCR",
        outcolorspace="RGB",
    )
    assert apart(ycbcr_to_rgb(ycbcr), expected) < LOSS

"""Single samples through the table of colours, each worked out by hand or by exact fractions."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
from colour_cells import to_ycbcr
from skimage.color import ycbcr2rgb

from wsi.pixels.colour import (
    cmyk_to_rgb,
    eight_bits,
    grey_to_rgb,
    jpeg2000_space,
    jpeg_codec_spaces,
    jpeg_space,
    looks_ycbcr,
    rgba_to_rgb,
    ycbcr_to_rgb,
)
from wsi.pixels.jpeg import JpegHeader
from wsi.pixels.jpeg2000 import Jpeg2000Header
from wsi.units import YX

ONE, TWO = YX(1, 1), YX(2, 2)


def jpeg(ids: bytes = b"\1\2\3", *, chroma: YX = ONE, jfif: bool = False, adobe: int | None = None) -> JpegHeader:
    sampling = (chroma, *[ONE] * (len(ids) - 1))
    return JpegHeader(0xC0, 8, YX(8, 8), ids, sampling, 1, len(ids), jfif=jfif, adobe=adobe)


@pytest.mark.parametrize(
    ("header", "tag", "space"),
    [
        (jpeg(jfif=True, adobe=0), "RGB", "YCBCR"),
        (jpeg(b"RGB", jfif=True), "RGB", "YCBCR"),
        (jpeg(b"RGB", adobe=1), "RGB", "YCBCR"),
        (jpeg(adobe=2), "RGB", "YCBCR"),
        (jpeg(adobe=0, chroma=TWO), "YCBCR", "RGB"),
        (jpeg(adobe=3), "RGB", "RGB"),  # unknown: as if it were not there
        (jpeg(b"RGB", chroma=TWO), "YCBCR", "RGB"),
        (jpeg(chroma=TWO), "RGB", "YCBCR"),
        (jpeg(), "RGB", "RGB"),
        (jpeg(), "YCBCR", "YCBCR"),
        (jpeg(), None, "YCBCR"),
    ],
)
def test_what_a_jpeg_says_goes_before_what_is_said_of_it(header: JpegHeader, tag: str | None, space: str) -> None:
    assert jpeg_space(header, tag) == space
    if tag is not None:
        assert jpeg_codec_spaces(header, tag) == (space, "RGB")


def test_grey_and_cmyk_are_left_to_the_codec() -> None:
    assert jpeg_codec_spaces(jpeg(b"\1"), "MINISBLACK") == (None, None)
    assert jpeg_codec_spaces(jpeg(b"\1\2\3\4"), "SEPARATED") == (None, "CMYK")
    assert jpeg_codec_spaces(jpeg(b"\1\2\3\4"), "RGB") == (None, None)
    assert jpeg_codec_spaces(jpeg(b"\1\2"), "SEPARATED") == (None, None)


@pytest.mark.parametrize(
    ("subsampled", "enumerated", "transform", "compression", "tag", "space"),
    [
        (True, None, False, 33003, "YCBCR", "RGB"),
        (True, 24, False, None, "YCBCR", "RGB"),
        (False, 18, False, 33003, "YCBCR", "RGB"),
        (False, 16, False, 33003, "YCBCR", "RGB"),
        (False, 24, False, 33005, "RGB", "YCBCR"),
        (False, 17, False, None, "RGB", "RGB"),
        (False, None, True, 33003, "RGB", "YCBCR"),
        (False, None, False, 33005, "YCBCR", "RGB"),
        (False, None, False, None, "YCBCR", "YCBCR"),
        (False, None, True, None, "YCBCR", "RGB"),
        (False, None, False, 34712, "RGB", "RGB"),
    ],
)
def test_what_the_codec_hands_over_of_jpeg_2000(
    subsampled: bool, enumerated: int | None, transform: bool, compression: int | None, tag: str, space: str
) -> None:
    sampling = (ONE, TWO if subsampled else ONE, ONE)
    header = Jpeg2000Header(YX(8, 8), 8, sampling, transform, enumerated, 1, 0, 0)
    assert jpeg2000_space(header, tag, compression) == space


def test_ink_takes_light_away() -> None:
    inks = np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [100, 0, 255, 55], [1, 2, 3, 4]], np.uint8)
    # (255 - ink) * (255 - black) / 255, down
    expected = [[255, 255, 255], [0, 255, 255], [0, 0, 0], [121, 200, 0], [250, 249, 248]]
    assert cmyk_to_rgb(inks).tolist() == expected


def test_grey_and_transparent_samples() -> None:
    grey = np.array([[7, 99]], np.uint8)  # the second is no colour
    assert grey_to_rgb(grey, inverted=False).tolist() == [[7, 7, 7]]
    assert grey_to_rgb(grey, inverted=True).tolist() == [[248, 248, 248]]
    clear = np.array([[0, 0, 0, 0], [100, 50, 0, 51], [200, 10, 20, 255]], np.uint8)
    assert rgba_to_rgb(clear, "straight").tolist() == [[255, 255, 255], [224, 214, 204], [200, 10, 20]]
    assert rgba_to_rgb(clear, "premultiplied").tolist() == [[255, 255, 255], [255, 254, 204], [200, 10, 20]]
    np.testing.assert_array_equal(rgba_to_rgb(clear, "none"), clear[:, :3])
    # No colour is above the alpha that it was multiplied by: one that is shows that there is none.
    np.testing.assert_array_equal(rgba_to_rgb(clear, "unspecified"), clear[:, :3])
    possible = np.array([[0, 0, 0, 0], [51, 50, 0, 51], [200, 10, 20, 255]], np.uint8)
    assert rgba_to_rgb(possible, "unspecified").tolist() == [[255, 255, 255], [255, 254, 204], [200, 10, 20]]


def test_luma_and_chroma_are_told_from_red_green_and_blue() -> None:
    rng = np.random.default_rng(0)
    shade = cv2.GaussianBlur(rng.normal(size=(64, 64)), (0, 0), 1.5)[..., None]
    stained = np.clip(np.array([150, 107, 144]) + 200 * shade * [1, 1.2, 0.9], 0, 255).astype(np.uint8)
    assert not looks_ycbcr(stained)
    assert looks_ycbcr(to_ycbcr(stained))
    assert not looks_ycbcr(stained // 3)  # not around the middle
    y, x = np.mgrid[:64, :64]
    assert not looks_ycbcr(np.stack([80 + 2 * x, 200 - 2 * y, 90 + x + y], -1).clip(0, 255).astype(np.uint8))
    assert not looks_ycbcr(np.full((64, 64, 3), 128, np.uint8))


def test_luma_and_chroma_against_the_studio_range_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    full = rng.integers(0, 256, (50, 50, 3)).astype(np.uint8)
    studio = np.stack(
        [16 + full[..., 0] * (219 / 255), *(128 + (full[..., c] - 128.0) * (224 / 255) for c in (1, 2))], -1
    )
    theirs = np.clip(255 * ycbcr2rgb(studio), 0, 255)
    np.testing.assert_allclose(ycbcr_to_rgb(full), theirs, atol=0.6)


@pytest.mark.parametrize("bits", [9, 10, 12, 16])
def test_wide_samples_are_scaled_to_the_nearest(bits: int) -> None:
    most = 2**bits - 1
    samples = np.unique(np.linspace(0, most, 4001).astype(np.uint16))
    expected = [int(Fraction(int(value) * 255, most) + Fraction(1, 2)) for value in samples]
    assert eight_bits(samples, bits).tolist() == expected
    if bits < 16:
        assert eight_bits(np.array([most + 1, 65535], np.uint16), bits).tolist() == [255, 255]
    else:
        assert eight_bits(samples).tolist() == expected
    same = np.array([0, 77, 255], np.uint8)
    assert eight_bits(same, bits).tolist() == [0, 77, 255]

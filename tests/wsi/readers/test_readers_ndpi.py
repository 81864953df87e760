"""NDPI, read directly: the pixels of OpenSlide and of the whole JPEG; what is not told right is left to OpenSlide."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
from making import RGB, picture
from making_ndpi import NdpiPage, halved, interval_starts, joined, write_ndpi
from PIL import Image

from wsi.errors import DamagedSlideError, UnreadableSlideError
from wsi.readers.contract import check_reader, whole
from wsi.readers.ndpi.reader import NdpiReader, open_with_ndpi
from wsi.readers.tiles import DAMAGED_RGB
from wsi.slide import open_slide
from wsi.store.tile_store import TileStore
from wsi.units import YX, Box

PIXELS = picture(576, 1664)


def levels(**options: object) -> list[NdpiPage]:
    """Return three levels: two in restart intervals of 416 and 208 px, and one without."""
    half = halved(PIXELS)
    return [
        NdpiPage(PIXELS, 416, **options),  # type: ignore[arg-type]
        NdpiPage(half[:, :], 208, lens=10.0, mpp=1.0, **options),  # type: ignore[arg-type]
        NdpiPage(halved(half), None, lens=5.0, mpp=2.0, **options),  # type: ignore[arg-type]
    ]


def by_openslide(path: Path, shape: YX) -> RGB:
    with openslide.OpenSlide(path) as slide:
        level = slide.level_dimensions.index((shape.x, shape.y))
        return np.asarray(slide.read_region((0, 0), level, (shape.x, shape.y)))[..., :3]


def test_every_level_is_what_openslide_reads(tmp_path: Path) -> None:
    path = write_ndpi(tmp_path / "a.ndpi", levels())
    slide, theirs = open_slide(path), open_slide(path, "openslide")
    assert (slide.reader, slide.format) == ("ndpi", theirs.format)
    assert slide.mpp_claims == theirs.mpp_claims
    assert slide.mpp_claims[0].mpp_yx == pytest.approx((0.5, 0.5))
    assert slide.objective_power == theirs.objective_power == 20
    assert [level.shape for level in slide.levels] == [YX(576, 1664), YX(288, 832), YX(144, 416)]
    assert [level.downsample for level in slide.levels] == [1, 2, 4]
    for number, level in enumerate(slide.levels):
        np.testing.assert_array_equal(whole(slide, number), by_openslide(path, level.shape))


@pytest.mark.parametrize("subsampling", ["4:2:2", "4:2:0"])
def test_subsampled_pixels_are_those_of_the_whole_jpeg(tmp_path: Path, subsampling: str) -> None:
    """Chroma is interpolated over the intervals' borders, as in the JPEG that was written, but not over tiles'."""
    pages = levels(subsampling=subsampling)[:1]
    slide = NdpiReader(write_ndpi(tmp_path / "a.ndpi", pages))
    assert slide.levels[0].tile == YX(256, 832)
    off = np.abs(whole(slide).astype(int) - imagecodecs.jpeg8_decode(pages[0].encoded())).max(axis=2)
    rows, columns = np.nonzero(off)
    near = np.isin(rows % 256, (0, 255)) | np.isin(columns % 832, (0, 831))
    assert near.all()
    assert off.max() < 40


def test_a_slide_wider_than_a_jpeg_can_say(tmp_path: Path) -> None:
    """Three stripes of 22,016 px: the frame of such a JPEG says nothing of its size."""
    pixels = np.repeat(picture(8, 4128, seed=3), 16, axis=1)
    thirds = np.split(pixels, 3, axis=1)
    jpeg = joined([NdpiPage(np.ascontiguousarray(third)).encoded() for third in thirds])
    path = write_ndpi(tmp_path / "a.ndpi", [NdpiPage(pixels, jpeg=jpeg)])
    slide = open_slide(path)
    assert slide.levels[0].shape == YX(8, 66_048)
    with openslide.OpenSlide(path) as theirs:
        assert theirs.dimensions == (66_048, 8)
        for x in (0, 21_900, 65_848):
            wanted = np.asarray(theirs.read_region((x, 0), 0, (200, 8)))[..., :3]
            np.testing.assert_array_equal(slide.read(0, Box(0, x, 8, x + 200)), wanted)


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    check_reader(open_with_ndpi, write_ndpi(tmp_path / "a.ndpi", levels(subsampling="4:2:0")))
    check_reader(open_with_ndpi, write_ndpi(tmp_path / "b.ndpi", levels()))


def test_its_tiles_are_whole_jpegs(tmp_path: Path) -> None:
    slide = open_slide(write_ndpi(tmp_path / "a.ndpi", levels()))
    tiles = slide.tiles(0)
    assert tiles is not None
    assert (tiles.cut.tile, tiles.cut.grid) == (YX(256, 832), YX(3, 2))
    for index in range(6):
        decoded = np.asarray(Image.open(io.BytesIO(tiles.file(index))).convert("RGB"))
        inside = tiles.cut.place(index).clipped(slide.levels[0].shape)
        np.testing.assert_array_equal(decoded[: inside.shape.y, : inside.shape.x], slide.read(0, inside))
        small = tiles.reduced(index, 8)
        assert small is not None
        means = decoded.reshape(32, 8, 104, 8, 3).mean((1, 3))
        assert np.abs(means - small).max() <= 3


def test_other_focal_planes_are_left_out(tmp_path: Path) -> None:
    first, second, third = levels()
    others = [replace(first, focal_plane=plane, pixels=255 - PIXELS) for plane in (-4, 4)]
    path = write_ndpi(tmp_path / "a.ndpi", [others[0], first, others[1], second, third])
    slide = open_slide(path)
    assert slide.reader == "ndpi"
    assert slide.notes == ("2 focal planes beside the middle one are ignored",)
    np.testing.assert_array_equal(whole(slide), by_openslide(path, slide.levels[0].shape))


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        (levels(listed=False), "not listed"),
        ([replace(levels()[0], pixels=PIXELS[:572])], "not listed|broken"),
        (levels()[::-1], "order of their size"),
        ([replace(page, focal_plane=4) for page in levels()], "no picture of the slide"),
    ],
    ids=["not listed", "odd height", "order", "planes"],
)
def test_what_is_not_told_right_is_left_to_openslide(tmp_path: Path, pages: list[NdpiPage], told: str) -> None:
    path = write_ndpi(tmp_path / "a.ndpi", pages)
    with pytest.raises(UnreadableSlideError, match=told):
        NdpiReader(path)
    if told == "not listed":
        slide = open_slide(path)
        assert slide.reader == "openslide"
        assert "ndpi: restart intervals that are not listed" in slide.chosen_because
        np.testing.assert_array_equal(whole(slide), by_openslide(path, slide.levels[0].shape))


def spoiled(path: Path, jpeg: bytes, first: int, content: bytes) -> Path:
    data = path.read_bytes()
    place = data.index(jpeg[:2000]) + interval_starts(jpeg)[first]
    path.write_bytes(data[:place] + content + data[place + len(content) :])
    return path


@pytest.mark.parametrize("what", ["zeros", "marker"])
def test_a_broken_stripe_is_damage_of_its_tile_alone(tmp_path: Path, what: str) -> None:
    pages = levels()
    jpeg = pages[0].encoded()
    starts = interval_starts(jpeg)
    length = starts[6] - starts[5]
    content = bytes(length) if what == "zeros" else jpeg[starts[5] : starts[6] - 2] + b"\xff\xd0"
    path = spoiled(write_ndpi(tmp_path / "a.ndpi", pages), jpeg, 5, content)
    slide, damaged = open_slide(path), []  # type: ignore[var-annotated]
    pixels = slide.read(0, Box(0, 0, 576, 1664), damaged)
    assert damaged == [Box(0, 0, 256, 832)]  # stripe 5 is the second one of the second row
    assert (pixels[:256, :832] == DAMAGED_RGB).all()
    clean = write_ndpi(tmp_path / "b.ndpi", pages)
    np.testing.assert_array_equal(pixels[:, 832:], whole(open_slide(clean))[:, 832:])
    with pytest.raises(DamagedSlideError, match=r"tile 0 of level 0 .* \(EOFError: stripe 5 does not end"):
        slide.read(0, Box(0, 0, 10, 10))


def test_a_file_that_is_cut_short_is_told(tmp_path: Path) -> None:
    pages = levels()[:1]
    path = write_ndpi(tmp_path / "a.ndpi", [pages[0], pages[0]])
    data = path.read_bytes()
    second = data.rindex(pages[0].encoded()[:200])
    path.write_bytes(data[: second + 3000])
    slide = open_slide(path)
    assert slide.missing.startswith("the file is cut short: a directory is declared at byte")
    np.testing.assert_array_equal(whole(slide), imagecodecs.jpeg8_decode(pages[0].encoded()))
    path.write_bytes(data[:5000])
    with pytest.raises(UnreadableSlideError) as told:
        open_slide(path)
    assert "\n" not in str(told.value)


def test_tiling_gives_the_pixels_that_openslide_gives(tmp_path: Path, tiled: Callable[..., TileStore]) -> None:
    path = write_ndpi(tmp_path / "a.ndpi", levels())
    ours, theirs = tiled(path, tmp_path / "a"), tiled(path, tmp_path / "b", reader="openslide")
    assert ours.provenance["reader"] == "ndpi"
    assert ours.n_tiles
    np.testing.assert_array_equal(ours.tiles_yx, theirs.tiles_yx)
    indices = np.arange(ours.n_tiles)
    np.testing.assert_array_equal(ours.read_tiles(indices), theirs.read_tiles(indices))


def test_on_a_real_slide(real_slides: Path) -> None:
    path = real_slides / "test3-DAPI-2-(387).ndpi"
    slide = open_slide(path)
    assert slide.reader == "ndpi"
    for number, level in list(enumerate(slide.levels))[1:]:
        np.testing.assert_array_equal(whole(slide, number), by_openslide(path, level.shape))

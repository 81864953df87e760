"""Olympus VSI: made files, as Bio-Formats and slideio read them too, and the tags of a real one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import picture
from making_vsi import JPEG, JPEG_2000, PNG, RAW, SIDE, Picture, halves, write_vsi

from wsi.cohort.fingerprint import fingerprint, slide_files
from wsi.cohort.slides import find_jobs
from wsi.errors import DamagedSlideError, NotASlideError, UnreadableSlideError
from wsi.pixels.colour import eight_bits
from wsi.readers.contract import check_reader, whole
from wsi.readers.tiles import DAMAGED_RGB
from wsi.readers.vsi.reader import open_with_vsi
from wsi.readers.vsi.tags import Stack, read_fields, stacks
from wsi.sharing.phi.slides import values_of_slides
from wsi.slide import open_slide
from wsi.units import YX, Box

PIXELS = picture(300, 421)
PIXELS[:90] = (200, 30, 60)


def slide_of(tmp_path: Path, **changes: Any) -> Path:
    return write_vsi(tmp_path / "a.vsi", [replace(Picture(halves(PIXELS)), **changes)])


def ets_of(path: Path) -> Path:
    return next(path.with_name(f"_{path.stem}_").rglob("*.ets"))


def test_the_contract_is_kept(tmp_path: Path) -> None:
    check_reader(open_with_vsi, slide_of(tmp_path, compression=JPEG_2000), PIXELS)


def test_jpeg_tiles_keep_it_and_can_be_copied(tmp_path: Path) -> None:
    path = slide_of(tmp_path, compression=JPEG)
    check_reader(open_with_vsi, path)
    with open_slide(path, threads=2) as slide:
        assert np.abs(whole(slide).astype(int) - PIXELS).mean() < 1
        tiles = slide.tiles(0)
        assert tiles is not None
        assert tiles.jpeg is not None
        assert tiles.file(0)[:2] == b"\xff\xd8"
        assert (slide.reader, slide.objective_power, slide.mpp_claims[0].mpp_yx) == ("vsi", 20, (0.25, 0.25))
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        assert "tested on made files only" in slide.notes[0]


@pytest.mark.parametrize("compression", [RAW, JPEG_2000])
@pytest.mark.parametrize("kind", ["colour", "colour of 16 bits", "grey", "grey of 16 bits", "blue first"])
def test_what_was_written_is_read(tmp_path: Path, kind: str, compression: int) -> None:
    levels: list[Any] = [level[..., 0] if "grey" in kind else level for level in halves(PIXELS)]
    levels = [level.astype(np.uint16) * 250 if "16" in kind else level for level in levels]
    blue_first = kind == "blue first" and compression == RAW  # of codecs the order is their own
    with open_slide(slide_of(tmp_path, levels=levels, compression=compression, blue_first=blue_first)) as slide:
        for number, level in enumerate(levels):
            expected = eight_bits(level)
            expected = np.repeat(expected[..., None], 3, axis=-1) if "grey" in kind else expected
            np.testing.assert_array_equal(whole(slide, number), expected)
        assert any("16-bit samples scaled" in note for note in slide.notes) == ("16" in kind)


def test_label_and_overview_are_no_scenes_and_the_largest_is_taken(tmp_path: Path) -> None:
    small = picture(130, 140, seed=4)
    path = write_vsi(
        tmp_path / "a.vsi",
        [
            Picture(halves(picture(500, 600, seed=1), 1), "Label", RAW),
            Picture(halves(picture(510, 600, seed=2), 1), "whole", RAW, kind=1),
            Picture(halves(PIXELS), "20x_01", RAW, mpp=0.3),
            Picture(halves(small, 1), "40x_01", RAW, mpp=0.16, power=40),
        ],
    )
    with open_slide(path) as slide, open_slide(path, scene=3) as other:
        assert [(s.index, s.name) for s in slide.scenes] == [(2, "20x_01"), (3, "40x_01")]
        np.testing.assert_array_equal(whole(slide), PIXELS)
        assert slide.mpp_claims[0].mpp_yx == (0.3, 0.3)
        np.testing.assert_array_equal(whole(other), small)
        assert (other.mpp_claims[0].mpp_yx, other.objective_power) == ((0.16, 0.16), 40)
    with pytest.raises(NotASlideError, match="--scene 0: the file has no such scene, only 2, 3"):
        open_slide(path, scene=0)


def test_tiles_that_are_not_there(tmp_path: Path) -> None:
    absent = frozenset({(0, 1, 1), (1, 0, 1)})
    with open_slide(slide_of(tmp_path, compression=RAW, absent=absent)) as slide:
        assert (whole(slide)[SIDE : 2 * SIDE, SIDE : 2 * SIDE] == 255).all()
        assert "1 of 35 tiles is not in the file: background" in slide.notes
        filled = whole(slide, 1)[:SIDE, SIDE : 2 * SIDE]  # from the finer level
        assert np.abs(filled.astype(int) - PIXELS[: 2 * SIDE : 2, 2 * SIDE : 4 * SIDE : 2]).mean() < 4


def test_a_unit_that_is_no_length_is_not_believed(tmp_path: Path) -> None:
    assert open_slide(slide_of(tmp_path, unit="10^-9m^1")).mpp_claims == ()


def test_what_cannot_be_read_right_is_refused(tmp_path: Path) -> None:
    def refused(name: str, told: str, *pictures: Picture) -> None:
        with pytest.raises(UnreadableSlideError, match=told):
            open_slide(write_vsi(tmp_path / f"{name}.vsi", pictures))

    refused("png", "compressed by number 8: expected raw, JPEG, JPEG 2000", Picture(halves(PIXELS), compression=PNG))
    refused("label", "overview, label or macro images alone", Picture(halves(PIXELS), "Label"))
    path = write_vsi(tmp_path / "small.vsi", [Picture([PIXELS])])
    tags = bytearray(path.read_bytes())
    at = tags.find(np.array([0, 0, 421, 300], "<i4").tobytes())
    tags[at + 8 : at + 12] = (100).to_bytes(4, "little")
    path.write_bytes(tags)
    with pytest.raises(UnreadableSlideError, match="does not fit the 100 x 300 px that the VSI tells"):
        open_slide(path)
    tags[at + 8 : at + 12] = (-5).to_bytes(4, "little", signed=True)
    path.write_bytes(tags)
    with pytest.raises(UnreadableSlideError, match=r"broken VSI .*a picture of -5 x 300 px"):
        open_slide(path)
    path = slide_of(tmp_path, compression=RAW, planes=(0, 0))
    open_slide(path).close()
    data = bytearray(ets_of(path).read_bytes())
    index, count = int.from_bytes(data[32:40], "little"), int.from_bytes(data[40:44], "little")
    step = (len(data) - index) // count
    data[index + (count - 1) * step + 12] = 1  # the third coordinate of one tile
    ets_of(path).write_bytes(data)
    with pytest.raises(UnreadableSlideError, match="several channels, focal planes or points in time"):
        open_slide(path)
    (ets_of(path).parent / "frame_t_1.ets").write_bytes(b"")
    with pytest.raises(UnreadableSlideError, match=r"2 \.ets files for 1 pictures"):
        open_slide(path)


@pytest.mark.parametrize("compression", [JPEG, JPEG_2000])
def test_a_damaged_tile_is_named_and_a_cut_file_says_so(tmp_path: Path, compression: int) -> None:
    path = slide_of(tmp_path, compression=compression)
    data = bytearray(ets_of(path).read_bytes())
    index = int.from_bytes(data[32:40], "little")
    step = 4 + 12 + 16
    at, count = (
        int.from_bytes(data[index + step + 16 + o : index + step + 16 + o + n], "little") for o, n in ((0, 8), (8, 4))
    )
    data[at + count // 2 : at + count] = bytes(count - count // 2)
    ets_of(path).write_bytes(data)
    slide = open_slide(path)
    damaged: list[Box] = []
    read = slide.read(0, Box(0, 0, 300, 421), damaged)
    assert damaged == [Box(0, SIDE, SIDE, 2 * SIDE)]
    assert (read[:SIDE, SIDE : 2 * SIDE] == DAMAGED_RGB).all()
    with pytest.raises(DamagedSlideError):
        whole(slide)
    data[index + 16 : index + 24] = (1 << 40).to_bytes(8, "little")
    ets_of(path).write_bytes(data)
    assert "1 of 35 tiles of level 0 lie past the end of frame_t.ets" in open_slide(path).missing


def test_the_pixels_belong_to_the_slide(tmp_path: Path) -> None:
    path = slide_of(tmp_path)
    assert [name for name, _ in slide_files(path)] == ["", "data/stack1/frame_t.ets"]
    before = fingerprint(path)
    data = bytearray(ets_of(path).read_bytes())
    data[400] ^= 1
    ets_of(path).write_bytes(data)
    assert fingerprint(path) != before
    assert [job.image_id for job in find_jobs([tmp_path], None)] == ["a"]


def test_texts_in_its_tags_are_known_to_the_search_before_sharing(tmp_path: Path) -> None:
    path = slide_of(tmp_path, name="Miller 1954")
    assert ("VSI tag 2030 of slide 1 of --slides", "Miller 1954", False) in values_of_slides([path])


def test_the_tags_of_a_real_one(real_slides: Path) -> None:
    path = real_slides.parent / "cases" / "vsi-ets-test-jpg2k.vsi"
    if not path.exists():
        pytest.skip("no shared cases")
    (stack,) = stacks(read_fields(path))
    assert stack.mpp_yx == pytest.approx((0.65 / 6, 0.65 / 6))  # 6.5 um a pixel of its camera, by 60
    assert replace(stack, mpp_yx=None) == Stack("001 C405, C488", YX(1682, 1645), 0, None, 60.0)

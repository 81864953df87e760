"""Zeiss CZI: files made here byte by byte, and by Zeiss's own library, whose reading is compared pixel by pixel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from making import RGB, picture
from making_czi import (
    JPEG,
    JPEG_XR,
    RAW,
    ZSTD,
    ZSTD_PACKED,
    Block,
    Samples,
    encode,
    metadata,
    overlapping,
    tiled,
    write_czi,
)

from wsi.errors import DamagedSlideError, NotASlideError, UnreadableSlideError
from wsi.pixels.colour import eight_bits
from wsi.readers.contract import check_reader, whole
from wsi.readers.czi.frames import Frames
from wsi.readers.czi.reader import open_with_czi
from wsi.readers.tiles import DAMAGED_RGB
from wsi.sharing.phi.slides import values_of_slides
from wsi.slide import open_slide
from wsi.units import Box

PIXELS = picture(300, 421)
HALF = np.ascontiguousarray(PIXELS[::2, ::2])


def pylibczi() -> Any:
    return pytest.importorskip("pylibCZIrw.czi", reason="pylibCZIrw is not installed")


def theirs(path: Path, scene: int | None = None, zoom: float | None = None) -> Samples:
    """Return a scene as Zeiss's library shows it, RGB or grey, on white."""
    with pylibczi().open_czi(str(path)) as document:
        found = document.read(plane={"C": 0}, scene=scene, zoom=zoom, background_pixel=(1.0, 1.0, 1.0))
    return np.ascontiguousarray(found[..., ::-1] if found.shape[-1] == 3 else found)


def as_rgb(samples: Samples) -> RGB:
    pixels = eight_bits(samples)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


KINDS: dict[str, Samples] = {
    "colour": PIXELS,
    "colour of 16 bits": PIXELS.astype(np.uint16) * 200 + 7,
    "grey": np.ascontiguousarray(PIXELS[..., 0]),
    "grey of 16 bits": PIXELS[..., 0].astype(np.uint16) * 200 + 3,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", [RAW, JPEG_XR, ZSTD, ZSTD_PACKED])
def test_each_compression_and_kind_of_pixel_gives_what_was_written(tmp_path: Path, kind: str, compression: int) -> None:
    blocks = tiled(KINDS[kind], at=(-7, 1000), compression=compression)
    path = write_czi(tmp_path / "a.czi", blocks, metadata())
    with open_slide(path, threads=2) as slide:
        assert (slide.reader, slide.objective_power) == ("czi", 20)
        assert slide.mpp_claims[0].mpp_yx == pytest.approx((0.25, 0.25))
        np.testing.assert_array_equal(whole(slide), as_rgb(KINDS[kind]))
        assert any("16-bit samples scaled" in note for note in slide.notes) == ("16" in kind)
    # libCZI knows no JPEG XR with red first, and mixes up 16-bit colour whose bytes are apart, its own writer's, too
    if (kind, compression) not in {("colour", JPEG_XR), ("colour of 16 bits", ZSTD_PACKED)}:
        np.testing.assert_array_equal(as_rgb(theirs(path)), as_rgb(KINDS[kind]))


def test_jpeg_xr_with_blue_first_as_scanners_write_it(tmp_path: Path) -> None:
    def blue_first(pixels: Samples, _: int) -> bytes:
        data = bytearray(imagecodecs.jpegxr_encode(np.ascontiguousarray(pixels), level=0.9))
        kind = data.find(bytes.fromhex("24C3DD6F034EFE4BB1853D77768DC90D"))  # 24bppRGB
        data[kind + 15] = 0x0C  # 24bppBGR
        return bytes(data)

    red = PIXELS.copy()
    red[:150] = (200, 30, 60)
    path = write_czi(tmp_path / "a.czi", tiled(red, compression=JPEG_XR), "", blue_first)
    read = whole(open_slide(path))
    np.testing.assert_array_equal(read, theirs(path))
    assert np.abs(read.astype(int) - red).mean() < 3


@pytest.mark.parametrize("options", ["uncompressed:", "zstd0:ExplicitLevel=3", "zstd1:ExplicitLevel=2"])
def test_what_zeiss_writes_with_overlaps_is_read_as_zeiss_reads_it(tmp_path: Path, options: str) -> None:
    blocks, shown = overlapping(PIXELS)
    path = tmp_path / "a.czi"
    with pylibczi().create_czi(str(path), compression_options=options) as document:
        for block in blocks:
            document.write(block.pixels[..., ::-1], location=(block.x + 500, block.y - 40))
        document.write_metadata(scale_x=0.5e-6, scale_y=0.5e-6)
    with open_slide(path, threads=2) as slide:
        np.testing.assert_array_equal(whole(slide), shown)
        np.testing.assert_array_equal(whole(slide), theirs(path))
        assert slide.tiles(0) is None
        assert slide.mpp_claims[0].mpp_yx == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("kind", ["grid", "overlapping", "shuffled"])
def test_the_contract_is_kept(tmp_path: Path, kind: str) -> None:
    blocks, shown = (tiled(PIXELS), PIXELS) if kind == "grid" else overlapping(PIXELS)
    blocks += tiled(HALF, 96, factor=2, compression=JPEG_XR)
    if kind == "shuffled":  # the mosaic index says what lies on top, not the order in the file
        blocks = [blocks[i] for i in np.random.default_rng(1).permutation(len(blocks))]
    check_reader(open_with_czi, write_czi(tmp_path / "a.czi", blocks, metadata()), shown)


def test_a_pyramid_stands_where_zeiss_sees_it(tmp_path: Path) -> None:
    blocks, _ = overlapping(PIXELS)
    blocks += tiled(HALF, 64, factor=2) + tiled(np.ascontiguousarray(PIXELS[::4, ::4]), 64, factor=4)
    blocks = [Block(b.pixels, b.y + 31, b.x - 17, b.factor, b.compression, b.mosaic) for b in blocks]
    path = write_czi(tmp_path / "a.czi", blocks)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        np.testing.assert_array_equal(whole(slide, 1), HALF)
        for level, zoom in ((0, None), (1, 0.5), (2, 0.25)):
            found, own = theirs(path, zoom=zoom), whole(slide, level)
            # their size counts what coarse levels are rounded up by, and is rounded down itself
            height, width = (min(sides) for sides in zip(found.shape[:2], own.shape[:2], strict=True))
            assert max(len(own) - height, own.shape[1] - width) <= 1
            np.testing.assert_array_equal(own[:height, :width], found[:height, :width])


def test_scenes_are_slides_of_their_own(tmp_path: Path) -> None:
    small = picture(100, 140, seed=5)
    blocks = tiled(small, at=(900, 20), scene=0) + tiled(PIXELS, at=(0, 0), scene=1)
    blocks += tiled(HALF, factor=2, scene=1)
    path = write_czi(tmp_path / "a.czi", blocks, metadata(names=("left lung", "liver")))
    with open_slide(path) as slide:
        assert [(s.index, s.name, tuple(s.shape)) for s in slide.scenes] == [
            (0, "left lung", (100, 140)),
            (1, "liver", (300, 421)),
        ]
        assert slide.scene == 1
        assert "scene 1 (421 x 300 px) of 2" in slide.notes[0]
        assert "liver" not in "".join(slide.notes)
        np.testing.assert_array_equal(whole(slide), theirs(path, scene=1)[:, :421])  # rounded up for its coarse level
    with open_slide(path, scene=0) as other:
        assert len(other.levels) == 1
        np.testing.assert_array_equal(whole(other), small)
    with pytest.raises(NotASlideError, match="--scene 2: the file has no such scene, only 0, 1"):
        open_slide(path, scene=2)


def test_what_was_not_scanned_is_white(tmp_path: Path) -> None:
    blocks = [block for block in tiled(PIXELS) if (block.y, block.x) != (128, 128)]
    with open_slide(write_czi(tmp_path / "grid.czi", blocks)) as slide:
        assert (whole(slide)[128:256, 128:256] == 255).all()
        assert "1 of 12 tiles is not in the file: background" in slide.notes
        np.testing.assert_array_equal(whole(slide)[:128], PIXELS[:128])
    frames, _ = overlapping(PIXELS)
    kept = [block for block in frames if block.y < 97 or block.y > 200]
    path = write_czi(tmp_path / "frames.czi", kept)
    with open_slide(path) as slide:
        assert (whole(slide)[120:291] == 255).all()
        np.testing.assert_array_equal(whole(slide), theirs(path))


def test_a_level_that_lacks_a_part_is_not_used(tmp_path: Path) -> None:
    large = picture(700, 900)
    part = [block for block in tiled(large[::2, ::2], factor=2) if block.x < 512]
    whole_level = tiled(np.ascontiguousarray(large[::4, ::4]), factor=4)
    with open_slide(write_czi(tmp_path / "a.czi", tiled(large) + part + whole_level)) as slide:
        assert [level.downsample for level in slide.levels] == [1, 4]
        assert "the level at 1:2 lacks a part of the slide and is not used" in slide.notes


def test_fewer_bits_than_are_stored(tmp_path: Path) -> None:
    samples = PIXELS.astype(np.uint16) * 16
    with open_slide(write_czi(tmp_path / "a.czi", tiled(samples), metadata(bits=12))) as slide:
        np.testing.assert_array_equal(whole(slide), eight_bits(samples, 12))
        assert "12-bit samples scaled to 8 bits: round(value * 255 / 4095)" in slide.notes


def refused(tmp_path: Path, blocks: Sequence[Block], told: str, xml: str = "") -> None:
    with pytest.raises(UnreadableSlideError, match=told):
        open_slide(write_czi(tmp_path / "refused.czi", blocks, xml))


def test_what_cannot_be_read_right_is_refused(tmp_path: Path) -> None:
    grey = KINDS["grey"]
    refused(tmp_path, tiled(grey) + tiled(grey, planes={"C": 1}), r"several channels \(C\): expected one")
    refused(tmp_path, tiled(grey, planes={"Z": 0}) + tiled(grey, planes={"Z": 3}), "several focal planes")
    refused(tmp_path, tiled(PIXELS, compression=JPEG), "compression JPEG .whose colours readers disagree on")
    refused(tmp_path, tiled(PIXELS) + tiled(grey), "pixels of CZI type 0, 3")
    refused(tmp_path, tiled(HALF, factor=2), "no subblock of full resolution")
    refused(tmp_path, tiled(PIXELS), "broken CZI .*ParseError", "<ImageDocument>")
    path = write_czi(tmp_path / "a.czi", tiled(PIXELS))
    data = bytearray(path.read_bytes())
    data[32 + 48] = 1  # the header's file part
    path.write_bytes(data)
    with pytest.raises(UnreadableSlideError, match="part 1 of a CZI of several files"):
        open_slide(path)
    data[32 + 48], data[32 + 68] = 0, 1  # an update was under way
    path.write_bytes(data)
    with pytest.raises(UnreadableSlideError, match="a CZI that was not finished"):
        open_slide(path)


@pytest.mark.parametrize("compression", [RAW, JPEG_XR, ZSTD])
@pytest.mark.parametrize("kind", ["grid", "overlapping"])
def test_a_damaged_subblock_is_named_and_never_background(tmp_path: Path, kind: str, compression: int) -> None:
    blocks = tiled(PIXELS, 100, compression=compression)
    if kind == "overlapping":
        blocks = overlapping(PIXELS, compression=compression)[0]

    def coder(pixels: Samples, compression: int) -> bytes:
        payload = encode(pixels, compression)
        return payload[: len(payload) // 2] if pixels is blocks[1].pixels else payload

    slide = open_slide(write_czi(tmp_path / "a.czi", blocks, "", coder))
    damaged: list[Box] = []
    read = slide.read(0, Box(0, 0, 300, 421), damaged)
    side, at = (100, 100) if kind == "grid" else (120, 97)
    assert damaged == [Box(0, at, side, at + side)]
    assert (read[:97, at + 25 : 190] == DAMAGED_RGB).all()
    with pytest.raises(DamagedSlideError, match="of level 0 cannot be decoded"):
        whole(slide)


def test_a_file_that_is_cut_short_says_so(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", tiled(PIXELS))
    data = bytearray(path.read_bytes())
    directory = int.from_bytes(data[32 + 52 : 32 + 60], "little")
    data[directory + 32 + 128 + 6 : directory + 32 + 128 + 14] = (1 << 40).to_bytes(8, "little")
    path.write_bytes(data)
    slide = open_slide(path)
    assert "1 of 12 subblocks of level 0 lie past the end of the file" in slide.missing
    path.write_bytes(data[:directory])
    with pytest.raises(UnreadableSlideError, match="its directory of subblocks is not there"):
        open_slide(path)


def test_frames_that_are_kept_take_bounded_memory() -> None:
    frame = np.zeros((10, 10, 3), np.uint8)
    frames = Frames(2 * frame.nbytes)
    for number in range(3):
        frames.put((0, 0, number), frame)
    assert [frames.get((0, 0, number)) is None for number in range(3)] == [True, False, False]
    frames.drop(0)
    assert frames.get((0, 0, 2)) is None


def test_names_in_its_xml_are_known_to_the_search_before_sharing(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi", tiled(PIXELS), metadata(names=("Miller, 1954",)))
    assert ("Name of slide 1 of --slides", "Miller, 1954", False) in values_of_slides([path])

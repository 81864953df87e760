"""DICOM slides, those that OpenSlide refuses too: made here, and real ones."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from making import RGB, picture
from making_dicom import JPEG, JPEG_2000, JPEG_2000_LOSSY, JPEG_LS, RAW, RLE, SIDE, encode, write_dicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames

from wsi.cohort.fingerprint import fingerprint, slide_files
from wsi.cohort.slides import find_jobs
from wsi.errors import DamagedSlideError, UnreadableSlideError
from wsi.readers.contract import check_reader
from wsi.readers.dicom import layout as dicom_layout
from wsi.readers.dicom.reader import open_with_dicom
from wsi.readers.protocol import Slide
from wsi.readers.tiles import DAMAGED_RGB
from wsi.slide import open_slide
from wsi.units import Box

pytestmark = pytest.mark.filterwarnings("ignore")


def whole(slide: Slide, level: int = 0) -> RGB:
    return slide.read(level, Box(0, 0, *slide.levels[level].shape))


@pytest.mark.parametrize("syntax", [RAW, RLE, JPEG, JPEG_LS, JPEG_2000])
def test_each_transfer_syntax_gives_the_written_pixels(tmp_path: Path, syntax: str) -> None:
    pixels = picture(200, 230)
    slide = open_slide(write_dicom(tmp_path / "a.dcm", pixels, syntax), "dicom")
    assert slide.levels[0].shape == (200, 230)
    assert slide.mpp_claims[0].mpp_yx == pytest.approx((0.25, 0.25))
    difference = np.abs(whole(slide).astype(int) - pixels)
    assert difference.max() == 0 if syntax != JPEG else difference.mean() < 4


def to_ycbcr(rgb: RGB) -> RGB:
    """By the matrix of JFIF."""
    r, g, b = np.moveaxis(rgb.astype(float), -1, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    ycbcr = np.stack([luma, 128 + (b - luma) / 1.772, 128 + (r - luma) / 1.402], axis=-1)
    return ycbcr.round().clip(0, 255).astype(np.uint8)


def jpeg_as(inside: str, subsampling: str = "444") -> Callable[[RGB, str], bytes]:
    options: dict[str, Any] = {"colorspace": "RGB", "outcolorspace": inside, "subsampling": subsampling}
    return lambda frame, _: bytes(imagecodecs.jpeg8_encode(frame, level=97, **options))


def j2k_as(*, mct: bool, reversible: bool) -> Callable[[RGB, str], bytes]:
    options: dict[str, Any] = {
        "codecformat": "j2k",
        "mct": mct,
        "reversible": reversible,
        "level": 0 if reversible else 70,
    }
    return lambda frame, _: bytes(imagecodecs.jpeg2k_encode(frame, **options))


def in_ycbcr(coder: Callable[[RGB, str], bytes]) -> Callable[[RGB, str], bytes]:
    return lambda frame, syntax: coder(to_ycbcr(frame), syntax)


def in_planes(frame: RGB, _: str) -> bytes:
    return np.ascontiguousarray(frame.transpose(2, 0, 1)).tobytes()


PLAIN = j2k_as(mct=False, reversible=True)
COLOURS = {
    "JPEG, YBR_FULL_422": (JPEG, "YBR_FULL_422", jpeg_as("YCBCR", "422")),
    "JPEG, YBR_FULL_422 of 4:2:0": (JPEG, "YBR_FULL_422", jpeg_as("YCBCR", "420")),
    "JPEG, YBR_FULL": (JPEG, "YBR_FULL", jpeg_as("YCBCR")),
    "JPEG, RGB": (JPEG, "RGB", jpeg_as("RGB")),
    "JPEG, RGB that JFIF contradicts": (JPEG, "RGB", jpeg_as("YCBCR")),
    "JPEG-LS, RGB": (JPEG_LS, "RGB", encode),
    "JPEG-LS, YBR_FULL": (JPEG_LS, "YBR_FULL", in_ycbcr(encode)),
    "JPEG 2000, YBR_RCT": (JPEG_2000, "YBR_RCT", j2k_as(mct=True, reversible=True)),
    "JPEG 2000, YBR_ICT": (JPEG_2000_LOSSY, "YBR_ICT", j2k_as(mct=True, reversible=False)),
    "JPEG 2000, RGB": (JPEG_2000, "RGB", PLAIN),
    "JPEG 2000, YBR_FULL": (JPEG_2000, "YBR_FULL", in_ycbcr(PLAIN)),
    "raw, RGB": (RAW, "RGB", encode),
    "raw, YBR_FULL": (RAW, "YBR_FULL", in_ycbcr(encode)),
    "raw, RGB in planes": (RAW, "RGB", in_planes),
}


def smooth() -> RGB:
    """Return a picture in all colours that subsampling hardly hurts."""
    y, x = np.mgrid[:128, :192]
    return np.stack([60 + x, 200 - y, 90 + (x + y) // 3], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("name", COLOURS)
def test_photometric_interpretations_give_the_written_colours(tmp_path: Path, name: str) -> None:
    syntax, photometric, coder = COLOURS[name]
    changes: dict[str, Any] = {"PhotometricInterpretation": photometric, "PlanarConfiguration": int(coder is in_planes)}
    path = write_dicom(tmp_path / "a.dcm", smooth(), syntax, coder=coder, **changes)
    read = whole(open_slide(path, "dicom")).astype(int)
    assert np.abs(read - smooth()).mean() < 1.5
    lossless = photometric in {"RGB", "YBR_RCT"} and syntax != JPEG
    assert not lossless or (read == smooth()).all()
    if syntax == RAW:  # pydicom converts to RGB, and decodes the rest with libraries that are not here
        theirs = pydicom.dcmread(path).pixel_array[0].astype(int)
        assert np.abs(read[:SIDE, :SIDE] - theirs).max() <= 2


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("syntax", [RAW, RLE, JPEG, JPEG_LS, JPEG_2000])
def test_grey_frames_are_grey_and_the_inverted_ones_are_turned(tmp_path: Path, photometric: str, syntax: str) -> None:
    def coder(frame: RGB, syntax: str) -> bytes:
        grey = np.ascontiguousarray(frame[..., 0])
        if syntax == JPEG:
            return bytes(imagecodecs.jpeg8_encode(grey, level=97))
        if syntax == JPEG_2000:
            return bytes(imagecodecs.jpeg2k_encode(grey, codecformat="j2k", reversible=True))
        return encode(grey, syntax)

    changes: dict[str, Any] = {
        "PhotometricInterpretation": photometric,
        "SamplesPerPixel": 1,
        "PlanarConfiguration": None,
    }
    path = write_dicom(tmp_path / "a.dcm", smooth(), syntax, coder=coder, **changes)
    expected = np.repeat(smooth()[..., :1], 3, axis=2).astype(int)
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    assert np.abs(whole(open_slide(path, "dicom")) - expected).max() <= (3 if syntax == JPEG else 0)


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LS, JPEG_2000])
def test_a_frame_that_declares_too_much_is_refused(tmp_path: Path, syntax: str) -> None:
    def coder(frame: RGB, syntax: str) -> bytes:
        return encode(np.zeros((700, 900, 3), np.uint8), syntax)

    path = write_dicom(tmp_path / "a.dcm", picture(64, 64), syntax, coder=coder)
    with pytest.raises(UnreadableSlideError, match=r"expected .*64 x 64 .*found 900 x 700"):
        open_slide(path, "dicom")


def test_openslide_is_asked_only_by_name(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", picture(200, 230))
    assert open_slide(path).reader == "dicom"
    with pytest.raises(UnreadableSlideError, match="openslide:"):
        open_slide(path, "openslide")


def positions(places: Iterable[tuple[int, int]]) -> list[Dataset]:
    """Return what states the row and column of each frame."""
    per_frame = []
    for row, column in places:
        position, groups = Dataset(), Dataset()
        position.RowPositionInTotalImagePixelMatrix = row * SIDE + 1
        position.ColumnPositionInTotalImagePixelMatrix = column * SIDE + 1
        groups.PlanePositionSlideSequence = [position]
        per_frame.append(groups)
    return per_frame


def test_positions_are_honoured_and_gaps_are_white(tmp_path: Path) -> None:
    pixels = picture(128, 192)
    places = [(0, 2), (1, 0), (0, 0), (1, 2), (0, 1)]  # row, column of each frame; (1, 1) has none
    shuffled = np.concatenate([pixels[r * SIDE : (r + 1) * SIDE, c * SIDE : (c + 1) * SIDE] for r, c in places], axis=1)
    changes: dict[str, Any] = {
        "DimensionOrganizationType": "TILED_SPARSE",
        "PerFrameFunctionalGroupsSequence": positions(places),
        "TotalPixelMatrixRows": 128,
        "TotalPixelMatrixColumns": 192,
    }
    found = whole(open_slide(write_dicom(tmp_path / "a.dcm", shuffled, **changes), "dicom"))
    expected = pixels.copy()
    expected[SIDE:, SIDE : 2 * SIDE] = 255
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"DimensionOrganizationType": None}, "state no positions"),
        ({"TotalPixelMatrixRows": 400}, "for a full grid"),
        ({"BitsAllocated": 16}, "expected 8-bit colour"),
        ({"TotalPixelMatrixFocalPlanes": 3}, "focal planes"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "expected a whole-slide image"),
        ({"flavour": "LABEL"}, "a label image"),
    ],
)
def test_what_cannot_be_read_right_is_refused(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", picture(200, 230), **changes)  # type: ignore[arg-type]
    with pytest.raises(UnreadableSlideError, match=reason):
        open_slide(path, "dicom")


def concatenated(source: Path, folder: Path, *cuts: int, **changes: Any) -> list[Path]:
    """Write an instance as parts that begin with these frames, and with the first."""
    folder.mkdir(exist_ok=True)
    whole, paths = pydicom.dcmread(source), []
    frames = list(generate_frames(whole.PixelData, number_of_frames=whole.NumberOfFrames))
    edges = [0, *cuts, len(frames)]
    for number, (start, stop) in enumerate(pairwise(edges), start=1):
        part = deepcopy(whole)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        part.ConcatenationUID, part.InConcatenationNumber = "1.2.3.9", number
        part.InConcatenationTotalNumber, part.ConcatenationFrameOffsetNumber = len(edges) - 1, start
        part.NumberOfFrames = stop - start
        if "PerFrameFunctionalGroupsSequence" in part:
            part.PerFrameFunctionalGroupsSequence = part.PerFrameFunctionalGroupsSequence[start:stop]
        for name, value in changes.items():
            setattr(part, name, value) if value is not None else delattr(part, name)
        part.PixelData = encapsulate(frames[start:stop])
        part["PixelData"].is_undefined_length = True
        paths.append(folder / f"part{len(edges) - number}.dcm")
        part.save_as(paths[-1])
    return paths


@pytest.mark.parametrize("in_full", [True, False])
@pytest.mark.parametrize("syntax", [JPEG, JPEG_LS])
def test_a_concatenation_is_the_image_that_it_is_the_parts_of(tmp_path: Path, syntax: str, in_full: bool) -> None:
    pixels = picture(200, 230)
    sparse: dict[str, Any] = {"DimensionOrganizationType": "TILED_SPARSE"}
    sparse["PerFrameFunctionalGroupsSequence"] = positions(np.ndindex(4, 4))
    one = write_dicom(tmp_path / "one.dcm", pixels, syntax, **({} if in_full else sparse))
    parts = concatenated(one, tmp_path / "parts", 5, 6)
    write_dicom(tmp_path / "parts" / "coarse.dcm", pixels[::2, ::2], syntax)
    for path in (*parts, tmp_path / "parts"):
        slide = open_slide(path, "dicom")
        assert [level.shape for level in slide.levels] == [(200, 230), (100, 115)]
        np.testing.assert_array_equal(whole(slide), whole(open_slide(one, "dicom")))
        assert not slide.missing
        assert fingerprint(path) == fingerprint(parts[0])
        if syntax == JPEG:
            files = [one.tiles(0) for one in (slide, open_slide(one, "dicom"))]
            assert all(files[0].file(i) == files[1].file(i) for i in range(16))  # type: ignore[union-attr]


def test_what_is_no_whole_concatenation_is_refused(tmp_path: Path) -> None:
    one = write_dicom(tmp_path / "one.dcm", picture(200, 230))
    parts = concatenated(one, tmp_path / "a", 5, 11)
    parts[1].rename(tmp_path / "kept")
    with pytest.raises(UnreadableSlideError, match="of a concatenation there are parts 1, 3 of 3: copy all"):
        open_slide(parts[0], "dicom")
    shutil.copy(tmp_path / "kept", parts[1])
    shutil.copy(tmp_path / "kept", tmp_path / "a" / "copy.dcm")
    with pytest.raises(
        UnreadableSlideError, match=r"part 2 .* lies there twice \((copy|part2).dcm, (copy|part2).dcm\)"
    ):
        open_slide(parts[0], "dicom")
    (tmp_path / "a" / "copy.dcm").unlink()
    other = concatenated(one, tmp_path / "b", 5, 11, PhotometricInterpretation="YBR_FULL")
    shutil.copy(other[1], parts[1])
    with pytest.raises(UnreadableSlideError, match="the parts of a concatenation differ in size or coding"):
        open_slide(parts[0], "dicom")
    shutil.copy(concatenated(one, tmp_path / "c", 6, 11)[1], parts[1])
    with pytest.raises(UnreadableSlideError, match="differ in size or coding, or their frames in number"):
        open_slide(parts[0], "dicom")
    untold = concatenated(one, tmp_path / "d", 5, 11, InConcatenationTotalNumber=None)
    untold[2].unlink()
    with pytest.raises(UnreadableSlideError, match="there are parts 1, 2, which lack 5 frames: copy all"):
        open_slide(untold[0], "dicom")
    lost = concatenated(one, tmp_path / "e", 5, ConcatenationFrameOffsetNumber=None)
    with pytest.raises(UnreadableSlideError, match="broken DICOM"):
        open_slide(lost[0], "dicom")


def test_a_cut_part_of_a_concatenation_is_named(tmp_path: Path) -> None:
    parts = concatenated(write_dicom(tmp_path / "one.dcm", picture(200, 230), JPEG), tmp_path / "parts", 5, 11)
    data = parts[2].read_bytes()
    parts[2].write_bytes(data[: len(data) * 3 // 4])
    slide = open_slide(parts[0], "dicom")
    assert re.fullmatch(r"[1-5] of 16 frames lie past the end of part1.dcm \(\d+ bytes\)", slide.missing)


def test_a_series_in_a_folder_is_one_slide(tmp_path: Path) -> None:
    pixels = picture(256, 384)
    folder = tmp_path / "case7"
    folder.mkdir()
    write_dicom(folder / "1.dcm", pixels[::4, ::4])
    write_dicom(folder / "2.dcm", pixels)
    write_dicom(folder / "3.dcm", picture(100, 100), flavour="LABEL")
    jobs = find_jobs([tmp_path], None)
    assert [(job.image_id, job.path.name) for job in jobs] == [("case7", "2.dcm")]
    slide = open_slide(jobs[0].path, "dicom")
    assert [level.downsample for level in slide.levels] == [1, 4]
    np.testing.assert_array_equal(whole(slide), pixels)
    np.testing.assert_array_equal(whole(slide, 1), pixels[::4, ::4])
    # Asked for the label, the slide of its series is read and never the label.
    np.testing.assert_array_equal(whole(open_slide(folder / "3.dcm", "dicom")), pixels)


def test_two_series_in_a_folder_are_two_slides(tmp_path: Path) -> None:
    for name, series in (("a", "1.2.3"), ("b", "1.2.4")):
        write_dicom(tmp_path / f"{name}.dcm", picture(100, 100), SeriesInstanceUID=series)
    assert [job.image_id for job in find_jobs([tmp_path], None)] == ["a", "b"]


def test_each_header_of_a_folder_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        write_dicom(tmp_path / f"{number}.dcm", picture(100, 120, number), SeriesInstanceUID=f"1.2.{number}")
    parsed: list[str] = []
    real = dicom_layout.header

    def counted(path: Path) -> Dataset:
        parsed.append(path.name)
        return real(path)

    monkeypatch.setattr(dicom_layout, "header", counted)
    jobs = find_jobs([tmp_path], None)
    assert len(jobs) == 5
    for job in jobs:
        assert [file for _, file in slide_files(job.path)] == [job.path]
        fingerprint(job.path)
    assert sorted(parsed) == [f"{number}.dcm" for number in range(5)]


def test_the_fingerprint_covers_the_series_and_nothing_beside_it(tmp_path: Path) -> None:
    slide = write_dicom(tmp_path / "a.dcm", picture(300, 320))
    level = write_dicom(tmp_path / "b.dicom", picture(150, 160))
    other = write_dicom(tmp_path / "c.dcm", picture(100, 120), SeriesInstanceUID="1.2.3")
    before = fingerprint(slide)
    assert {file for _, file in slide_files(slide)} == {slide, level}
    write_dicom(other, picture(100, 120, 1), SeriesInstanceUID="1.2.3")
    assert fingerprint(slide) == before
    write_dicom(level, picture(150, 160, 1))
    assert fingerprint(slide) != before


def test_damage_and_truncation_are_said(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", picture(200, 230), JPEG)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    slide = open_slide(path, "dicom")
    assert "past the end" in slide.missing or "frames" in slide.missing
    damaged: list[Box] = []
    read = slide.read(0, Box(0, 0, 200, 230), damaged)
    assert damaged
    assert (read[damaged[0].y0 : damaged[0].y1, damaged[0].x0 : damaged[0].x1] == DAMAGED_RGB).all()
    with pytest.raises(DamagedSlideError):
        whole(slide)


def test_real_dicom_equals_openslide(real_slides: Path) -> None:
    path = real_slides / "dicom/camelyon_jpeg/multi_frame_jpeg_camelyon_challenge_image.dcm"
    np.testing.assert_array_equal(whole(open_slide(path, "dicom")), whole(open_slide(path, "openslide")))


def test_real_jpeg_ls_is_read_and_frames_without_places_are_not(real_slides: Path) -> None:
    path = real_slides / "dicom/sm_jpegls/sm_image_jpegls.dcm"
    np.testing.assert_array_equal(whole(open_slide(path))[:10, :10], pydicom_frame(path))
    # Its frames lie column by column and nothing says so: row by row would be a scrambled slide.
    with pytest.raises(UnreadableSlideError, match="state no positions"):
        open_slide(real_slides / "dicom/tcga_no_imagetype/small_dicom.dcm")


def pydicom_frame(path: Path) -> RGB:
    frame = next(pydicom.encaps.generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=25))
    return imagecodecs.jpegls_decode(frame)


def write_series(folder: Path, names: tuple[str, str, str], series: str = "1.2.3.4") -> RGB:
    """Write a slide of two levels and its label; return the pixels of the finest."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = picture(260, 300)
    write_dicom(folder / names[0], picture(100, 100, seed=8), flavour="LABEL", SeriesInstanceUID=series)
    write_dicom(folder / names[1], np.ascontiguousarray(pixels[::2, ::2]), SeriesInstanceUID=series)
    write_dicom(folder / names[2], pixels, SeriesInstanceUID=series)
    return pixels


@pytest.mark.parametrize("names", [("a.dcm", "b.dcm", "c.dcm"), ("IM0001", "1.2.840.5", "1.2.840.6")])
def test_a_folder_with_one_series_is_a_slide(tmp_path: Path, names: tuple[str, str, str]) -> None:
    folder = tmp_path / "case 7"
    pixels = write_series(folder, names)
    (folder / "notes.txt").write_text("not DICOM")
    check_reader(open_with_dicom, folder, pixels)
    with open_slide(folder) as slide, open_slide(folder / names[2]) as same:
        assert (slide.reader, slide.path, len(slide.levels)) == ("dicom", folder, 2)
        assert slide.levels == same.levels
        np.testing.assert_array_equal(whole(slide), pixels)
    assert fingerprint(folder) == fingerprint(folder / names[2])
    assert len(slide_files(folder)) == 2
    assert [(job.image_id, job.path.name) for job in find_jobs([tmp_path], None)] == [("case 7", names[2])]
    manifest = tmp_path / "slides.csv"
    manifest.write_text("image_id,path\nx,case 7\n")
    (job,) = find_jobs([], manifest)
    assert (job.image_id, job.path, job.problem) == ("x", folder, "")


def test_a_folder_with_none_or_several_series_is_refused(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(100))
    with pytest.raises(UnreadableSlideError, match="neither OME-Zarr nor a DICOM slide in it: expected a slide file"):
        open_slide(tmp_path)
    write_series(tmp_path, ("a", "b", "c"))
    write_series(tmp_path, ("d", "e", "f"), "1.2.3.5")
    with pytest.raises(UnreadableSlideError, match="a folder with 2 series of DICOM slides"):
        open_slide(tmp_path)
    assert [job.image_id for job in find_jobs([tmp_path], None)] == ["c", "f"]
    assert len(slide_files(tmp_path / "c")) == 2


def test_a_value_longer_than_memory_is_a_broken_file(tmp_path: Path) -> None:
    """pydicom makes room for what a length says: four gigabytes here, where there are two."""
    path = tmp_path / "long.dcm"
    write_dicom(path, picture(256, 256, 1), JPEG)
    dataset = pydicom.dcmread(path)
    dataset.add_new(0x00090010, "LO", "ours")
    dataset.add_new(0x00091001, "OB", b"abcd")
    dataset.save_as(path)
    data, place = path.read_bytes(), b"\x09\x00\x01\x10OB\x00\x00"
    assert data.count(place) == 1
    path.write_bytes(data.replace(place + b"\x04\x00\x00\x00", place + b"\xf0\xff\xff\xff"))
    look = (
        "import resource, sys; from pathlib import Path; from wsi.slide import open_slide\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "open_slide(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", look, str(path)], capture_output=True, text=True, check=False)
    assert "UnreadableSlideError" in done.stderr.splitlines()[-1]
    assert "longer than there is memory for" in done.stderr

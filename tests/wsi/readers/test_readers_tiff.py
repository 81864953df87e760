"""The TIFF reader flavour by flavour, against the written pixels and against OpenSlide."""

import os
import tracemalloc
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from making import RGB, picture, write_deflate, write_pyramid
from numpy.typing import NDArray

from wsi.errors import DamagedSlideError, UnreadableSlideError
from wsi.pixels.jpeg import check_jpeg, jpeg_header
from wsi.readers.protocol import Slide
from wsi.readers.tiff.reader import TiffReader
from wsi.readers.tiles import DAMAGED_RGB
from wsi.slide import open_slide
from wsi.units import YX, Box


def whole(slide: Slide, level: int = 0) -> RGB:
    return slide.read(level, Box(0, 0, *slide.levels[level].shape))


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    settings = {"photometric": "rgb", "tile": (64, 64), "metadata": None} | options
    tifffile.imwrite(path, pixels, **settings)
    return path


# Lossless flavours: the written pixels, bit by bit


@pytest.mark.parametrize("compression", [None, "lzw", "zstd", "adobe_deflate", "packbits", "lzma"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tile", [(64, 64), None])
def test_byte_streams(
    tmp_path: Path, compression: str | None, byteorder: str, dtype: type, tile: tuple[int, int] | None
) -> None:
    pixels = picture(150, 170)
    wide: NDArray[Any] = pixels.astype(dtype) * (257 if dtype is np.uint16 else 1)
    for predictor in (False, True) if compression not in {None, "packbits"} else (False,):
        options = {"compression": compression, "byteorder": byteorder, "tile": tile, "predictor": predictor}
        path = write(tmp_path / f"{predictor}.tif", wide, **options, rowsperstrip=None if tile else 40)
        np.testing.assert_array_equal(whole(open_slide(path, "tiff")), pixels)


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxr", "png", "webp"])
def test_picture_codecs(tmp_path: Path, compression: str) -> None:
    pixels = picture(150, 170)
    args = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    path = write(tmp_path / "a.tif", pixels, compression=compression, **args)
    found = whole(open_slide(path, "tiff")).astype(int)
    assert np.abs(found - pixels).max() <= (2 if compression == "jpegxr" else 0)


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({"photometric": "minisblack"}, lambda p: p[..., 0]),
        ({"photometric": "miniswhite"}, lambda p: 255 - p[..., 0]),
        ({"photometric": "minisblack", "tile": None, "rowsperstrip": 7}, lambda p: p[..., 0]),
    ],
)
def test_grey(tmp_path: Path, options: dict[str, object], channels: object) -> None:
    pixels = picture(150, 170)
    path = write(tmp_path / "a.tif", channels(pixels), **options)  # type: ignore[operator]
    np.testing.assert_array_equal(whole(open_slide(path, "tiff")), np.repeat(pixels[..., :1], 3, axis=2))


def test_palette(tmp_path: Path) -> None:
    indices = np.arange(128 * 128, dtype=np.uint8).reshape(128, 128)
    table = np.random.default_rng(5).integers(0, 256, (3, 256)).astype(np.uint16)
    for scale in (257, 1):  # some writers put 8-bit values into the colour map
        path = write(tmp_path / f"{scale}.tif", indices, photometric="palette", colormap=table * scale)
        np.testing.assert_array_equal(whole(open_slide(path, "tiff")), table.T[indices])


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
@pytest.mark.parametrize("planar", [False, True])
def test_transparency_is_laid_on_white(tmp_path: Path, kind: str, planar: bool) -> None:
    colour, alpha = picture(130, 150).astype(float), np.random.default_rng(5).integers(0, 256, (130, 150, 1))
    expected = np.rint(colour * alpha / 255 + 255 * (1 - alpha / 255))
    straight = kind == "unassalpha"
    rgba = np.concatenate([colour if straight else np.rint(colour * alpha / 255), alpha], axis=2).astype(np.uint8)
    stored = rgba.transpose(2, 0, 1) if planar else rgba
    options = {"extrasamples": [kind], "planarconfig": "separate" if planar else "contig", "compression": "lzw"}
    slide = open_slide(write(tmp_path / "a.tif", stored, **options), "tiff")
    assert np.abs(whole(slide) - expected).max() <= 1
    assert any("laid on white" in note for note in slide.notes)


def test_cmyk_planes_and_contiguous_are_one_picture(tmp_path: Path) -> None:
    cmyk = np.random.default_rng(5).integers(0, 256, (100, 120, 4)).astype(np.uint8)
    options = {"photometric": "separated", "compression": "lzw"}
    together = open_slide(write(tmp_path / "a.tif", cmyk, **options), "tiff")
    apart = open_slide(write(tmp_path / "b.tif", cmyk.transpose(2, 0, 1), planarconfig="separate", **options), "tiff")
    np.testing.assert_array_equal(whole(together), whole(apart))
    np.testing.assert_array_equal(whole(together), whole(open_slide(tmp_path / "a.tif", "openslide")))


@pytest.mark.parametrize("code", [33003, 33005])
def test_aperio_jpeg_2000(tmp_path: Path, code: int) -> None:
    pixels = picture(256, 256)
    r, g, b = (pixels[..., i].astype(float) for i in range(3))
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    ycbcr = np.stack([luma, 128 + 0.564334 * (b - luma), 128 + 0.713267 * (r - luma)], axis=-1)
    stored = np.clip(np.rint(ycbcr), 0, 255).astype(np.uint8) if code == 33003 else pixels
    codestreams = (
        imagecodecs.jpeg2k_encode(stored[y : y + 128, x : x + 128], codecformat="j2k", reversible=True, mct=False)
        for y in (0, 128)
        for x in (0, 128)
    )
    tifffile.imwrite(
        tmp_path / "a.tif",
        codestreams,
        description="Aperio Image Library v11|AppMag = 20|MPP = 0.4990",
        shape=pixels.shape,
        dtype=np.uint8,
        tile=(128, 128),
        photometric="rgb",
        compression=code,
        metadata=None,
    )
    ours, theirs = (whole(open_slide(tmp_path / "a.tif", reader)).astype(int) for reader in ("tiff", "openslide"))
    assert np.abs(ours - pixels).max() <= (2 if code == 33003 else 0)
    assert np.abs(ours - theirs).max() <= 1  # OpenSlide rounds the colour conversion by table


def test_bits_that_are_no_slide_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "bits.tif", picture(64, 64)[..., 0] > 128, photometric="minisblack", tile=(32, 32))
    with pytest.raises(UnreadableSlideError, match="of 1 bit:"):
        open_slide(tmp_path / "bits.tif")


# JPEG: against OpenSlide, and damage that libjpeg only warns of


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("tile", [(128, 128), (64, 192)])
def test_jpeg_equals_openslide(tmp_path: Path, subsampling: tuple[int, int], tile: tuple[int, int]) -> None:
    """One libjpeg-turbo in both with one upsampling: no difference at all where the versions agree."""
    options = {"compression": "jpeg", "subsampling": subsampling, "tile": tile}
    path = write(tmp_path / "a.tif", picture(300, 410), **options)
    slide = open_slide(path, "tiff")
    assert slide.stored_levels[0].page.photometric.name == "YCBCR"  # type: ignore[attr-defined]
    ours, theirs = whole(slide).astype(int), whole(open_slide(path, "openslide"))
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - picture(300, 410)).mean() < 8


def test_rgb_jpeg_as_aperio_writes_it(tmp_path: Path) -> None:
    pixels = picture(300, 410)
    options = {"compression": "jpeg", "subsampling": (1, 1), "compressionargs": {"outcolorspace": "rgb"}}
    path = write(tmp_path / "a.svs", pixels, description="Aperio x|AppMag = 40|MPP = 0.2500", **options)
    slide, theirs = open_slide(path), open_slide(path, "openslide")
    assert (slide.format, slide.objective_power, slide.mpp_claims[0].source) == ("svs", 40, "aperio.MPP")
    assert np.abs(whole(slide).astype(int) - whole(theirs)).max() <= 1
    assert np.abs(whole(slide).astype(int) - pixels).mean() < 6


def test_striped_jpeg(tmp_path: Path) -> None:
    pixels = picture(300, 410)
    path = write(tmp_path / "a.tif", pixels, compression="jpeg", tile=None, rowsperstrip=64)
    np.testing.assert_array_equal(whole(open_slide(path, "tiff")), tifffile.imread(path))


def tile_jpeg() -> bytes:
    return bytes(imagecodecs.jpeg8_encode(picture(256, 256), level=90, subsampling="420"))


def test_a_whole_jpeg_passes_and_a_blank_one_too() -> None:
    check_jpeg(tile_jpeg(), YX(256, 256))
    check_jpeg(tile_jpeg() + bytes(40), YX(256, 256))
    blank = np.full((256, 256, 3), 255, np.uint8)
    check_jpeg(bytes(imagecodecs.jpeg8_encode(blank, level=30, optimize=True)), YX(256, 256))
    header = jpeg_header(tile_jpeg())
    assert (header.size, header.blocks, header.frame) == (YX(256, 256), 16 * 16 * 6, 0xC0)


def test_a_jpeg_that_is_cut_holed_or_too_large_is_damage() -> None:
    data = tile_jpeg()
    middle = len(data) // 2
    with pytest.raises(EOFError, match="too early"):
        check_jpeg(data[:middle], YX(256, 256))
    with pytest.raises(EOFError, match="hole"):
        check_jpeg(data[:middle] + bytes(1024) + data[middle + 1024 :], YX(256, 256))
    with pytest.raises(ValueError, match="expected a JPEG of 240 x 240"):
        check_jpeg(data, YX(240, 240))
    with pytest.raises(ValueError, match="no JPEG frame header"):
        check_jpeg(bytes(500), YX(256, 256))


def replace_tile(path: Path, index: int, payload: bytes) -> None:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    assert len(payload) <= count
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(payload.ljust(count, b"\0"))


def test_a_tile_smaller_than_its_place_is_damage(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(700, 700), levels=1)
    small = bytes(imagecodecs.jpeg8_encode(picture(64, 64), level=30))
    replace_tile(path, 4, small[:-2].rstrip(b"\0") + small[-2:])
    damaged: list[Box] = []
    slide = TiffReader(path)
    with pytest.raises(DamagedSlideError, match="tile 4"):
        whole(slide)
    read = slide.read(0, Box(0, 0, 700, 700), damaged)
    assert damaged == [Box(256, 256, 512, 512)]
    assert (read[256:512, 256:512] == DAMAGED_RGB).all()


def test_damage_is_named_in_the_shown_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", picture(200, 300), compression="adobe_deflate", extratags=[(274, 3, 1, 6, True)])
    replace_tile(path, 6, bytes(20))  # row 1, column 1 of four by five tiles of 64 px
    damaged: list[Box] = []
    slide = open_slide(path)
    assert slide.levels[0].shape == (300, 200)
    read = slide.read(0, Box(0, 0, 300, 200), damaged)
    assert damaged == [Box(64, 200 - 128, 128, 200 - 64)]
    assert (read[64:128, 72:136] == DAMAGED_RGB).all()


def test_deflate_of_the_wrong_size_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", picture(200, 200), compression="adobe_deflate")
    replace_tile(path, 5, bytes(imagecodecs.deflate_encode(bytes(64 * 60 * 3))))
    with pytest.raises(DamagedSlideError, match="expected 12288 bytes, found 11520"):
        whole(open_slide(path, "tiff"))


def test_tiles_never_written_are_white_and_no_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", picture(200, 200), compression="jpeg")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        counts = list(tiff.pages.first.databytecounts)
        tiff.pages.first.tags[325].overwrite([0 if i == 5 else count for i, count in enumerate(counts)])
    damaged: list[Box] = []
    slide = open_slide(path, "tiff")
    read = slide.read(0, Box(0, 0, 200, 200), damaged)
    assert not damaged
    assert (read[64:128, 64:128] == 255).all()
    assert not (read[128:192, 64:128] == 255).all()


@pytest.mark.parametrize(("tag", "value"), [(325, 0xE0000000), (322, 1 << 30)])
def test_openslide_is_kept_from_files_that_would_end_the_process(tmp_path: Path, tag: int, value: int) -> None:
    path = write(tmp_path / "a.tif", picture(64, 64), compression="adobe_deflate")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags[tag].overwrite(value)
    with pytest.raises(UnreadableSlideError, match="broken TIFF"):
        open_slide(path, "openslide")


def test_a_tag_that_declares_more_than_the_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", picture(64, 64))
    with tifffile.TiffFile(path) as tiff:
        entry = tiff.pages.first.tags[305].offset
    with path.open("r+b") as file:
        file.seek(entry + 4)
        file.write((3_000_000_000).to_bytes(4, "little"))
    with pytest.raises(UnreadableSlideError, match="tag 305 declares 3000000000 values"):
        open_slide(path)


# Layouts


def philips_xml(n_levels: int) -> str:
    spacings = [0.00025 * 2**i for i in range(n_levels)]
    levels = "".join(
        '<DataObject ObjectType="PixelDataRepresentation">'
        f'<Attribute Name="DICOM_PIXEL_SPACING">&quot;{s}&quot; &quot;{s}&quot;</Attribute></DataObject>'
        for s in spacings
    )
    macro = '<Attribute Name="PIM_DP_IMAGE_TYPE">MACROIMAGE</Attribute>'
    wsi = f'<Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute><Attribute Name="L"><Array>{levels}</Array></Attribute>'
    scanned = "".join(f'<DataObject ObjectType="DPScannedImage">{inner}</DataObject>' for inner in (macro, wsi))
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        f'<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array>{scanned}</Array></Attribute></DataObject>'
    )


def test_philips_levels_are_padded_and_halve(tmp_path: Path) -> None:
    pixels = picture(640, 768)
    with tifffile.TiffWriter(tmp_path / "a.tiff") as tiff:
        for level in range(4):
            shrunk = pixels[:: 2**level, :: 2**level]
            padding = [(0, -side % 256) for side in shrunk.shape[:2]]
            padded = np.pad(shrunk, (*padding, (0, 0)), constant_values=255)
            options = {"description": philips_xml(4), "software": "Philips DP v1.0"} if level == 0 else {}
            tiff.write(
                padded,
                photometric="rgb",
                compression="jpeg",
                tile=(256, 256),
                metadata=None,
                subfiletype=0,
                **options,
            )
    slide = open_slide(tmp_path / "a.tiff")
    assert (slide.reader, slide.format) == ("tiff", "philips")
    assert [level.downsample for level in slide.levels] == [1, 2, 4, 8]
    assert slide.mpp_claims[0].source == "Philips DICOM_PIXEL_SPACING"
    assert slide.mpp_claims[0].mpp_yx == pytest.approx((0.25, 0.25))
    for level in range(4):
        shrunk = pixels[:: 2**level, :: 2**level]
        assert np.abs(slide.read(level, Box(0, 0, *shrunk.shape[:2])).astype(int) - shrunk).mean() < 8


def test_one_huge_raw_strip_is_read_in_bands(tmp_path: Path) -> None:
    pixels = np.tile(picture(200, 500), (20, 6, 1))
    path = write(tmp_path / "a.tif", pixels, tile=None, rowsperstrip=len(pixels))
    slide = TiffReader(path)
    assert slide.stored_levels[0].tile.y < 120
    box = Box(1950, 100, 2100, 900)
    tracemalloc.start()
    np.testing.assert_array_equal(slide.read(0, box), pixels[1950:2100, 100:900])
    assert tracemalloc.get_traced_memory()[1] < pixels.nbytes / 4
    tracemalloc.stop()
    np.testing.assert_array_equal(whole(slide), pixels)


def test_three_levels_in_subifds(tmp_path: Path) -> None:
    pixels = picture(600, 700)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", bigtiff=True) as tiff:
        metadata = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm"}
        metadata |= {"PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm"}
        tiff.write(pixels, subifds=2, photometric="rgb", tile=(128, 128), metadata=metadata)
        for level in (1, 2):
            tiff.write(pixels[:: 2**level, :: 2**level], subfiletype=1, photometric="rgb", tile=(128, 128))
    slide = open_slide(tmp_path / "a.ome.tif")
    assert [level.downsample for level in slide.levels] == [1, 2, 4]
    assert slide.mpp_claims[0].mpp_yx == pytest.approx((0.25, 0.25))
    np.testing.assert_array_equal(whole(slide, 2), pixels[::4, ::4])


# Threads and processes


def test_threads_give_the_same_pixels_and_the_same_damage(tmp_path: Path) -> None:
    path = write_deflate(tmp_path / "a.tif", picture(700, 900))
    replace_tile(path, 9, bytes(10))
    replace_tile(path, 20, bytes(10))
    found = []
    for threads in (1, 4):
        damaged: list[Box] = []
        found.append((open_slide(path, threads=threads).read(0, Box(10, 10, 690, 890), damaged), damaged))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert len(found[0][1]) == 2


def read_mean(slide: Slide) -> float:
    return float(whole(slide).mean())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_a_handle_survives_a_fork(tmp_path: Path, reader: str) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(700, 700), levels=1)
    slide = open_slide(path, reader)
    expected = read_mean(slide)
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    children = [context.Process(target=lambda: sender.send(read_mean(slide))) for _ in range(2)]
    for child in children:
        child.start()
    found = [receiver.recv() for _ in children] + [read_mean(slide)]
    for child in children:
        child.join()
    assert found == [expected] * 3


def test_a_slide_that_is_dropped_closes_its_file(tmp_path: Path) -> None:
    path = write_deflate(tmp_path / "a.tif", picture(200, 200))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        open_slide(path)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# Real slides


def compare(path: Path) -> int:
    """Return the greatest difference between both readers: about 100 tiles of level 0, the others from their corner.

    OpenSlide takes places in level-0 pixels only. Where a level is 2.0005 times smaller it interpolates by a part of a
    pixel, anywhere but in the corner.
    """
    ours, theirs = open_slide(path, "tiff"), open_slide(path, "openslide")
    greatest = 0
    for level, (mine, other) in enumerate(zip(ours.levels, theirs.levels, strict=False)):
        assert mine.shape == other.shape
        tile = (mine.tile or YX(256, 256)) if level == 0 else mine.shape
        corners = [(y, x) for y in range(0, mine.shape.y, tile.y) for x in range(0, mine.shape.x, tile.x)]
        for y, x in corners[:: max(1, len(corners) // 100)]:
            box = Box(y, x, y + tile.y, x + tile.x).clipped(mine.shape)
            difference = np.abs(ours.read(level, box).astype(int) - theirs.read(level, box))
            greatest = max(greatest, int(difference.max()))
    return greatest


@pytest.mark.parametrize(
    ("name", "greatest"),
    [
        ("CMU-1-Small-Region.svs", 0),
        ("tcga-cr-7395-01a-01-ts1.svs", 0),
        ("edge/CMU-1-Small-Region.jpeg.tiff", 0),
        ("edge/boxes.tiff", 0),
        ("edge/generic_pyramid_no_mpp.tif", 0),
        ("edge/pyramid_subifd.ome.tif", 0),
        ("edge/small.svs", 0),
        ("edge/tiff_16bit_RGB.tiff", 0),
        ("edge/tiff_tiled_cmyk_jpeg.tif", 0),
        ("edge/tiff_tiled_planar_lzw.tiff", 0),
        ("edge/tiff_tiled_ycbcr_jpeg_2x2_sampling.tif", 0),
        ("edge/rgba_geotiff.tiff", 1),  # both lay alpha on white; one rounds after each step, the other once
    ],
)
def test_real_slides_equal_openslide(real_slides: Path, name: str, greatest: int) -> None:
    assert compare(real_slides / name) <= greatest


def test_openslide_reads_far_corners_of_a_level_at_their_place(real_slides: Path) -> None:
    path = real_slides / "tcga-cr-7395-01a-01-ts1.svs"
    ours, theirs = open_slide(path), open_slide(path, "openslide")
    box = Box(1400, 1800, 1656, 2056)
    reference = ours.read(1, box)

    def error(shift: int) -> float:
        moved = theirs.read(1, Box(box.y0 + shift, box.x0 + shift, box.y1 + shift, box.x1 + shift))
        return float(np.abs(moved.astype(int) - reference).mean())

    assert error(0) < 0.4 * min(error(-1), error(1))


def test_openslide_ignores_orientation_and_we_do_not(real_slides: Path) -> None:
    path = real_slides / "edge/test_orient6.tif"
    ours, theirs = open_slide(path), open_slide(path, "openslide")
    assert ours.levels[0].shape == theirs.levels[0].shape[::-1]
    assert not np.array_equal(whole(ours), np.rot90(whole(theirs), -1))  # it turns each tile on its own


def test_what_openslide_cannot_open_equals_tifffile(real_slides: Path) -> None:
    for name in ("edge/CMU-1-Small-Region.webp.tiff", "kidney-48-5.tif"):
        np.testing.assert_array_equal(whole(open_slide(real_slides / name)), tifffile.imread(real_slides / name))
    planes = tifffile.imread(real_slides / "edge/cells.ome.tif")
    np.testing.assert_array_equal(whole(open_slide(real_slides / "edge/cells.ome.tif")), planes.transpose(1, 2, 0))


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_a_decimal_comma_is_read(tmp_path: Path, reader: str) -> None:
    description = "Aperio Image Library v11.2.1\n256x256 (256x256) JPEG/RGB Q=70|AppMag = 40|MPP = 0,2528"
    write(tmp_path / "a.svs", picture(256, 256), tile=(256, 256), compression="jpeg", description=description)
    slide = open_slide(tmp_path / "a.svs", reader)
    assert (slide.mpp_claims[0].mpp_yx, slide.objective_power) == ((0.2528, 0.2528), 40)


@pytest.mark.parametrize("by", ["MaxSampleValue", "OME", "statistic"])
def test_twelve_bits_in_sixteen_scale_to_white(tmp_path: Path, by: str) -> None:
    pixels = np.linspace(0, 4095, 128 * 128 * 3).reshape(128, 128, 3).astype(np.uint16)
    path = tmp_path / "a.ome.tif"
    if by == "OME":
        options = {"axes": "YXS", "SignificantBits": 12}
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), metadata=options, ome=True)
    else:
        most = 4095 if by == "MaxSampleValue" else 3000
        write(path, pixels, extratags=[(281, 3, 3, (most,) * 3, True)])
    scale = 65535 if by == "statistic" else 4095
    slide = open_slide(path, "tiff")
    np.testing.assert_array_equal(whole(slide), np.floor(pixels * (255 / scale) + 0.5).astype(np.uint8))
    assert any(f"* 255 / {scale}" in note for note in slide.notes)


@pytest.mark.parametrize(("unit", "size"), [("micron", 0.25), ("mm", 2.5e-4), ("nm", 250), ("inch", 0.25 / 25_400)])
def test_units_of_imagej_and_ome(tmp_path: Path, unit: str, size: float) -> None:
    """ImageJ has the unit in words and its pixels in TIFF's resolution; OME has both in words."""
    pixels = picture(100, 100)
    metadata = {"unit": unit}
    tifffile.imwrite(tmp_path / "a.tif", pixels[None], imagej=True, metadata=metadata, resolution=(1 / size, 1 / size))
    named = {"micron": "µm", "inch": "in"}.get(unit, unit)
    sizes = {f"PhysicalSize{axis}": size for axis in "XY"} | {f"PhysicalSize{axis}Unit": named for axis in "XY"}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="rgb", metadata={"axes": "YXS", **sizes})
    for name, source in (("a.tif", "ImageJ unit"), ("a.ome.tif", "OME PhysicalSize")):
        claim = open_slide(tmp_path / name).mpp_claims[0]
        assert claim.source == source
        np.testing.assert_allclose(claim.mpp_yx, 0.25, rtol=1e-5)

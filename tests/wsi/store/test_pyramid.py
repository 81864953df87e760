"""Every level of every path: the mean of the one above as stored, whole, white beyond the slide."""

import errno
import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from making import RGB, picture, write_deflate, write_pyramid
from numpy.typing import NDArray

import wsi.zarr_jpeg  # noqa: F401
from wsi.errors import says_damage
from wsi.pixels.resample import halve
from wsi.progress.outcome import Status
from wsi.readers.protocol import level_downsample
from wsi.readers.tiff.reader import TiffReader
from wsi.store.options import VerifyOptions
from wsi.store.shards import ShardFile
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify
from wsi.tiling.options import TileOptions
from wsi.tiling.plan import SlidePlan
from wsi.tiling.tasks import settle
from wsi.tiling.tasks.strips import averaging_tiles, piece_shape
from wsi.tiling.tiler import tile
from wsi.tiling.work import Receipt
from wsi.units import YX, Box

Tiled = Callable[..., TileStore]
CASES = Path(__file__).resolve().parents[3].parent / "shared" / "cases"
STAIN = (150, 80, 160)


def check_levels(store: TileStore, tolerance: float = 0.5) -> None:
    levels = [store.read_level(i).astype(float) for i in range(len(store.grid.levels()))]
    for finer, coarser in pairwise(levels):
        height, width = coarser.shape[1:]
        mean = finer[:, : 2 * height, : 2 * width].reshape(3, height, 2, width, 2).mean((2, 4))
        assert np.abs(mean - coarser).max() <= tolerance


def is_whole(store: TileStore) -> bool:
    return verify(VerifyOptions(stores=(store.path,), threads=1)).outcomes[0].status is Status.DONE


@settings(max_examples=5)
@given(st.integers(30, 1560), st.integers(30, 1200), st.sampled_from([32, 34, 64]))
@example(513, 40, 32)  # one row of pixels begins a second region, which no coarser level reaches
@example(521, 521, 32)
@example(1025, 530, 32)
def test_slides_of_every_size_finish(
    tmp_path_factory: pytest.TempPathFactory, tiled: Tiled, height: int, width: int, tile_px: int
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    pixels = np.full((height, width, 3), (236, 238, 237), np.uint8)
    texture = np.random.default_rng(1).integers(-40, 40, (height, width, 1))
    stained = np.clip(STAIN + texture, 0, 255).astype(np.uint8)
    pixels[-40:], pixels[:, -40:] = stained[-40:], stained[:, -40:]
    store = tiled(write_deflate(folder / "a.tif", pixels), folder / "out", tile_px=tile_px, min_tissue=0.0)
    assert store.n_tiles
    assert is_whole(store)
    check_levels(store)
    last = store.tiles_yx[-1].tolist()
    true = pixels[last[0] * tile_px :, last[1] * tile_px :][:tile_px, :tile_px]
    found = store.read_tiles([-1])[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(found[: true.shape[0], : true.shape[1]], true)
    assert (found[true.shape[0] :] == 255).all()
    shutil.rmtree(folder)


def test_levels_above_the_fifth_are_there(tmp_path: Path, tiled: Tiled) -> None:
    path = write_deflate(tmp_path / "a.tif", picture(1500, 1900))
    store = tiled(path, tmp_path / "out", tile_px=32)
    assert len(store.grid.levels()) == 7
    assert (store.read_level(6) < 230).any()
    check_levels(store)


def test_levels_of_a_trimmed_region_are_the_mean_of_what_is_left(
    tmp_path: Path, tiled: Tiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.full((2600, 2650, 3), (236, 238, 237), np.uint8)
    pixels[1800:2300, 1750:2350] = picture(500, 600)
    pixels[:1500] = np.clip(pixels[:1500].astype(int) - 15, 0, 255)  # a faint shadow, kept and taken out again
    trimmed: list[YX] = []
    trim = settle._trim

    def noting(plan: SlidePlan, receipt: Receipt, wanted: NDArray[np.bool_]) -> None:
        trimmed.append(receipt.region)
        trim(plan, receipt, wanted)

    monkeypatch.setattr(settle, "_trim", noting)
    store = tiled(write_deflate(tmp_path / "a.tif", pixels), tmp_path / "out", tile_px=128)
    assert trimmed
    assert store.provenance["single_pass"]
    check_levels(store)


def test_levels_made_of_copied_tiles_are_the_mean_of_their_pixels(tmp_path: Path, tiled: Tiled) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(1024, 1024), levels=1)
    store = tiled(path, tmp_path / "out", assume_mpp=None)
    finer = np.ascontiguousarray(store.read_level(0).transpose(1, 2, 0))
    chunk = ShardFile(Path(store.path) / "1" / "c" / "0" / "0" / "0", 64).chunk(0)
    expected = store.codec_of(1).encode(halve(finer[:512, :512]))
    assert chunk == expected


def test_halving_keeps_the_mean() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:2048, :2048]
    pictures = {
        "flat": np.full((2048, 2048), 133),
        "ramp": x * 255 / 2047,
        "both": (x + y) * 255 / 4094,
        "steep": (2 * x + y) * 255 / 6141,
        "noise": rng.integers(0, 256, (2048, 2048)),
        "white": rng.integers(254, 256, (2048, 2048)),
    }
    for name, values in pictures.items():
        level = np.repeat(np.rint(values).astype(np.uint8)[..., None], 3, axis=2)
        first = level.mean()
        for _ in range(4):  # coarser ones hold too few pixels for so narrow a bound
            level = halve(level)
        assert abs(level.mean() - first) < 0.01, name


def test_halves_go_by_their_place() -> None:
    """A picture cut anywhere is halved as the whole one is, black pixels and odd ends included."""
    pixels = np.random.default_rng(4).integers(0, 256, (601, 703, 3), dtype=np.uint8)
    pixels[300:] |= 1  # none is black
    whole, blocks = halve(pixels), pixels[:600, :702].reshape(300, 2, 351, 2, 3).mean((1, 3))
    assert np.abs(whole - blocks).max() == 0.5
    halves = (whole - blocks)[blocks % 1 == 0.5]
    assert abs((halves > 0).mean() - 0.5) < 0.01
    for y, x in ((0, 0), (155, 131), (7, 250)):
        np.testing.assert_array_equal(halve(pixels[2 * y :, 2 * x :], YX(y, x)), whole[y:, x:])


def write_padded(path: Path, pixels: RGB, padding: int) -> Path:
    """Write JPEG tiles of which what lies beyond the slide is of one grey."""
    height, width = pixels.shape[:2]
    padded = np.full((-(-height // 256) * 256, -(-width // 256) * 256, 3), padding, np.uint8)
    padded[:height, :width] = pixels
    tiles = (
        imagecodecs.jpeg8_encode(np.ascontiguousarray(padded[y : y + 256, x : x + 256]), 90, subsampling="444")
        for y in range(0, len(padded), 256)
        for x in range(0, padded.shape[1], 256)
    )
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            tiles, shape=pixels.shape, dtype=np.uint8, tile=(256, 256), photometric="ycbcr", compression="jpeg",
            subsampling=(1, 1), resolution=(20000, 20000), resolutionunit="CENTIMETER", metadata=None,
        )  # fmt: skip
    return path


@pytest.mark.parametrize("codec", ["auto", "jpeg", "zstd"])
def test_beyond_the_slide_is_white(tmp_path: Path, tiled: Tiled, codec: str) -> None:
    texture = np.random.default_rng(1).integers(-40, 40, (700, 610, 1))
    pixels = np.clip(STAIN + texture, 0, 255).astype(np.uint8)
    pixels[:512, :400] = pixels[:400] = 240
    path = write_padded(tmp_path / "a.tif", pixels, 0)
    store = tiled(path, tmp_path / "out", codec=codec, assume_mpp=None)
    tiles = dict(zip(map(tuple, store.tiles_yx.tolist()), store.read_tiles(range(store.n_tiles)), strict=True))
    assert (tiles[2, 2][:, 700 - 512 :] == 255).all()
    assert (tiles[2, 2][:, :, 610 - 512 :] == 255).all()
    assert abs(tiles[2, 2][0, :188, :98].mean() - 150) < 3
    assert (store.read_level(1)[:, -1].mean(axis=1) > 70).all()  # no black bleeds in
    chunk = ShardFile(Path(store.path) / "1" / "c" / "0" / "0" / "0", 64).chunk(8 + 1)
    assert chunk is not None
    assert (store.codec_of(1).pixels(chunk, 256)[700 // 2 - 256 + 8 :] > 240).all()  # as stored, not as read


@pytest.mark.parametrize("codec", ["auto", "zstd"])
@pytest.mark.parametrize("mpp", [0.5, 2.0])
def test_holes_of_a_level_are_filled_from_the_finer_one(tmp_path: Path, tiled: Tiled, codec: str, mpp: float) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(1500, 1900), levels=3)
    whole = tiled(path, tmp_path / "whole", codec=codec, assume_mpp=None, target_mpp=mpp)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for page in tiff.pages[1:]:
            tag = page.tags["TileByteCounts"]
            tag.overwrite([0] * len(tag.value))
    store = tiled(path, tmp_path / "out", codec=codec, assume_mpp=None, target_mpp=mpp)
    np.testing.assert_array_equal(store.tiles_yx, whole.tiles_yx)
    assert is_whole(store)
    assert "taken from the finer level" in " ".join(store.provenance["warnings"])
    for level in range(min(3, len(store.grid.levels()))):
        found, true = store.read_level(level).astype(float), whole.read_level(level)
        size = [n // 16 * 16 for n in found.shape[1:]]
        blocks = [
            a[:, : size[0], : size[1]].reshape(3, size[0] // 16, 16, size[1] // 16, 16).mean((2, 4))
            for a in (found, true.astype(float))
        ]
        assert np.abs(blocks[0] - blocks[1]).mean() < 4


def test_a_tile_that_the_slide_lacks_is_background_and_readable(tmp_path: Path, tiled: Tiled) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(1024, 1024), levels=1)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        tag.overwrite([0 if i == 5 else n for i, n in enumerate(tag.value)])
    corners = [[0, 0], [1023, 0], [1023, 1023], [0, 1023], [0, 0]]
    (tmp_path / "a.geojson").write_text(
        json.dumps({"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [corners]}})
    )
    store = tiled(path, tmp_path / "out", assume_mpp=None, roi=tmp_path / "a.geojson", roi_mode="replace")
    assert store.n_tiles == 16
    tiles = store.read_tiles(range(16))
    assert (tiles[5] >= 254).all()
    assert is_whole(store)
    assert any("1 of 16 tiles is not in the file" in line for line in store.provenance["warnings"])


def test_one_flipped_bit_of_a_chunk_is_told(tmp_path: Path, tiled: Tiled) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(600, 600), levels=1)
    store = tiled(path, tmp_path / "out", assume_mpp=None)
    assert is_whole(store)
    shard = Path(store.path) / "0" / "c" / "0" / "0" / "0"
    data, (offset, size) = shard.read_bytes(), min(p for p in ShardFile(shard, 256).index.tolist() if p[0] < 1 << 60)
    for place in range(offset, offset + size, size // 23):
        spoilt = bytearray(data)
        spoilt[place] ^= 4
        shard.write_bytes(spoilt)
        assert not is_whole(TileStore(store.path))
    array = zarr.open_array(Path(store.path) / "0", mode="r")
    with pytest.raises(ValueError, match="checksum"):
        array[:]


def test_changed_metadata_are_told(tmp_path: Path, small_store: TileStore) -> None:
    shutil.copytree(small_store.path, tmp_path / "a.zarr")
    file = tmp_path / "a.zarr" / "zarr.json"
    document = json.loads(file.read_text())
    document["attributes"]["gigamil"]["l0_px_per_px"] = 2.0
    file.write_text(json.dumps(document))
    assert not is_whole(TileStore(tmp_path / "a.zarr"))


_PAYLOAD = TiffReader.payload


def test_a_failing_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, write in (("d", write_deflate), ("p", write_pyramid)):
        path = write(tmp_path / f"{name}.tif", picture(900, 1200))

        for error in (OSError(errno.EIO, "Input/output error"), MemoryError()):
            calls = iter(range(10**6))

            def failing(self: TiffReader, level: int, index: int, e: BaseException = error, c: object = calls) -> bytes:
                if next(c) == 12:  # type: ignore[call-overload]
                    raise e
                return _PAYLOAD(self, level, index)

            options = TileOptions(
                slides=(path,), out=tmp_path / type(error).__name__, workers=0, assume_mpp=0.5, on_damage="skip"
            )
            with monkeypatch.context() as patch:
                patch.setattr(TiffReader, "payload", failing)
                assert tile(options).outcomes[0].status is Status.FAILED
            assert tile(options).outcomes[0].status is Status.DONE
            assert zarr.open_array(options.out / f"{name}.zarr" / "tiles" / "damaged", mode="r").shape == (0, 2)


def test_what_speaks_of_the_bytes() -> None:
    assert says_damage(OSError("Invalid data stream"))
    assert says_damage(EOFError("expected 5 bytes"))
    assert not says_damage(OSError(errno.EIO, "Input/output error"))
    assert not says_damage(MemoryError())


def test_the_tiles_that_average_a_damaged_pixel() -> None:
    assert list(averaging_tiles(512, 768, 256, 1.0)) == [2]
    assert list(averaging_tiles(300, 384, 256, 1.499)) == [0, 1]  # tile 1 begins at 383.744, within the last pixel
    assert list(averaging_tiles(300, 383, 256, 1.499)) == [0]
    assert list(averaging_tiles(384, 400, 256, 1.499)) == [1]


@pytest.mark.parametrize("factor", [1.0, 1.24, 3.1, 4.0, 10.0, 40.0])
@pytest.mark.parametrize("native", [None, YX(256, 256), YX(16, 61000)])
@pytest.mark.parametrize("side", [256, 4096])
def test_pieces_are_bounded(factor: float, native: YX | None, side: int) -> None:
    piece = piece_shape(YX(side, 61000), factor, native)
    assert piece.y * piece.x * 3 * factor**2 <= max(17 << 20, 3 * 61000 * factor * factor)
    assert min(piece) >= 1


def test_pieces_make_the_pixels_of_one_read(tmp_path: Path, tiled: Tiled, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_deflate(tmp_path / "a.tif", picture(900, 1200))
    one = tiled(path, tmp_path / "one", target_mpp=1.55)
    monkeypatch.setattr("wsi.tiling.tasks.strips.PIECE_BYTES", 100_000)
    many = tiled(path, tmp_path / "many", target_mpp=1.55)
    assert np.abs(one.read_level(0).astype(int) - many.read_level(0)).max() <= 1


def test_true_ratios_of_levels() -> None:
    assert level_downsample((3500, 3500), (14106, 14106), 14106 / 3500) == 14106 / 3500
    assert level_downsample((3525, 2510), (14103, 10041), 4.0004) == 4.0
    assert level_downsample((30, 30), (121, 121), 121 / 30) == 4.0


def test_places_of_levels_are_true(small_store: TileStore) -> None:
    """Image levels are averaged, the mask's are samples: the first of each block stays where it is."""
    group = zarr.open_group(small_store.path, mode="r")
    for key, averaged in (("", True), ("labels/tissue", False), ("overview", True)):
        attributes = (group[key] if key else group).attrs
        datasets = attributes["ome"]["multiscales"][0]["datasets"]
        um = small_store.mpp if not key else small_store.tissue_mask()[1]
        offset = (um - small_store.mpp) / 2
        for level, dataset in enumerate(datasets):
            found = [t["translation"][-1] for t in dataset["coordinateTransformations"] if t["type"] == "translation"]
            expected = offset + (um * (2**level - 1) / 2 if averaged else 0)
            assert (found or [0.0])[0] == pytest.approx(expected)
    mask, sampled = (np.asarray(group[f"labels/tissue/{i}"]) for i in (0, 2))
    np.testing.assert_array_equal(sampled, mask[::4, ::4])


def test_corners_at_a_fractional_factor(tmp_path: Path, deflate_slide: Path, tiled: Tiled) -> None:
    store = tiled(deflate_slide, tmp_path, target_mpp=0.83, tile_px=34)
    np.testing.assert_array_equal(store.coords_l0_yx(), np.rint(store.tiles_yx * 34 * 1.66).astype(int))
    assert store.l0_px_per_px == pytest.approx(1.66)


def test_a_fractional_scale_is_the_mean_by_opencv(tmp_path: Path, slide_pixels: RGB, tiled: Tiled) -> None:
    store = tiled(write_deflate(tmp_path / "a.tif", slide_pixels), tmp_path, target_mpp=0.8, keep_background=True)
    source = np.ascontiguousarray(slide_pixels[:1496, :1896])
    true = cv2.resize(source, (1185, 935), interpolation=cv2.INTER_AREA).astype(int)
    found = store.read_level(0).transpose(1, 2, 0)[:935, :1185]
    assert np.abs(found - true).max() <= 1


def test_the_case_with_a_hole(tmp_path: Path, tiled: Tiled) -> None:
    path = CASES / "aperio_zero_l1.svs"
    if not path.is_file():
        pytest.skip("the folder of cases is not there")
    with tifffile.TiffFile(path) as tiff:
        counts = tiff.pages[1].databytecounts if len(tiff.pages) > 1 else ()
    store = tiled(path, tmp_path / "out", assume_mpp=None)
    assert 0 in counts or any("finer level" in line for line in store.provenance["warnings"])
    assert 38 <= store.n_tiles <= 42  # without the finer level, the tissue of nine is lost
    assert is_whole(store)
    assert TiffReader(path).read(1, Box(0, 0, 8, 8)).shape == (8, 8, 3)

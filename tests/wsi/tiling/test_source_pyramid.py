"""Levels as the slide has them: copied undecoded, in their place, and known to all who read a store."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
import yaozarrs
import zarr
from making import picture, write_deflate, write_own_levels, write_pyramid

import wsi.zarr_jpeg  # noqa: F401
from wsi.errors import RecipeMismatchError, StoreError
from wsi.export.ome_tiff import export_ome_tiff
from wsi.export.ome_zarr import export_ome_zarr
from wsi.export.options import OmeTiffOptions, OmeZarrOptions
from wsi.readers.tiles import DAMAGED_RGB
from wsi.store.grid import SHARD_TILES, Grid, with_levels
from wsi.store.metadata import parse_metadata
from wsi.store.options import VerifyOptions
from wsi.store.shards import ShardFile
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
from wsi.units import YX
from wsi.viewing.documents import slide_document
from wsi.viewing.picture import StorePicture

Tiled = Callable[..., TileStore]
FACTORS, SIDE = (1, 4, 16, 32), 64


def sizes(height: int, width: int, factors: Sequence[int]) -> list[YX]:
    return [YX(height // factor, width // factor) for factor in factors]


@pytest.fixture(scope="module")
def own_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Levels of 1, 4, 16 and 32 whose sizes are rounded down: 2079 x 1990 px at 0.5 um/px."""
    return write_own_levels(tmp_path_factory.mktemp("own") / "own.svs", picture(2079, 1990), sizes(2079, 1990, FACTORS))


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory, own_slide: Path, tiled: Tiled) -> TileStore:
    """Its store of 64-px tiles, of more than one region."""
    return tiled(own_slide, tmp_path_factory.mktemp("stores"), tile_px=SIDE, pyramid="source", assume_mpp=None)


def stored(store: TileStore, level: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which pixels of a level lie in chunks that are stored."""
    held = np.repeat(np.repeat(StorePicture(store).present(level), store.tile_px, 0), store.tile_px, 1)
    height, width = store.grid.levels()[level]
    return held[:height, :width]


def test_every_level_is_what_openslide_reads_of_that_level(own_slide: Path, own_store: TileStore) -> None:
    assert own_store.grid.factors() == [1, 4, 16, 32]
    assert own_store.grid.regions == (3, 2)
    assert own_store.codec_names == ("jpeg",) * 4
    with openslide.OpenSlide(own_slide) as slide:
        assert [YX(y, x) for x, y in slide.level_dimensions] == own_store.grid.levels()
        for level, (x, y) in enumerate(slide.level_dimensions):
            wanted = np.asarray(slide.read_region((0, 0), level, (x, y)))[..., :3]
            found, held = own_store.read_level(level).transpose(1, 2, 0), stored(own_store, level)
            assert held.any()
            assert np.abs(found.astype(int) - wanted)[held].max() <= 1
            assert (found[~held] == 255).all()


def test_tiles_of_every_level_are_copied_undecoded(own_slide: Path, own_store: TileStore) -> None:
    copied = 0
    with tifffile.TiffFile(own_slide) as tiff:
        for level, page in enumerate([tiff.pages[0], *tiff.pages[2:]]):
            side, across = own_store.grid.shard_tiles(level), -(-page.imagewidth // SIDE)
            assert side == max(1, SHARD_TILES // FACTORS[level])
            for row, column in np.argwhere(StorePicture(own_store).present(level)).tolist():
                tiff.filehandle.seek(page.dataoffsets[row * across + column])
                payload = tiff.filehandle.read(page.databytecounts[row * across + column])
                scan = payload[payload.index(b"\xff\xda") :]
                shard = Path(own_store.path) / f"{level}/c/0/{row // side}/{column // side}"
                chunk = ShardFile(shard, side**2).chunk(row % side * side + column % side)
                assert chunk is not None
                assert scan in bytes(chunk)
                copied += 1
    assert copied > 300


def test_the_metadata_tell_where_each_level_lies(own_store: TileStore) -> None:
    yaozarrs.validate_zarr_store(str(own_store.path))
    group = zarr.open_group(own_store.path, mode="r")
    for key in ("", "labels/tissue"):
        datasets: Any = (group[key] if key else group).attrs["ome"]["multiscales"][0]["datasets"]
        um = own_store.tissue_mask()[1] if key else own_store.mpp
        for factor, dataset in zip(FACTORS, datasets, strict=True):
            scale, *shift = dataset["coordinateTransformations"]
            assert scale["scale"][-2:] == pytest.approx([um * factor] * 2)
            inside = (um - own_store.mpp) / 2 if key else own_store.mpp * (factor - 1) / 2
            found = shift[0]["translation"][-2:] if shift else [0.0, 0.0]
            assert found == pytest.approx([inside] * 2)
    # a pixel of a level is the mean of those of level 0 that the transformation says it covers, and of no others
    finest: Any = own_store.read_level(0).astype(float)
    for level, factor in enumerate(FACTORS[1:3], 1):
        height, width = own_store.grid.levels()[level]
        own = own_store.read_level(level).astype(float)
        pixels = stored(own_store, 0)[: height * factor, : width * factor]
        held = pixels.reshape(height, factor, width, factor).all((1, 3))
        half = factor // 2
        off = {
            (dy, dx): _mean_difference(finest, own, factor, held, dy, dx)
            for dy in (-half, 0, half)
            for dx in (-half, 0, half)
        }
        assert off.pop((0, 0)) < 0.7 * min(off.values())


def _mean_difference(finest: Any, own: Any, factor: int, held: Any, dy: int, dx: int) -> float:
    height, width = held.shape
    moved = np.roll(finest, (-dy, -dx), (1, 2))[:, : height * factor, : width * factor]
    means = moved.reshape(3, height, factor, width, factor).mean((2, 4))
    return float(np.abs(means - own)[:, held].mean())


def test_such_a_store_is_whole_and_damage_to_it_is_told(tmp_path: Path, own_store: TileStore) -> None:
    assert verify(VerifyOptions(stores=(Path(own_store.path),))).outcomes[0].reason == ""
    text = (Path(own_store.path) / "zarr.json").read_bytes()
    for was, becomes in ((b"[\n     4,", b"[\n     3,"), (b"[\n     4,", b"[\n     8,"), (b"519,", b"517,")):
        assert was in text
        with pytest.raises(StoreError, match="does not fit"):
            parse_metadata(text.replace(was, becomes, 1), "a.zarr")
    shard = Path(own_store.path) / "2/c/0/0/0"
    data = shard.read_bytes()
    shard.write_bytes(data[:200] + bytes([data[200] ^ 255]) + data[201:])
    try:
        assert "2/c/0" in verify(VerifyOptions(stores=(Path(own_store.path),))).outcomes[0].reason
    finally:
        shard.write_bytes(data)


def test_exports_keep_the_levels(tmp_path: Path, own_store: TileStore) -> None:
    shapes = own_store.grid.levels()
    assert export_ome_tiff(OmeTiffOptions(store=own_store.path, out=tmp_path / "own.ome.tif")).exit_code == 0
    with openslide.OpenSlide(tmp_path / "own.ome.tif") as slide:
        assert [YX(y, x) for x, y in slide.level_dimensions] == shapes
        assert slide.level_downsamples[1:3] == pytest.approx([4, 16], rel=0.01)
        found = np.asarray(slide.read_region((0, 0), 2, slide.level_dimensions[2]))[..., :3]
    assert np.abs(found.astype(int) - own_store.read_level(2).transpose(1, 2, 0)).max() <= 1
    assert export_ome_zarr(OmeZarrOptions(store=own_store.path, out=tmp_path / "own.zarr")).exit_code == 0
    group = zarr.open_group(tmp_path / "own.zarr" / "0", mode="r")
    entry: Any = group.attrs["multiscales"]
    scales = [each["coordinateTransformations"][0]["scale"][-1] for each in entry[0]["datasets"]]
    assert scales == pytest.approx([own_store.mpp * factor for factor in FACTORS])


def test_pages_are_told_the_steps(own_store: TileStore) -> None:
    document = slide_document(StorePicture(own_store), own_store)
    assert document["factors"] == list(FACTORS)
    assert own_store.overview(600).shape[:2] == own_store.grid.levels()[1]


def test_below_the_last_own_level_it_is_halved(tmp_path: Path, own_store: TileStore, tiled: Tiled) -> None:
    path = write_own_levels(tmp_path / "two.svs", picture(2079, 1990), sizes(2079, 1990, (1, 4)))
    store = tiled(path, tmp_path / "out", tile_px=SIDE, pyramid="source", assume_mpp=None)
    assert store.grid.factors() == [1, 4, 8, 16, 32]
    both = stored(store, 1) & stored(own_store, 1)
    assert both.mean() > 0.2
    np.testing.assert_array_equal(store.read_level(1)[:, both], own_store.read_level(1)[:, both])
    for level in (2, 3, 4):
        finer, coarser = store.read_level(level - 1).astype(float), store.read_level(level)
        height, width = store.grid.levels()[level]
        mean = finer[:, : 2 * height, : 2 * width].reshape(3, height, 2, width, 2).mean((2, 4))
        assert np.abs(mean - coarser).mean() < 2
    assert verify(VerifyOptions(stores=(Path(store.path),))).exit_code == 0


def test_a_slide_without_tiles_to_copy_fails_or_is_halved(tmp_path: Path, tiled: Tiled) -> None:
    path = write_deflate(tmp_path / "a.tif", picture(700, 900))
    failed = tile(TileOptions(slides=(path,), out=tmp_path / "no", workers=0, assume_mpp=0.5, pyramid="source"))
    assert failed.exit_code == 1
    assert "--pyramid source: a.tif has no colour JPEG tiles of 256 px" in failed.outcomes[0].reason
    assert not list((tmp_path / "no").iterdir())
    halved, auto = tiled(path, tmp_path / "halved"), tiled(path, tmp_path / "auto", pyramid="auto")
    assert auto.meta["recipe"] == halved.meta["recipe"]
    assert auto.grid == halved.grid


def test_levels_that_are_halves_give_the_usual_store(tmp_path: Path, tiled: Tiled) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(1300, 1536), levels=3)
    usual, own = tiled(path, tmp_path / "u"), tiled(path, tmp_path / "s", pyramid="source")
    assert "levels" not in own.meta
    assert own.recipe == usual.recipe
    for shard in (Path(usual.path) / "1").rglob("0"):
        if shard.is_file():
            assert shard.read_bytes() == (Path(own.path) / shard.relative_to(usual.path)).read_bytes()


def test_a_store_is_skipped_by_the_same_request_and_kept_from_another(own_slide: Path, own_store: TileStore) -> None:
    asked = TileOptions(slides=(own_slide,), out=Path(own_store.path).parent, workers=0, tile_px=SIDE, pyramid="source")
    for pyramid in ("source", "auto"):
        again = tile(replace(asked, pyramid=pyramid))
        assert again.outcomes[0].status.value == "skipped"
    with pytest.raises(RecipeMismatchError, match='pyramid: found "source", wanted null'):
        tile(replace(asked, pyramid="halves"))


def test_damage_in_a_coarse_level_is_never_copied(tmp_path: Path, own_slide: Path) -> None:
    path = tmp_path / "own.svs"
    path.write_bytes(own_slide.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[4]  # level 3: the second page is the thumbnail
        index = len(page.dataoffsets) // 2
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * count)
    asked = TileOptions(slides=(path,), out=tmp_path / "out", workers=0, tile_px=SIDE, pyramid="source")
    failed = tile(asked)
    assert failed.exit_code == 1
    assert f"tile {index} of level 3 cannot be decoded" in failed.outcomes[0].reason
    assert tile(replace(asked, on_damage="skip")).exit_code == 0
    shown = TileStore(tmp_path / "out" / "own.zarr").read_level(3).transpose(1, 2, 0).astype(int)
    assert (np.abs(shown - DAMAGED_RGB).max(axis=2) <= 3).any()


@pytest.mark.parametrize(
    "levels",
    [[(3, YX(33, 33))], [(4, YX(26, 25))], [(4, YX(25, 25)), (4, YX(25, 25))], [(1, YX(100, 100))], [(4, YX(0, 25))]],
)
def test_levels_that_cannot_be_are_refused(levels: list[tuple[int, YX]]) -> None:
    grid = Grid(YX(100, 100), 16)
    with pytest.raises(ValueError, match="does not fit"):
        with_levels(grid, levels)
    assert with_levels(grid, [(4, YX(25, 25)), (32, YX(4, 3))]).factors() == [1, 4, 32]


def test_a_level_rounded_up_reaches_into_a_region_where_a_finer_one_does_not(tmp_path: Path, tiled: Tiled) -> None:
    """1027 rows of 64-px tiles: at a quarter 256, rounded down, end with the first region; at a sixteenth 65 do not."""
    pixels = picture(1027, 700)
    path = write_own_levels(tmp_path / "odd.svs", pixels, [YX(1027, 700), YX(256, 175), YX(65, 43)])
    store = tiled(path, tmp_path / "out", tile_px=SIDE, pyramid="source", assume_mpp=None, keep_background=True)
    assert store.grid.coarser[:2] == ((4, YX(256, 175)), (16, YX(65, 43)))
    assert verify(VerifyOptions(stores=(Path(store.path),))).outcomes[0].reason == ""
    assert StorePicture(store).present(2)[1].all()

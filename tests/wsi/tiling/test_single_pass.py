"""Slides of one level are decoded once, and end up with the tiles that two passes give."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from making import picture, write_deflate
from numpy.typing import NDArray

import wsi.tiling.opened
import wsi.tiling.plan
from wsi.readers.tiff.reader import TiffReader
from wsi.store.shards import ShardFile
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

Tiled = Callable[..., TileStore]
RGB = NDArray[np.uint8]


@pytest.fixture
def two_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(wsi.tiling.plan, "plan_single_pass", lambda *_: None)


def wide(tissue: RGB) -> RGB:
    """Put a piece of tissue across the edges of four regions of a large white slide."""
    pixels = np.full((5200, 5300, 3), (236, 238, 237), np.uint8)
    pixels[3600:4600, 3500:4700] = tissue[:1000, :1200]
    return pixels


def stored(store: TileStore) -> int:
    shards = [ShardFile(path, 256) for path in Path(store.path).glob("0/c/0/*/*")]
    return sum(shard.chunk(place) is not None for shard in shards for place in range(256))


def passes(store: TileStore) -> bool:
    return bool(store.provenance["single_pass"])


@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_one_pass_gives_the_tiles_of_two(
    tmp_path: Path, tiled: Tiled, two_passes: Callable[[], None], mpp: float
) -> None:
    path = write_deflate(tmp_path / "a.tif", wide(picture(1000, 1200)))
    once = tiled(path, tmp_path / "once", target_mpp=mpp)
    two_passes()
    twice = tiled(path, tmp_path / "twice", target_mpp=mpp)
    assert passes(once)
    assert not passes(twice)
    assert once.n_tiles > 2
    np.testing.assert_array_equal(once.tiles_yx, twice.tiles_yx)
    for level in ("overview/0", "labels/tissue/0"):
        pair = [zarr.open_array(Path(store.path) / level, mode="r")[...] for store in (once, twice)]
        np.testing.assert_array_equal(*pair)
    everything = np.arange(once.n_tiles)
    np.testing.assert_array_equal(once.read_tiles(everything), twice.read_tiles(everything))
    assert {n: v.tolist() for n, v in once.scores.items()} == {n: v.tolist() for n, v in twice.scores.items()}
    assert stored(twice) <= stored(once) <= 1.25 * stored(twice) + 4 * 4
    for row, column in once.tiles_yx.tolist():
        inner = np.s_[:, row * 128 + 2 : (row + 1) * 128 - 2, column * 128 + 2 : (column + 1) * 128 - 2]
        np.testing.assert_array_equal(once.read_level(1)[inner], twice.read_level(1)[inner])


def test_no_tile_with_tissue_is_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_deflate(tmp_path / "a.tif", wide(picture(1000, 1200)))
    decoded: Counter[int] = Counter()
    decode = TiffReader._decode
    inside_plan = False

    def counting(self: TiffReader, level: int, index: int) -> RGB | None:
        large = self.stored_levels[level].byte_counts[index] > 2048
        decoded[index] += large and not inside_plan
        return decode(self, level, index)

    plan_single_pass = wsi.tiling.single_pass.plan_single_pass

    def planning(*arguments: object) -> object:
        nonlocal inside_plan
        inside_plan = True
        found = plan_single_pass(*arguments)  # type: ignore[arg-type]
        inside_plan = False
        return found

    monkeypatch.setattr(wsi.tiling.plan, "plan_single_pass", planning)
    slide = TiffReader(path)  # its probe comes before anything is counted
    monkeypatch.setattr(wsi.tiling.opened, "open_slide", lambda *_, **__: slide)
    monkeypatch.setattr(TiffReader, "_decode", counting)
    assert tile(TileOptions(slides=(path,), out=tmp_path / "out", workers=0, assume_mpp=0.5)).exit_code == 0
    assert sum(decoded.values()) > 20
    assert max(decoded.values()) == 1


def test_a_hole_that_is_filled_is_read_again(tmp_path: Path, tiled: Tiled) -> None:
    tissue = picture(1900, 1900)[:1800, :1800].copy()
    tissue[tissue.max(axis=2) > 215] = (200, 120, 170)
    tissue[500:1300, 500:1300] = (236, 238, 237)
    pixels = np.full((2400, 2400, 3), (236, 238, 237), np.uint8)
    pixels[300:2100, 300:2100] = tissue
    path = write_deflate(tmp_path / "a.tif", pixels)
    open_hole, filled = tiled(path, tmp_path / "open"), tiled(path, tmp_path / "filled", fill_holes=True)
    assert passes(filled)
    inside = [4, 4]
    assert inside not in open_hole.tiles_yx.tolist()
    index = filled.tiles_yx.tolist().index(inside)
    np.testing.assert_array_equal(filled.read_tiles([index])[0].transpose(1, 2, 0), pixels[1024:1280, 1024:1280])


def test_what_only_looked_like_tissue_is_taken_out(tmp_path: Path, tiled: Tiled) -> None:
    pixels = wide(picture(1000, 1200))
    pixels[:3000] = np.clip(pixels[:3000].astype(int) - 15, 0, 255)  # a faint shadow without structure
    store = tiled(write_deflate(tmp_path / "a.tif", pixels), tmp_path / "out")
    assert passes(store)
    kept = zarr.open_array(Path(store.path) / "0", mode="r")
    assert (kept[:, 256:512, 256:512] == 255).all()
    assert stored(store) <= 1.25 * store.n_tiles + 40


@pytest.mark.parametrize("options", [{"tile_px": 240}, {"target_mpp": 0.7}, {"target_mpp": 4.0}])
def test_what_does_not_line_up_takes_two_passes(tmp_path: Path, tiled: Tiled, options: dict[str, object]) -> None:
    store = tiled(write_deflate(tmp_path / "a.tif", picture(900, 1200)), tmp_path / "out", **options)
    assert not passes(store)

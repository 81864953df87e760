"""The store's reader: any order, into a buffer, from threads and worker processes, with bounded resources."""

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import RGB, picture, write_pyramid

from wsi.errors import RequestError, StoreError
from wsi.store.layout import shard_path
from wsi.store.shards import ShardFile, open_shard, write_shard
from wsi.store.storage import locate
from wsi.store.tile_store import TileStore, find_stores


def checksum(store: TileStore, indices: list[int]) -> int:
    return int(store.read_tiles(indices, threads=2).astype(np.int64).sum())


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory, tiled: Callable[..., TileStore]) -> TileStore:
    """A store of JPEG chunks with 32-px tiles: a dozen shards at level 0."""
    folder = tmp_path_factory.mktemp("many")
    slide = write_pyramid(folder / "a.tif", picture(1500, 1900), levels=1)
    return tiled(slide, folder, tile_px=32, codec="jpeg")


@pytest.mark.parametrize("threads", [1, 2])
def test_any_order_and_repeats(many_shards: TileStore, threads: int) -> None:
    whole = many_shards.read_level(0)
    indices = np.random.default_rng(0).integers(0, many_shards.n_tiles, 700)
    tiles = many_shards.read_tiles(indices, threads)
    for (row, column), tile in zip(many_shards.tiles_yx[indices].tolist(), tiles, strict=True):
        true = whole[:, row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
        np.testing.assert_array_equal(tile[:, : true.shape[1], : true.shape[2]], true)


def test_tiles_go_into_the_callers_buffer(small_store: TileStore) -> None:
    buffer = np.zeros((3, 3, 256, 256), np.uint8)
    assert small_store.read_tiles([4, 0, 2], out=buffer) is buffer
    np.testing.assert_array_equal(buffer, small_store.read_tiles([4, 0, 2]))
    wrongs: list[Any] = [buffer[:2], buffer.astype(np.int16), buffer.transpose(0, 1, 3, 2)]
    for wrong in wrongs:
        with pytest.raises(RequestError, match="out: expected contiguous uint8"):
            small_store.read_tiles([4, 0, 2], out=wrong)


def test_chunks_that_are_not_stored_leave_the_buffer(small_store: TileStore) -> None:
    out = np.full((2, 3, 256, 256), 7, np.uint8)
    row, column = small_store.tiles_yx[0]
    there = small_store.read_chunks(0, np.array([[0, 0], [row, column]]), out)
    assert there.tolist() == [False, True]
    assert (out[0] == 7).all()
    np.testing.assert_array_equal(out[1], small_store.read_tiles([0])[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same_store_object(many_shards: TileStore, method: str) -> None:
    parts = np.array_split(np.arange(many_shards.n_tiles), 4)
    true = [checksum(many_shards, part.tolist()) for part in parts]  # threads and maps are open before the fork
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads, which is the case under test
        with ProcessPoolExecutor(2, mp_context=get_context(method)) as pool:
            found = list(pool.map(checksum, [many_shards] * 4, [part.tolist() for part in parts], timeout=100))
    assert found == true


def test_a_forked_child_reads_with_what_the_parent_opened(many_shards: TileStore) -> None:
    true = checksum(many_shards, [0, 5, 9])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(0 if checksum(many_shards, [0, 5, 9]) == true else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_pickling_carries_the_place_only(small_store: TileStore) -> None:
    _ = small_store.tiles_yx
    data = pickle.dumps(small_store)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).read_tiles([1]), small_store.read_tiles([1]))


def test_open_shards_are_bounded(tmp_path: Path) -> None:
    open_shard.cache_clear()
    before = len(os.listdir("/proc/self/fd"))
    for i in range(400):
        write_shard(tmp_path / str(i), {0: b"abc"}, 4)
        assert open_shard(tmp_path / str(i), 4, (0, 0)).chunk(0) == b"abc"
    assert len(os.listdir("/proc/self/fd")) - before <= 130
    open_shard.cache_clear()


def test_a_store_that_takes_anothers_place_is_read_anew(tmp_path: Path, small_store: TileStore) -> None:
    path = tmp_path / "a.zarr"
    shutil.copytree(small_store.path, path)
    first = TileStore(path).read_tiles([0])
    row, column = TileStore(path).tiles_yx[0].tolist()
    shard = shard_path(path, 0, row // 16, column // 16)
    old = ShardFile(shard, 256)
    chunks = {i: data for i in range(256) if (data := old.chunk(i)) is not None}
    other = TileStore(path).codec_of(0).encode(np.full((256, 256, 3), 9, np.uint8))
    shutil.rmtree(path)
    shutil.copytree(small_store.path, path)
    write_shard(shard, dict.fromkeys(chunks, other), 256)
    os.utime(path / "zarr.json", ns=(1, 1))
    assert (TileStore(path).read_tiles([0]) == 9).all()
    assert not (first == 9).all()


@pytest.mark.parametrize("fault", ["gone", "cut", "chunk"])
@pytest.mark.parametrize("threads", [1, 2])
def test_damage_is_one_line_that_names_the_place(
    tmp_path: Path, small_store: TileStore, fault: str, threads: int
) -> None:
    path = tmp_path / "a.zarr"
    shutil.copytree(small_store.path, path)
    shard = shard_path(path, 0, 0, 0)
    data = shard.read_bytes()
    if fault == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data[:-9] if fault == "cut" else b"\0" * 5000 + data[5000:])
    with pytest.raises(StoreError, match=r"tile the slide again") as caught:
        TileStore(path).read_tiles(np.arange(small_store.n_tiles), threads)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_places() -> None:
    assert locate(Path("s3://bucket/a.zarr")) == "s3://bucket/a.zarr"  # pathlib drops a slash
    assert locate("memory://a.zarr/") == "memory://a.zarr"
    assert locate("file:///tmp/a.zarr") == Path("/tmp/a.zarr")
    assert locate("stores/a.zarr") == Path("stores/a.zarr")


def test_file_urls_are_paths(small_store: TileStore) -> None:
    (store,) = find_stores([f"file://{small_store.path}"])
    assert store.path == small_store.path


def test_the_overview_shows_the_background_that_is_not_stored(small_store: TileStore, slide_pixels: RGB) -> None:
    picture = small_store.overview(800)
    factor = slide_pixels.shape[0] / picture.shape[0]
    true = slide_pixels[:: round(factor), :: round(factor)]
    assert np.abs(picture[:20, :20].astype(int) - true[:20, :20]).max() <= 3
    assert not (picture == 255).all(axis=2).any()
    row, column = small_store.tiles_yx[len(small_store.tiles_yx) // 2]
    y, x = int((row + 0.5) * 256 / factor), int((column + 0.5) * 256 / factor)
    level = small_store.read_level(round(np.log2(factor)))
    np.testing.assert_array_equal(picture[y, x], level[:, y, x])


@pytest.mark.parametrize("key", ["3", "overview/0"])
def test_pictures_of_other_than_three_colours_are_refused(tmp_path: Path, small_store: TileStore, key: str) -> None:
    shutil.copytree(small_store.path, tmp_path / "s.zarr")
    path = tmp_path / "s.zarr" / key / "zarr.json"
    told = json.loads(path.read_text())
    told["shape"][0] = 1
    path.write_text(json.dumps(told))
    with pytest.raises(StoreError, match=rf"s\.zarr: {key}: expected three colours.*, found uint8 \(1, \d+, \d+\)"):
        TileStore(tmp_path / "s.zarr").overview(256)

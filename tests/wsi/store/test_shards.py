"""Shards: ours are read by zarr-python, damaged ones are noticed."""

import io
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi.errors import StoreError
from wsi.store.codecs import codec
from wsi.store.grid import Grid
from wsi.store.layout import image_array, shard_path, write_json
from wsi.store.shards import ABSENT, ShardFile, write_shard
from wsi.units import YX
from wsi.zarr_jpeg import JpegCodec, ZarrJpeg


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.integers(0, 63), st.binary(min_size=1, max_size=300), min_size=1, max_size=64))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, chunks: dict[int, bytes]) -> None:
    path = tmp_path_factory.mktemp("shard") / "0"
    size = write_shard(path, chunks, 64)
    assert path.stat().st_size == size
    shard = ShardFile(path, 64)
    assert {i: shard.chunk(i) for i in range(64) if shard.chunk(i) is not None} == chunks
    assert (shard.index[:, 0] == ABSENT).sum() == 64 - len(chunks)


def test_no_chunks_means_no_file(tmp_path: Path) -> None:
    assert write_shard(tmp_path / "0", {}, 64) == 0
    assert not (tmp_path / "0").exists()


@pytest.mark.parametrize("change", ["cut", "index", "empty"])
def test_damage_is_noticed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "0"
    write_shard(path, {0: b"abc", 5: b"defg"}, 16)
    data = bytearray(path.read_bytes())
    if change == "index":
        data[-20] ^= 1
    path.write_bytes({"cut": bytes(data[:-3]), "index": bytes(data), "empty": b"x"}[change])
    with pytest.raises(StoreError, match="index"):
        ShardFile(path, 16)


@pytest.mark.parametrize("name", ["zstd", "jpeg"])
def test_zarr_python_reads_what_we_write(tmp_path: Path, name: str) -> None:
    grid = Grid(YX(1000, 700), 32)
    rng = np.random.default_rng(0)
    chunk = rng.integers(0, 255, (3, 32, 32)).astype(np.uint8)
    write_json(tmp_path / "0" / "zarr.json", image_array(grid.shape, grid, 0, name))
    data = codec(name).encode(np.ascontiguousarray(chunk.transpose(1, 2, 0)))
    write_shard(shard_path(tmp_path, 0, 1, 0), {16 * 2 + 3: data}, 256)
    assert codec(name).lossless == (name == "zstd")
    if name == "jpeg":  # the file in the chunk, by another library
        chunk = np.asarray(Image.open(io.BytesIO(data[:-4]))).transpose(2, 0, 1)
    array = zarr.open_array(tmp_path / "0", mode="r")
    y, x = (16 + 2) * 32, 3 * 32
    np.testing.assert_array_equal(array[:, y : y + 32, x : x + 32], chunk)
    assert (array[:, :512] == 255).all()


NO_VIEWS = pytest.mark.xfail(
    JpegCodec is not ZarrJpeg,
    raises=ValueError,
    strict=False,
    reason="imagecodecs' own class encodes no transposed views",
)


@pytest.mark.parametrize("name", ["zstd", pytest.param("jpeg", marks=NO_VIEWS)])
def test_we_read_what_zarr_python_writes(tmp_path: Path, name: str) -> None:
    grid = Grid(YX(640, 640), 32)
    write_json(tmp_path / "0" / "zarr.json", image_array(grid.shape, grid, 0, name))
    array = zarr.open_array(tmp_path / "0", mode="r+")
    pixels = np.random.default_rng(1).integers(0, 255, (3, 512, 512)).astype(np.uint8)
    array[:, :512, :512] = pixels
    shard = ShardFile(shard_path(tmp_path, 0, 0, 0), 256)
    data = shard.chunk(16 * 4 + 9)
    assert data is not None
    np.testing.assert_array_equal(codec(name).pixels(data, 32).transpose(2, 0, 1), array[:, 128:160, 288:320])
    if name == "zstd":
        np.testing.assert_array_equal(codec(name).pixels(data, 32).transpose(2, 0, 1), pixels[:, 128:160, 288:320])

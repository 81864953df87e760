"""A store's tiles as JPEG files: the chunks' own bytes where they are JPEG, else encoded once."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from making import write_pyramid
from PIL import Image

from wsi.errors import StoreError
from wsi.store.tile_store import TileStore
from wsi.viewing.picture import StorePicture


def decoded(file: bytes) -> np.ndarray:
    """Decode by another library than the one that encoded."""
    with Image.open(io.BytesIO(file)) as image:
        assert image.format == "JPEG"
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def copied_store(tmp_path_factory: pytest.TempPathFactory, tiled: Callable[..., TileStore]) -> TileStore:
    """A store whose first levels are JPEG tiles of the slide."""
    folder = tmp_path_factory.mktemp("copied")
    rng = np.random.default_rng(5)
    pixels = np.full((1300, 1100, 3), (231, 229, 233), np.uint8)
    pixels[200:700, 300:800] = np.clip(rng.normal((150, 80, 160), 20, (500, 500, 3)), 0, 255).astype(np.uint8)
    return tiled(write_pyramid(folder / "0a_0.tif", pixels, 0.5), folder, codec="auto")


def _every_tile(picture: StorePicture) -> list[tuple[int, int, int]]:
    return [(n, y, x) for n in range(len(picture.levels)) for y, x in np.argwhere(picture.present(n)).tolist()]


def _shards(store: object, level: int) -> list[Path]:
    return sorted(path for path in Path(str(store), f"{level}/c/0").rglob("*") if path.is_file())


def test_present_are_the_chunks_that_zarr_finds(small_store: TileStore) -> None:
    picture = StorePicture(small_store)
    for level, (height, width) in enumerate(picture.levels):
        whole = small_store.read_level(level).transpose(1, 2, 0)
        assert picture.present(level).shape == (-(-height // 256), -(-width // 256))
        for row, column in np.ndindex(*picture.present(level).shape):
            part = whole[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256]
            assert picture.present(level)[row, column] == bool((part != 255).any())


def test_tiles_of_jpeg_chunks_are_their_bytes(copied_store: TileStore) -> None:
    picture = StorePicture(copied_store)
    assert set(copied_store.codec_names) == {"jpeg"}
    tiles = _every_tile(picture)
    assert len(tiles) > 8
    for level, row, column in tiles:
        file = picture.jpeg(level, row, column)
        assert file is not None
        assert any(file in shard.read_bytes() for shard in _shards(copied_store.path, level))
        assert len(file) == picture.sizes(level)[row, column] - 4
        height, width = (min(256, side - 256 * n) for side, n in zip(picture.levels[level], (row, column), strict=True))
        wanted = copied_store.read_level(level).transpose(1, 2, 0)[row * 256 :, column * 256 :][:height, :width]
        difference = np.abs(decoded(file)[:height, :width].astype(int) - wanted)
        assert difference.max() <= 2  # decoders differ by rounding


def test_tiles_of_other_chunks_are_encoded_within_the_loss_of_jpeg(small_store: TileStore) -> None:
    picture = StorePicture(small_store)
    tiles = _every_tile(picture)
    for level, row, column in tiles:
        file = picture.jpeg(level, row, column)
        assert file is not None
        wanted = small_store.read_level(level).transpose(1, 2, 0)[row * 256 :, column * 256 :][:256, :256]
        shown = decoded(file)[: wanted.shape[0], : wanted.shape[1]].astype(int)
        stored = (wanted != 255).any(axis=2)
        assert np.abs(shown - wanted)[stored].mean() < 4


def test_absent_tiles_show_the_slides_own_background_on_every_level(small_store: TileStore) -> None:
    picture = StorePicture(small_store)
    assert picture.background == (236, 238, 237)
    row, column = np.argwhere(~picture.present(0))[0].tolist()
    assert picture.jpeg(0, row, column) is None
    level = len(picture.levels) - 1
    file = picture.jpeg(level, 0, 0)
    assert file is not None
    side = 256 >> level
    middle = decoded(file)[row * side + 2 : (row + 1) * side - 2, column * side + 2 : (column + 1) * side - 2]
    assert np.abs(middle.astype(int) - picture.background).max() <= 3


@pytest.mark.parametrize("place", [(0, -1, 0), (0, 0, 999), (-1, 0, 0), (99, 0, 0), (0, 0, -1)])
def test_beyond_the_slide_there_is_nothing(small_store: TileStore, place: tuple[int, int, int]) -> None:
    assert StorePicture(small_store).jpeg(*place) is None


def test_background_is_estimated_where_the_store_does_not_tell_it(small_store: TileStore, tmp_path: Path) -> None:
    copy = tmp_path / "049194_0.zarr"
    shutil.copytree(small_store.path, copy)
    root = json.loads((copy / "zarr.json").read_text())
    del root["attributes"]["gigamil"]["provenance"]["tissue"]["background"]
    (copy / "zarr.json").write_text(json.dumps(root))
    found = StorePicture(TileStore(copy)).background
    assert np.abs(np.array(found) - (236, 238, 237)).max() <= 2


def test_a_flipped_bit_is_told_and_not_shown(copied_store: TileStore, tmp_path: Path) -> None:
    copy = tmp_path / copied_store.path.name  # type: ignore[union-attr]
    shutil.copytree(copied_store.path, copy)
    shard = _shards(copy, 0)[0]
    data = bytearray(shard.read_bytes())
    data[400] ^= 1
    shard.write_bytes(data)
    picture = StorePicture(TileStore(copy))
    first = tuple(np.argwhere(picture.present(0))[0].tolist())  # chunks stand in a shard in their order
    with pytest.raises(StoreError, match=rf"tile \({first[0]}, {first[1]}\) of level 0 is damaged .*checksum"):
        picture.jpeg(0, *first)


def test_a_jpeg_of_another_size_is_not_handed_on(copied_store: TileStore) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (512, 256)).save(buffer, "JPEG")
    chunk = copied_store.codec_of(0).chunk(buffer.getvalue())  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="expected a JPEG of 256 px a side, found 512 x 256"):
        StorePicture(copied_store).tile_file(0, 0, 0, chunk)

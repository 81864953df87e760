"""`verify` finds every kind of damage it promises to find, and nothing in a whole store."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from making import picture, write_pyramid

from wsi.progress.outcome import Outcome, Status
from wsi.store.layout import shard_path
from wsi.store.options import VerifyOptions
from wsi.store.shards import ShardFile, write_shard
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify


@pytest.fixture
def copy(tmp_path: Path, small_store: TileStore) -> Path:
    return Path(shutil.copytree(small_store.path, tmp_path / "a.zarr"))


def verified(path: Path, quick: bool = False) -> Outcome:
    (outcome,) = verify(VerifyOptions(stores=(path,), quick=quick, threads=2)).outcomes
    assert "\n" not in outcome.reason
    return outcome


@pytest.mark.parametrize("quick", [False, True])
def test_a_whole_store(copy: Path, small_store: TileStore, quick: bool) -> None:
    outcome = verified(copy, quick)
    assert (outcome.status, outcome.reason) == (Status.DONE, "")
    assert outcome.facts["chunks"] >= outcome.facts["tiles"] == small_store.n_tiles


def test_jpeg_stores_and_empty_ones(tmp_path: Path, tiled: Callable[..., TileStore]) -> None:
    store = tiled(write_pyramid(tmp_path / "p.tif", picture(1100, 900)), tmp_path / "jpeg", codec="jpeg")
    assert verified(Path(store.path)).status is Status.DONE
    blank = write_pyramid(tmp_path / "b.tif", np.full((600, 600, 3), 240, np.uint8), levels=1)
    assert verified(Path(tiled(blank, tmp_path / "blank").path)).status is Status.DONE
    row, column = store.tiles_yx[0].tolist()
    shard = shard_path(Path(store.path), 0, row // 16, column // 16)
    whole = ShardFile(shard, 256)
    chunks = {i: data for i in range(256) if (data := whole.chunk(i)) is not None}
    first = min(chunks)
    write_shard(shard, chunks | {first: chunks[first][: len(chunks[first]) // 2]}, 256)
    assert "is cut short" in verified(Path(store.path)).reason


def _level0(path: Path) -> Path:
    return shard_path(path, 0, 0, 0)


def flip_index(path: Path) -> None:
    data = bytearray(_level0(path).read_bytes())
    data[-30] ^= 1
    _level0(path).write_bytes(data)


def spoil_chunk(path: Path) -> None:
    data = _level0(path).read_bytes()
    _level0(path).write_bytes(b"\0" * 4000 + data[4000:])


def lose_level(path: Path) -> None:
    shard_path(path, 2, 0, 0).unlink()


def lose_tiles(path: Path) -> None:
    shard = ShardFile(_level0(path), 256)
    chunks = {i: data for i in range(256) if (data := shard.chunk(i)) is not None}
    chunks.pop(min(chunks))
    write_shard(_level0(path), chunks, 256)


def unsort(path: Path) -> None:
    array = zarr.open_array(path / "tiles" / "yx", mode="r+")
    array[:] = array[:][::-1]


def outside(path: Path) -> None:
    array = zarr.open_array(path / "tiles" / "yx", mode="r+")
    array[-1] = (1000, 0)


def change_array(path: Path) -> None:
    file = path / "1" / "zarr.json"
    file.write_text(file.read_text().replace('"fill_value": 255', '"fill_value": 0'))


def change_scale(path: Path) -> None:
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"][1] = 9
    (path / "zarr.json").write_text(json.dumps(document))


def change_recipe(path: Path) -> None:
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["gigamil"]["recipe"]["min_tissue"] = 0.9
    (path / "zarr.json").write_text(json.dumps(document))


def lose_mask(path: Path) -> None:
    shutil.rmtree(path / "labels" / "tissue" / "1")


def leave_partial(path: Path) -> None:
    (path / "0" / "c" / ".0.123.partial").write_bytes(b"")


def stray_shard(path: Path) -> None:
    target = shard_path(path, 0, 70, 0)
    target.parent.mkdir()
    shutil.copy(_level0(path), target)


DEEP = [(spoil_chunk, r"0/c/0/0/0: chunk \(.*cannot be decoded")]
SHALLOW = [
    (flip_index, "0/c/0/0/0: the shard's index is damaged"),
    (lose_level, "tiles of level 2 that hold tissue are not stored"),
    (lose_tiles, "1 listed tiles are not stored"),
    (unsort, "not sorted"),
    (outside, "outside the grid"),
    (change_array, "1/zarr.json is missing or differs"),
    (change_scale, "OME-Zarr attributes differ"),
    (change_recipe, "recipe does not match its hash"),
    (lose_mask, "labels/tissue"),
    (leave_partial, "partial was left by an interrupted run"),
    (stray_shard, "0/c/0/70/0: a shard outside the grid"),
]


@pytest.mark.parametrize(("fault", "says"), [*DEEP, *SHALLOW], ids=lambda value: getattr(value, "__name__", ""))
def test_faults(copy: Path, fault: Callable[[Path], None], says: str) -> None:
    fault(copy)
    outcome = verified(copy, quick=(fault, says) in SHALLOW)
    assert outcome.status is Status.FAILED
    assert re.search(says, outcome.reason), outcome.reason


def test_bad_shards_are_counted(copy: Path) -> None:
    for level in (0, 1, 3):
        file = shard_path(copy, level, 0, 0)
        file.write_bytes(file.read_bytes()[:-1])
    outcome = verified(copy, quick=True)
    assert outcome.facts["bad_shards"] == 3
    assert "0/c/0/0/0" in outcome.reason
    assert "and 2 more bad shards" in outcome.reason


def test_others_go_on_and_the_exit_code_tells(tmp_path: Path, copy: Path, small_store: TileStore) -> None:
    shutil.copytree(small_store.path, tmp_path / "b.zarr")
    (tmp_path / "c.zarr").mkdir()
    spoil_chunk(copy)
    summary = verify(VerifyOptions(stores=(tmp_path,)))
    assert [o.status for o in summary.outcomes] == [Status.FAILED, Status.DONE, Status.FAILED]
    assert summary.exit_code == 1

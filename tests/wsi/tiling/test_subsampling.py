"""JPEG with colours at half resolution: on request, told by the recipe, and nothing else changes."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from making import picture, write_pyramid

from wsi.errors import RecipeMismatchError
from wsi.pixels.jpeg import jpeg_header
from wsi.pixels.resample import halve
from wsi.store.layout import shard_path
from wsi.store.shards import ShardFile
from wsi.store.tile_store import TileStore
from wsi.store.verify import verify_quickly
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile


def made(slide: Path, out: Path, **options: object) -> TileStore:
    settings = {"assume_mpp": 0.5, "workers": 0} | options
    summary = tile(TileOptions(slides=(slide,), out=out, **settings))  # type: ignore[arg-type]
    assert summary.exit_code == 0, summary.outcomes
    return TileStore(out / f"{slide.stem}.zarr")


def test_chunks_are_what_libjpeg_makes_of_the_pixels(deflate_slide: Path, tmp_path: Path) -> None:
    exact = made(deflate_slide, tmp_path / "zstd", codec="zstd")
    store = made(deflate_slide, tmp_path / "420", codec="jpeg", subsampling="420")
    usual = made(deflate_slide, tmp_path / "444", codec="jpeg")
    assert (store.tiles_yx == exact.tiles_yx).all()
    assert verify_quickly(store).status.value == "done"
    place = next(yx for yx in store.tiles_yx.tolist() if max(yx) < 16)
    shard = ShardFile(shard_path(tmp_path / "420" / "049194_0.zarr", 0, 0, 0), 256)
    chunk = shard.chunk(place[0] * 16 + place[1])
    assert chunk is not None
    assert [tuple(pair) for pair in jpeg_header(chunk).sampling] == [(2, 2), (1, 1), (1, 1)]
    row = store.tiles_yx.tolist().index(place)
    pixels = np.ascontiguousarray(exact.read_tiles([row])[0].transpose(1, 2, 0))
    assert chunk[:-4] == imagecodecs.jpeg8_encode(pixels, 90, subsampling="420")
    assert store.recipe == usual.recipe | {"subsampling": "420"}
    assert sum(p.stat().st_size for p in (tmp_path / "420").rglob("c/0/*/*")) < sum(
        p.stat().st_size for p in (tmp_path / "444").rglob("c/0/*/*")
    )


def test_coarser_levels_are_made_of_what_is_stored(deflate_slide: Path, tmp_path: Path) -> None:
    store = made(deflate_slide, tmp_path, codec="jpeg", subsampling="420", keep_background=True)
    root = tmp_path / "049194_0.zarr"
    fine, coarse = (ShardFile(shard_path(root, level, 0, 0), (16 >> level) ** 2) for level in (0, 1))
    assert store.tile_px == 256
    parts = []
    for y in (0, 1):
        chunks = [fine.chunk(y * 16 + x) for x in (0, 1)]
        parts.append([halve(imagecodecs.jpeg8_decode(bytes(chunk)[:-4])) for chunk in chunks if chunk])
    whole = np.ascontiguousarray(np.block([[[part] for part in row] for row in parts]).reshape(256, 256, 3))
    found = coarse.chunk(0)
    assert found is not None
    assert found[:-4] == imagecodecs.jpeg8_encode(whole, 90, subsampling="420")


def test_it_refuses_where_it_would_change_something(deflate_slide: Path, tmp_path: Path) -> None:
    made(deflate_slide, tmp_path, codec="jpeg")
    asked = {"slides": (deflate_slide,), "out": tmp_path, "assume_mpp": 0.5, "workers": 0, "codec": "jpeg"}
    with pytest.raises(RecipeMismatchError, match="subsampling"):
        tile(TileOptions(**asked, subsampling="420"))  # type: ignore[arg-type]


def test_what_is_lossless_does_not_know_of_it(deflate_slide: Path, tmp_path: Path) -> None:
    plain = made(deflate_slide, tmp_path, codec="zstd")
    again = tile(
        TileOptions(slides=(deflate_slide,), out=tmp_path, assume_mpp=0.5, workers=0, codec="zstd", subsampling="420")
    )
    assert [outcome.status.value for outcome in again.outcomes] == ["skipped"]
    assert "subsampling" not in plain.recipe


def test_copied_tiles_stay_and_those_below_are_subsampled(tmp_path: Path) -> None:
    slide = write_pyramid(tmp_path / "p.tif", picture(1100, 1300))
    usual, small = (made(slide, tmp_path / name, subsampling=name) for name in ("444", "420"))
    assert small.recipe == usual.recipe | {"subsampling": "420"}
    first = [shard_path(tmp_path / name / "p.zarr", 0, 0, 0).read_bytes() for name in ("444", "420")]
    assert first[0] == first[1]

"""The tiler end to end: stores that others can read, faults that it survives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import yaozarrs
import zarr
from making import RGB, picture, spoil_tile, write_deflate, write_pyramid

import wsi.zarr_jpeg  # noqa: F401
from wsi.errors import RecipeMismatchError, RequestError
from wsi.files.claim import claim
from wsi.progress.outcome import Status
from wsi.readers.tiles import DAMAGED_RGB
from wsi.store.tile_store import TileStore, find_stores
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile

Tiled = Callable[..., TileStore]


def run(*slides: Path, out: Path, **options: object) -> dict[str, Any]:
    settings = {"assume_mpp": 0.5, "workers": 0} | options
    return tile(TileOptions(slides=slides, out=out, **settings)).as_dict()  # type: ignore[arg-type]


def files(store: Path) -> dict[str, bytes]:
    """All files of a store but the one that holds timings."""
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def test_the_store_is_valid_ome_zarr(small_store: TileStore) -> None:
    yaozarrs.validate_zarr_store(str(small_store.path))
    group = zarr.open_group(small_store.path, mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    scales = [d["coordinateTransformations"][0]["scale"][1] for d in ome["multiscales"][0]["datasets"]]
    assert scales == pytest.approx([0.5 * 2**i for i in range(len(scales))])
    assert [c["color"] for c in ome["omero"]["channels"]] == ["FF0000", "00FF00", "0000FF"]
    assert len(group["labels/tissue"].attrs["ome"]["multiscales"][0]["datasets"]) == len(scales)


def test_ome_zarr_py_reads_the_same_pixels(small_store: TileStore) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    location = parse_url(str(small_store.path))
    assert location is not None
    image = next(iter(Reader(location)()))
    np.testing.assert_array_equal(np.asarray(image.data[2]), small_store.read_level(2))


def test_pixels_are_the_slides(small_store: TileStore, slide_pixels: RGB) -> None:
    """Listed tiles hold the source's pixels, read straight and through zarr-python alike."""
    array = zarr.open_array(Path(small_store.path) / "0", mode="r")[:]
    tiles = small_store.read_tiles(np.arange(small_store.n_tiles), threads=2)
    assert small_store.n_tiles > 5
    for (row, column), pixels in zip(small_store.tiles_yx, tiles, strict=True):
        y, x = row * 256, column * 256
        true = slide_pixels[y : y + 256, x : x + 256].transpose(2, 0, 1)
        np.testing.assert_array_equal(pixels[:, : true.shape[1], : true.shape[2]], true)
        np.testing.assert_array_equal(array[:, y : y + 256, x : x + 256], true)


def test_averaged_pixels_equal_the_mean_of_openslides(second_store: TileStore, pyramid_slide: Path) -> None:
    with openslide.OpenSlide(str(pyramid_slide)) as slide:
        size = slide.level_dimensions[1]
        true = np.asarray(slide.read_region((0, 0), 1, size))[..., :3].transpose(2, 0, 1).astype(int)
    assert second_store.mpp == 0.5
    assert second_store.l0_px_per_px == 2
    ours = zarr.open_array(Path(second_store.path) / "0", mode="r")[:].astype(int)
    for row, column in second_store.tiles_yx:
        place = np.s_[:, row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256]
        assert np.abs(ours[place] - true[place]).max() <= 1


def test_every_level_is_the_mean_of_the_one_above(small_store: TileStore) -> None:
    levels = [small_store.read_level(i).astype(float) for i in range(len(small_store.grid.levels()))]
    for finer, coarser in pairwise(levels):
        height, width = coarser.shape[1:]
        mean = finer[:, : 2 * height, : 2 * width].reshape(3, height, 2, width, 2).mean((2, 4))
        assert np.abs(mean - coarser).max() <= 0.51


def test_the_tile_list_is_sorted_and_follows_the_mask(small_store: TileStore) -> None:
    yx = small_store.tiles_yx
    assert yx.dtype == np.int32
    assert (np.lexsort((yx[:, 1], yx[:, 0])) == np.arange(len(yx))).all()
    assert (small_store.tissue >= 0.1).all()
    mask, mpp = small_store.tissue_mask()
    scale = 256 * small_store.mpp / mpp
    for (row, column), share in zip(yx, small_store.tissue, strict=True):
        part = mask[int(row * scale) : int((row + 1) * scale), int(column * scale) : int((column + 1) * scale)]
        assert abs(part.mean() - share) < 0.1
    np.testing.assert_array_equal(small_store.coords_l0_yx(), yx * 256)


def test_background_tiles_cost_nothing_unless_kept(
    tmp_path: Path, deflate_slide: Path, small_store: TileStore, tiled: Tiled, slide_pixels: RGB
) -> None:
    assert (small_store.read_level(0)[:, -200:, :200] == 255).all()
    kept = tiled(deflate_slide, tmp_path, keep_background=True)
    np.testing.assert_array_equal(kept.read_level(0), slide_pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(kept.tiles_yx, small_store.tiles_yx)


def test_no_path_and_no_scanner_text_goes_into_the_store(tmp_path: Path, tiled: Tiled) -> None:
    secret = "Doe^Jane"
    path = write_pyramid(tmp_path / "x.tif", picture(600, 600), levels=1, description=secret, software=secret)
    store = tiled(path, tmp_path / "out")
    everything = b"".join(p.read_bytes() for p in Path(store.path).rglob("*.json"))
    assert secret.encode() not in everything
    assert str(tmp_path).encode() not in everything


def test_a_second_run_skips_and_another_recipe_is_refused(tmp_path: Path, deflate_slide: Path) -> None:
    first = run(deflate_slide, out=tmp_path)
    before = files(tmp_path / "049194_0.zarr")
    again = run(deflate_slide, out=tmp_path)
    assert (first["counts"]["done"], again["counts"]["skipped"]) == (1, 1)
    with pytest.raises(RecipeMismatchError, match=r"min_tissue: found 0.1, wanted 0.3.*--overwrite"):
        run(deflate_slide, out=tmp_path, min_tissue=0.3)
    assert files(tmp_path / "049194_0.zarr") == before
    replaced = run(deflate_slide, out=tmp_path, min_tissue=0.3, overwrite=True)
    assert replaced["counts"]["done"] == 1
    assert (TileStore(tmp_path / "049194_0.zarr").tissue >= 0.3).all()
    assert [p.name for p in tmp_path.iterdir()] == ["049194_0.zarr"]


def test_bad_slides_are_named_and_the_others_go_on(tmp_path: Path, deflate_slide: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    shutil.copy(deflate_slide, slides / "good.tif")
    (slides / "text.svs").write_text("no slide")
    (slides / "empty.tif").write_bytes(b"")
    cut = write_pyramid(slides / "cut.tif", picture(700, 700))
    cut.write_bytes(cut.read_bytes()[:-40])
    hole = write_deflate(slides / "hole.tif", picture(700, 900), 256)
    spoil_tile(hole, 5)
    result = run(slides, out=tmp_path / "out")
    by_id = {item["id"]: item for item in result["items"]}
    assert {name: item["status"] for name, item in by_id.items()} == {
        "good": "done", "text": "failed", "empty": "failed", "cut": "failed", "hole": "failed",
    }  # fmt: skip
    assert all("\n" not in item["reason"] and item["reason"] for item in by_id.values() if item["status"] == "failed")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.zarr"]


def test_damage_can_be_skipped_and_is_recorded(tmp_path: Path, tiled: Tiled) -> None:
    path = write_deflate(tmp_path / "hole.tif", picture(1100, 1300), 256)
    whole = tiled(path, tmp_path / "whole")
    index = int(whole.tiles_yx[3] @ [6, 1])
    spoil_tile(path, index)
    store = tiled(path, tmp_path / "out", on_damage="skip")
    lost = {tuple(t) for t in whole.tiles_yx.tolist()} - {tuple(t) for t in store.tiles_yx.tolist()}
    row, column = whole.tiles_yx[3]
    assert lost == {(row, column)}
    assert zarr.open_array(Path(store.path) / "tiles" / "damaged", mode="r")[:].tolist() == [[row, column]]
    shown = store.read_level(0)[:, row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256]
    assert (shown.transpose(1, 2, 0) == DAMAGED_RGB).all()
    assert "1 tile is damaged and left out" in store.provenance["warnings"]


def test_an_empty_slide_gives_an_empty_recorded_store(tmp_path: Path, tiled: Tiled) -> None:
    blank = np.full((900, 900, 3), 240, np.uint8)
    store = tiled(write_deflate(tmp_path / "blank.tif", blank), tmp_path / "out")
    assert store.n_tiles == 0
    assert store.tiles_yx.shape == (0, 2)
    assert store.read_tiles([]).shape == (0, 3, 256, 256)
    assert "no tissue found" in store.provenance["warnings"]
    yaozarrs.validate_zarr_store(str(store.path))


KILLED = """
import sys
from pathlib import Path
from wsi.tiling.tiler import tile
from wsi.tiling.options import TileOptions
if __name__ == "__main__":
    tile(TileOptions(slides=(Path(sys.argv[1]),), out=Path(sys.argv[2]), assume_mpp=0.5, workers=1, tile_px=32))
"""


def test_kill_9_in_the_middle_then_resume_gives_the_same_store(tmp_path: Path) -> None:
    slide = write_deflate(tmp_path / "big.tif", picture(2500, 3000))
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, script, slide, out], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("*.partial/.work/receipt-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = [p.name for p in out.iterdir() if not p.name.startswith(".")]
    assert left == ["big.zarr.partial"]
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("*.partial/0/c/0/*/*")}
    assert run(slide, out=out, tile_px=32)["counts"]["done"] == 1
    assert {p.name for p in out.iterdir()} == {"big.zarr"}
    assert kept
    run(slide, out=tmp_path / "undisturbed", tile_px=32)
    resumed, undisturbed = files(out / "big.zarr"), files(tmp_path / "undisturbed" / "big.zarr")
    assert resumed == undisturbed


def test_two_runs_on_one_output_do_not_mix(tmp_path: Path, deflate_slide: Path) -> None:
    with claim(tmp_path / "049194_0.zarr"):
        result = run(deflate_slide, out=tmp_path)
    assert result["items"][0]["status"] == Status.FAILED
    assert str(os.getpid()) in result["items"][0]["reason"]
    assert run(deflate_slide, out=tmp_path)["counts"]["done"] == 1


def test_a_running_scheduler_is_used(tmp_path: Path, deflate_slide: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", processes=False) as cluster:
        result = run(deflate_slide, out=tmp_path, scheduler=cluster.scheduler_address)
    assert result["counts"]["done"] == 1


def test_a_manifest_names_slides_and_their_mpp(tmp_path: Path, deflate_slide: Path) -> None:
    table = tmp_path / "train.csv"
    table.write_text(
        f"image_id,patient_id,label,path,mpp\n049194_0,049194,CE,{deflate_slide},0.25\n0a_1,0a,LAA,gone.tif,\n"
    )
    result = run(out=tmp_path / "out", manifest=table, assume_mpp=None)
    assert [item["status"] for item in result["items"]] == ["done", "failed"]
    store = TileStore(tmp_path / "out" / "049194_0.zarr")
    assert (store.l0_px_per_px, store.provenance["mpp_source"]) == (2.0, "manifest")


def test_two_slides_of_one_name_are_refused(tmp_path: Path, deflate_slide: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(deflate_slide, tmp_path / folder / "same.tif")
    with pytest.raises(RequestError, match="same"):
        run(tmp_path / "a", tmp_path / "b", out=tmp_path / "out")


def test_unfinished_stores_are_not_found(tmp_path: Path, small_store: TileStore) -> None:
    shutil.copytree(small_store.path, tmp_path / "a.zarr")
    shutil.copytree(small_store.path, tmp_path / "b.zarr.partial")
    assert [store.image_id for store in find_stores([tmp_path])] == ["a"]


def test_the_summary_is_json(tmp_path: Path, deflate_slide: Path) -> None:
    result = run(deflate_slide, out=tmp_path)
    item = json.loads(json.dumps(result))["items"][0]
    assert set(item["seconds"]) == {"read", "decode", "scale", "score", "encode", "write"}
    assert item["tiles"] > 0

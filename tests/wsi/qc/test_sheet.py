"""The contact sheet, and the scores in the store that it shows."""

import base64
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from making import picture, write_deflate
from PIL import Image

from wsi.errors import RequestError
from wsi.progress.outcome import Status
from wsi.qc.options import QcOptions
from wsi.qc.rows import COLUMNS
from wsi.qc.sheet import mark_odd, oddest_first, page, qc, read_row
from wsi.scores.quality import tile_scores
from wsi.store.tile_store import TileStore


def test_scores_stand_in_the_store_in_the_order_of_the_tiles(small_store: TileStore) -> None:
    scores = small_store.scores
    assert set(scores) == {"darkness", "focus", "texture", "pen", "fold", "bubble", "duplicate"}
    for i in (0, small_store.n_tiles // 2, small_store.n_tiles - 1):
        tile = np.ascontiguousarray(small_store.read_tiles([i])[0].transpose(1, 2, 0))
        for name, value in tile_scores(tile, small_store.mpp).items():
            assert scores[name][i] == pytest.approx(value, abs=2e-6), name


def test_where_tiles_are_copied_the_sheet_shows_the_few_that_were_looked_at(
    tmp_path: Path, pyramid_slide: Path, tiled: Callable[..., TileStore]
) -> None:
    asked = {"tile_px": "native", "target_mpp": 0.25, "codec": "auto"}
    few = tiled(pyramid_slide, tmp_path / "few", **asked)
    every = tiled(pyramid_slide, tmp_path / "every", scores="all", **asked)
    assert "focus" not in few.scores
    rows, columns = every.tiles_yx.T
    some = every.scores["focus"][(rows * 5 + columns) % 16 == 0]
    assert 0 < len(some) < every.n_tiles / 8
    assert read_row(few).numbers["focus"] == pytest.approx(float(np.median(some)), abs=1e-6)
    assert read_row(every).numbers["focus"] == pytest.approx(float(np.median(every.scores["focus"])))


def test_rules_leave_tiles_out_and_say_so(
    tmp_path: Path, deflate_slide: Path, small_store: TileStore, tiled: Callable[..., TileStore]
) -> None:
    bound = round(float(np.median(small_store.scores["darkness"])), 3)
    store = tiled(deflate_slide, tmp_path, drop=(f"darkness<{bound}",))
    kept = small_store.scores["darkness"] >= np.float32(bound)
    assert 0 < kept.sum() < small_store.n_tiles
    assert store.tiles_yx.tolist() == small_store.tiles_yx[kept].tolist()
    assert store.scores["focus"].tolist() == small_store.scores["focus"][kept].tolist()
    assert f"left out by --drop darkness<{bound}" in " ".join(store.provenance["warnings"])


def test_pen_and_repeats_are_scored(tmp_path: Path, tiled: Callable[..., TileStore]) -> None:
    pixels = np.full((1600, 3200, 3), (238, 238, 239), np.uint8)
    one = picture(1400, 1500)[150:950, 100:800]
    inside = one.max(axis=2) < 225
    inside[:, 350:] = inside[:300] = False
    one[inside] = one[inside] // 2 + 20
    pixels[300:1100, 100:800] = one
    pixels[400:1200, 1200:1900] = one[::-1]
    cv2.line(pixels, (2500, 100), (2600, 1500), (20, 60, 150), 400)  # on glass: no tissue
    store = tiled(write_deflate(tmp_path / "a.tif", pixels), tmp_path / "out")
    columns = store.tiles_yx[:, 1] * store.tile_px
    assert not (columns > 2300).any()
    assert store.scores["pen"].max() == 0
    repeated = store.scores["duplicate"] > 0
    assert repeated.any()
    assert len(set((columns[repeated] < 1000).tolist())) == 1
    warnings = " ".join(store.provenance["warnings"])
    assert re.search(r"pen marks or edges of a cover slip \(\d+\.\d% of the slide\) were left out", warnings)
    assert "repeat another one" in warnings


def test_pen_over_tissue_is_scored(tmp_path: Path, tiled: Callable[..., TileStore]) -> None:
    grain = np.random.default_rng(4).normal(0, 25, (100, 200, 1)).repeat(16, 0).repeat(16, 1)
    pixels = np.full((1600, 3200, 3), (238, 238, 239), np.float32)
    pixels[100:1500, 100:3100] = (np.array([190, 120, 175]) + grain)[100:1500, 100:3100]
    stroke = np.full((1600, 3200, 3), 255, np.uint8)
    cv2.line(stroke, (2500, 0), (2600, 1600), (30, 90, 180), 400)
    inked = np.clip(pixels * stroke / 255, 0, 255).astype(np.uint8)
    store = tiled(write_deflate(tmp_path / "a.tif", inked), tmp_path / "out")
    columns = store.tiles_yx[:, 1] * store.tile_px
    assert store.scores["pen"][columns == 2560].mean() > 0.5
    assert store.scores["pen"][columns < 1700].max() == 0
    assert "pen marks on" in " ".join(store.provenance["warnings"])


def test_the_page_is_whole_and_self_contained(tmp_path: Path, small_store: TileStore, second_store: TileStore) -> None:
    summary = qc(QcOptions(stores=(Path(small_store.path), Path(second_store.path)), out=tmp_path))
    assert summary.exit_code == 0
    html = (tmp_path / "qc.html").read_text("utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    assert "http" not in html
    for store in (small_store, second_store):
        assert store.image_id in html
        assert f'data-value="{store.n_tiles}"' in html
    uris = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", html)
    thumbnails = [cv2.imdecode(np.frombuffer(base64.b64decode(uri), np.uint8), cv2.IMREAD_COLOR) for uri in uris]
    assert [max(t.shape) for t in thumbnails if t is not None] == [360, 360]
    sheet = cv2.imread(str(tmp_path / "qc.png"))
    assert sheet is not None
    assert min(sheet.shape[:2]) > 250


def test_only_a_sheet_of_ours_is_replaced(tmp_path: Path, small_store: TileStore) -> None:
    options = QcOptions(stores=(Path(small_store.path),), out=tmp_path)
    page_path, picture_path = tmp_path / "qc.html", tmp_path / "qc.png"
    page_path.write_text("<title>My notes</title>")
    with pytest.raises(RequestError, match="not made by gigamil"):
        qc(options)
    assert page_path.read_text() == "<title>My notes</title>"
    page_path.write_text("<!doctype html>\n<title>Quality of 3 slides</title>")  # of an earlier version, without marks
    picture_path.write_bytes(b"\x89PNG")
    qc(options)
    with Image.open(picture_path) as picture:
        assert picture.info["Software"] == "gigamil qc"
    page_path.unlink()
    qc(options)
    page_path.unlink()
    cv2.imwrite(str(picture_path), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(RequestError, match="not made by gigamil"):
        qc(options)


def test_a_broken_store_is_named_and_the_others_shown(tmp_path: Path, small_store: TileStore) -> None:
    shutil.copytree(small_store.path, tmp_path / "in" / "good.zarr")
    shutil.copytree(small_store.path, tmp_path / "in" / "bad.zarr")
    (tmp_path / "in" / "bad.zarr" / "zarr.json").write_text("{")
    summary = qc(QcOptions(stores=(tmp_path / "in",), out=tmp_path / "out"))
    assert [o.item_id for o in summary.ended(Status.FAILED)] == ["bad"]
    html = (tmp_path / "out" / "qc.html").read_text("utf-8")
    assert "Not readable" in html
    assert "1 slide<" in html


def test_the_odd_slide_is_marked(small_store: TileStore) -> None:
    row = read_row(small_store)
    rows = [replace(row, image_id=str(i), numbers=row.numbers | {"mpp": 0.5 + 0.0005 * (i % 3)}) for i in range(9)]
    rows[4] = replace(rows[4], numbers=row.numbers | {"mpp": 0.25, "tint": 45})
    marked = mark_odd(rows)
    assert set(marked[4].odd) == {"mpp", "tint"}
    assert not any(other.odd for i, other in enumerate(marked) if i != 4)
    assert not any(other.odd for other in mark_odd(rows[:4]))


def test_what_there_is_to_look_at_stands_first(small_store: TileStore) -> None:
    row = replace(read_row(small_store), warnings=())
    areas = {"plain": 5.0, "least": 1.0, "odd": 4.0, "warned": 5.5, "most": 9.0, "other": 6.0}
    rows = [replace(row, image_id=name, numbers=row.numbers | {"tissue_mm2": area}) for name, area in areas.items()]
    rows[2], rows[3] = replace(rows[2], odd=("tint",)), replace(rows[3], warnings=("a border was left out",))
    assert [r.image_id for r in oddest_first(rows)] == ["odd", "warned", "least", "most", "plain", "other"]


def test_ids_and_warnings_are_escaped(small_store: TileStore) -> None:
    row = replace(read_row(small_store), image_id="<b>&x", warnings=("<script>alert(1)</script>",))
    html = page([row], COLUMNS, [("<i>", "$broken")])
    assert "<b>&x" not in html
    assert "<script>alert" not in html
    assert "&lt;i&gt;" in html


def test_no_store_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        QcOptions(stores=(), out=tmp_path)
    with pytest.raises(RequestError):
        qc(QcOptions(stores=(tmp_path,), out=tmp_path / "out"))

"""Scores as QuPath's objects: read back by our own reader, placed in level-0 pixels, regions compared with a flood."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from making import SEED
from witness import Trained, facts, instances

from features.bags.bag import read_header, write_bag
from mil.data.splits import known_slides
from mil.heatmaps.geojson import export_geojson, measurements, top_regions
from mil.heatmaps.options import GeojsonOptions
from mil.heatmaps.tile_scores import TileScores, tile_scores
from mil.models.ensemble import load_ensemble
from mil.run.folder import RunFolder
from wsi.annotations.geojson import read_annotations
from wsi.errors import RequestError
from wsi.progress.outcome import Status
from wsi.store.tile_store import TileStore


@pytest.fixture
def options(trained: Trained, second_store: TileStore, tmp_path: Path) -> GeojsonOptions:
    rows = instances(np.random.default_rng(SEED), second_store.n_tiles, positive=True)
    image_id = second_store.image_id
    write_bag(tmp_path / f"{image_id}.h5", [rows], second_store.coords_l0_yx(), facts(image_id))
    return GeojsonOptions(
        run=trained.out, bags=(tmp_path,), stores=(Path(second_store.path),), out=tmp_path / "out", least_tissue=0.0
    )


def scores_of(options: GeojsonOptions, store: TileStore) -> TileScores:
    bag = read_header(options.bags[0] / f"{store.image_id}.h5")
    return tile_scores(load_ensemble(RunFolder(options.run), "cpu"), bag, store, known_slides(options.run))


def test_every_tile_stands_in_level_0_pixels_with_its_scores(options: GeojsonOptions, second_store: TileStore) -> None:
    assert export_geojson(options).exit_code == 0
    items = read_annotations(options.out / f"{second_store.image_id}.geojson")
    tiles = [item for item in items if item.kind == "tile"]
    scores = scores_of(options, second_store)
    assert len(tiles) == len(scores) == second_store.n_tiles
    assert second_store.l0_px_per_px == 2, "the slide was averaged 2 x 2"
    side = 2 * second_store.tile_px
    for tile, (row, column), place in zip(tiles, second_store.tiles_yx, range(len(tiles)), strict=True):
        assert tile.geometry.bounds == (column * side, row * side, (column + 1) * side, (row + 1) * side)
        assert tile.measurements["Attention factor"] == pytest.approx(scores.factor_N[place], rel=1e-6)
        assert tile.measurements["Push: LAA"] == pytest.approx(scores.push_of("LAA")[place], rel=1e-6)
    for name, values in measurements(scores).items():
        np.testing.assert_allclose([tile.measurements[name] for tile in tiles], values, rtol=1e-6)
    assert sum(tile.measurements["Attention (share)"] for tile in tiles) == pytest.approx(1)
    regions = [item for item in items if item.kind == "annotation"]
    assert items[: len(regions)] == regions
    assert regions
    assert all(region.class_name == "High attention" and region.locked for region in regions)
    ids = {item.id for item in items}
    assert len(ids) == len(items)


def made_scores(there: np.ndarray, factor: np.ndarray, **changes: object) -> TileScores:
    """Scores of the tiles of a grid that are there."""
    tiles_yx = np.argwhere(there).astype(np.int32)
    factor_N = factor[there]
    attention_N = factor_N / factor_N.sum()
    own = TileScores(
        image_id="a_0",
        store_rows_N=np.arange(len(tiles_yx)),
        tiles_yx=tiles_yx,
        l0_yx=np.rint(tiles_yx * 100.5).astype(np.int64),
        l0_tile_px=100.5,
        tissue_N=np.ones(len(tiles_yx), np.float32),
        attends=True,
        attention_N=attention_N,
        factor_N=attention_N * len(tiles_yx),
        percentile_N=attention_N,
        disagreement_N=None,
        outputs=("CE", "LAA"),
        outputs_C=np.array([0.1, 0.9]),
        push_CN=np.stack([-factor_N, factor_N]),
        push_from_C=np.zeros(2),
        push_way="sum",
        push_how="Exact.",
        models=1,
        out_of_fold=False,
        label=None,
    )
    return replace(own, **changes)  # type: ignore[arg-type]


def flooded(cells: set[tuple[int, int]]) -> list[set[tuple[int, int]]]:
    """Connected parts, corners included, by flooding."""
    parts = []
    while cells:
        part, ahead = set(), [cells.pop()]
        while ahead:
            y, x = ahead.pop()
            part.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & cells
            cells -= near
            ahead += near
        parts.append(part)
    return parts


@pytest.mark.parametrize("seed", range(4))
def test_regions_are_the_connected_parts_of_the_tiles_with_most_attention(seed: int) -> None:
    rng = np.random.default_rng(seed)
    there = rng.random((14, 17)) < 0.7
    factor = rng.gamma(0.4, size=there.shape)
    scores = made_scores(there, factor)
    regions = top_regions(scores, 0.3, 0.0)
    most = min(round(0.3 * len(scores)), int((scores.factor_N > 1).sum()))
    top = set(map(tuple, scores.tiles_yx[np.argsort(-scores.factor_N)[:most]].tolist()))
    parts = flooded(set(top))
    assert len(regions) == len(parts)
    found = []
    for region in regions:
        inside = {
            yx for yx in top if region.geometry.contains(shapely.Point((yx[1] + 0.5) * 100.5, (yx[0] + 0.5) * 100.5))
        }
        assert inside in parts
        assert region.geometry.area == pytest.approx(len(inside) * 100.5**2)
        assert region.geometry.is_valid
        assert region.measurements["Tiles"] == len(inside)
        chosen = [tuple(yx) in inside for yx in scores.tiles_yx.tolist()]
        assert region.measurements["Attention (share)"] == pytest.approx(scores.attention_N[chosen].sum())
        assert region.measurements["Push: LAA"] == pytest.approx(scores.push_of("LAA")[chosen].sum())
        found.append(region.measurements["Attention (share)"])
    assert found == sorted(found, reverse=True)
    assert regions[0].name == "High attention 1"


def test_little_tissue_and_what_is_below_the_mean_make_no_region() -> None:
    there = np.ones((1, 4), bool)
    scores = made_scores(there, np.array([[8.0, 4.0, 0.1, 0.1]]))
    assert [r.measurements["Tiles"] for r in top_regions(scores, 1.0, 0.0)] == [2]
    bare = replace(scores, tissue_N=np.array([0.1, 1, 1, 1], np.float32))
    assert [r.geometry.bounds[0] for r in top_regions(bare, 1.0, 0.25)] == [100.5]
    even = made_scores(there, np.ones((1, 4)))
    assert top_regions(even, 1.0, 0.0) == []


def test_of_a_head_without_attention_regions_push_towards_what_is_told() -> None:
    scores = made_scores(np.ones((1, 3), bool), np.array([[1.0, -2.0, 3.0]]))
    plain = replace(scores, attends=False, attention_N=np.full(3, 1 / 3), factor_N=np.ones(3))
    regions = top_regions(plain, 1.0, 0.0)
    assert [(r.class_name, r.geometry.bounds[0]) for r in regions] == [
        ("Pushes towards LAA", 201.0), ("Pushes towards LAA", 0.0)
    ]  # fmt: skip
    assert "Attention factor" not in measurements(plain)
    assert top_regions(replace(plain, push_CN=None), 1.0, 0.0) == []


def test_finished_files_are_skipped_and_others_are_not_replaced(
    options: GeojsonOptions, second_store: TileStore
) -> None:
    target = options.out / f"{second_store.image_id}.geojson"
    assert [own.status for own in export_geojson(options).outcomes] == [Status.DONE]
    before = target.read_bytes()
    assert [own.status for own in export_geojson(options).outcomes] == [Status.SKIPPED]
    other = export_geojson(replace(options, top_share=0.5)).outcomes[0]
    assert (other.status, "something else" in other.reason) == (Status.FAILED, True)
    target.write_bytes(before + b" ")
    changed = export_geojson(options).outcomes[0]
    assert (changed.status, "was changed since" in changed.reason) == (Status.FAILED, True)
    assert target.read_bytes() == before + b" "
    assert export_geojson(replace(options, overwrite=True)).exit_code == 0
    assert target.read_bytes() == before
    (options.out / "geojson.json").unlink()
    assert "something else" in export_geojson(options).outcomes[0].reason


def test_a_stopped_export_goes_on(options: GeojsonOptions, second_store: TileStore) -> None:
    """What was begun and not finished is written again, unasked."""
    target, about = options.out / f"{second_store.image_id}.geojson", options.out / "geojson.json"
    assert export_geojson(options).exit_code == 0
    whole = target.read_bytes()
    told = json.loads(about.read_text())
    told["sha256"] = {}
    about.write_text(json.dumps(told))
    target.write_bytes(whole[:100])
    assert [own.status for own in export_geojson(options).outcomes] == [Status.DONE]
    assert target.read_bytes() == whole


def test_wanting_no_stores_is_told() -> None:
    with pytest.raises(RequestError, match="--geojson wants --bags and --stores"):
        GeojsonOptions(run=Path("r"), bags=(Path("b"),), stores=(), out=Path("o"))

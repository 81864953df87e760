"""Heat maps: what is coloured and how, what stands beside it, and that nobody else's files are replaced."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import SEED
from PIL import Image
from witness import Trained, facts, instances

from features.bags.bag import write_bag
from mil.heatmaps.heatmap import heatmap
from mil.heatmaps.layers import ATTENTION, DIRECTION, attention_layer, coloured, layers_of, push_layer
from mil.heatmaps.options import HeatmapOptions, Shown
from mil.heatmaps.picture import SlidePicture, draw, paint, scale_bar
from mil.heatmaps.slides import find_slides
from mil.heatmaps.tile_scores import TileScores, percentiles
from mil.run.folder import RunFolder
from wsi.errors import RequestError
from wsi.progress.outcome import Status
from wsi.store.tile_store import TileStore

ALL = np.ones(4, bool)


@pytest.fixture
def scores() -> TileScores:
    """Four tiles, the last of which hardly holds tissue and has most of the attention."""
    attention = np.array([0.05, 0.3, 0.05, 0.6])
    push = np.array([-0.2, 0.9, 0.0, 0.4])
    return TileScores(
        image_id="a$b_0",
        store_rows_N=np.arange(4),
        tiles_yx=np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32),
        l0_yx=np.array([[0, 0], [0, 256], [256, 0], [256, 256]]),
        l0_tile_px=256.0,
        tissue_N=np.array([0.9, 1.0, 0.5, 0.02], np.float32),
        attends=True,
        attention_N=attention,
        factor_N=attention * 4,
        percentile_N=percentiles(attention),
        disagreement_N=np.array([0.1, 0.4, 0.2, 2.0]),
        outputs=("CE", "LAA"),
        outputs_C=np.array([0.25, 0.75]),
        push_CN=np.stack([-push, push]),
        push_from_C=np.zeros(2),
        push_way="sum",
        push_how="Exact: all of it.",
        models=3,
        out_of_fold=False,
        label=None,
    )


def picture(scores: TileScores, shown: Shown | None = None) -> SlidePicture:
    overview = np.full((40, 60, 3), 255, np.uint8)
    overview[:20, :30] = (150, 80, 160)
    layers = layers_of(scores, shown or Shown())
    return SlidePicture(
        scores=scores,
        layers=layers,
        shares=True,
        overview_HWC=overview,
        overview_mpp=8.0,
        tile_um=128.0,
        tile_share=np.array([10 / 40, 15 / 60]),
        top_tiles=tuple(np.full((len(layer.top_N), 8, 8, 3), 90, np.uint8) for layer in layers),
    )


def options(trained: Trained, store: TileStore, out: Path, *image_ids: str) -> HeatmapOptions:
    return HeatmapOptions(
        run=trained.out, bags=(trained.witness.bags,), stores=(Path(store.path),), out=out, image_ids=image_ids
    )


def test_a_heat_map_is_written_with_its_table(trained: Trained, small_store: TileStore, tmp_path: Path) -> None:
    wanted = options(trained, small_store, tmp_path / "maps")
    summary = heatmap(wanted)
    image_id = small_store.image_id
    assert [(o.item_id, o.status) for o in summary.outcomes] == [(image_id, Status.DONE)]
    assert summary.outcomes[0].facts["models"] == 1, "a slide of the training: only the model that has not seen it"
    with Image.open(wanted.out / f"{image_id}.png") as image:
        assert image.size[0] > 1000
        assert len(image.convert("RGB").resize((200, 200)).getcolors(40_000) or []) > 50
    with (wanted.out / f"{image_id}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(float(row["attention"]) for row in rows) == pytest.approx(1, abs=1e-6)
    assert [[int(row["tile_row"]), int(row["tile_column"])] for row in rows] == small_store.tiles_yx.tolist()
    before = (wanted.out / f"{image_id}.png").read_bytes()
    assert heatmap(wanted).outcomes[0].status is Status.SKIPPED
    assert (wanted.out / f"{image_id}.png").read_bytes() == before


def test_a_new_slide_is_asked_of_all_models_and_a_mismatch_fails_alone(
    trained: Trained, small_store: TileStore, second_store: TileStore, tmp_path: Path
) -> None:
    rng = np.random.default_rng(SEED)
    new = second_store.image_id
    coords = second_store.coords_l0_yx()
    write_bag(tmp_path / f"{new}.h5", [instances(rng, len(coords), positive=True)], coords, facts(new))
    other = small_store.image_id
    n_tiles = small_store.n_tiles
    shifted = small_store.coords_l0_yx() + 1
    write_bag(tmp_path / f"{other}.h5", [instances(rng, n_tiles, positive=True)], shifted, facts(other))
    wanted = replace(
        options(trained, small_store, tmp_path / "maps"),
        bags=(tmp_path,),
        stores=(Path(small_store.path), Path(second_store.path)),
    )
    outcomes = {outcome.item_id: outcome for outcome in heatmap(wanted).outcomes}
    assert outcomes[new].facts["models"] == 3
    assert outcomes[other].status is Status.FAILED
    assert "list different tiles" in outcomes[other].reason
    assert not (wanted.out / f"{other}.png").exists()


def test_bags_of_some_tiles_or_of_several_views_are_drawn(
    trained: Trained, second_store: TileStore, tmp_path: Path
) -> None:
    new = second_store.image_id
    chosen = np.array([0, 2, 2, 5])
    rows = instances(np.random.default_rng(SEED), len(chosen), positive=True)
    write_bag(tmp_path / f"{new}.h5", [rows], second_store.coords_l0_yx()[chosen], facts(new))
    wanted = HeatmapOptions(
        run=trained.out, bags=(tmp_path,), stores=(Path(second_store.path),), out=tmp_path / "maps", image_ids=(new,)
    )
    assert heatmap(wanted).exit_code == 0
    with (tmp_path / "maps" / f"{new}.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 3
    assert sum(float(row["attention"]) for row in table) == pytest.approx(1)


def test_a_picture_of_something_else_is_not_replaced_unasked(
    trained: Trained, small_store: TileStore, tmp_path: Path
) -> None:
    target = tmp_path / f"{small_store.image_id}.png"
    Image.new("RGB", (4, 4)).save(target)
    mine = target.read_bytes()
    outcome = heatmap(options(trained, small_store, tmp_path)).outcomes[0]
    assert outcome.status is Status.FAILED
    assert "--overwrite" in outcome.reason
    assert target.read_bytes() == mine
    assert heatmap(replace(options(trained, small_store, tmp_path), overwrite=True)).exit_code == 0


def test_a_slide_without_bag_or_store_is_named(trained: Trained, small_store: TileStore, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no bag of 12345_0"):
        heatmap(options(trained, small_store, tmp_path, "12345_0"))
    outcome = heatmap(options(trained, small_store, tmp_path, "0000_0")).outcomes[0]
    assert (outcome.status, "no tile store" in outcome.reason) == (Status.FAILED, True)


def test_colour_goes_only_where_tiles_with_tissue_are(scores: TileScores) -> None:
    shown = picture(scores)
    painted = paint(shown.overview_HWC, scores.tiles_yx, shown.layers[0], np.array([10.0, 15.0]))
    changed = (painted != shown.overview_HWC).any(axis=2)
    tiles = np.zeros((40, 60), bool)
    for row, column in scores.tiles_yx[:3]:
        tiles[row * 10 : row * 10 + 10, column * 15 : column * 15 + 15] = True
    assert not changed[~tiles].any(), "nor on the tile without tissue, whatever attention it has"
    assert changed[tiles].all()
    high, low = painted[5, 20].astype(int), painted[5, 5].astype(int)
    assert np.abs(low - shown.overview_HWC[5, 5]).max() < np.abs(high - shown.overview_HWC[5, 20]).max()
    everything = picture(replace(scores, factor_N=np.array([0.1, 1, 1, 15.9])), Shown(least_tissue=0))
    brightest = paint(shown.overview_HWC, scores.tiles_yx, everything.layers[0], np.array([10.0, 15.0]))[15, 20].astype(
        int
    )
    assert brightest[1] - brightest[2] > 60, "the highest attention is yellow"
    assert not np.isnan(everything.layers[0].place_N).any()


def test_what_is_not_coloured_is_told_and_is_no_top_tile(scores: TileScores) -> None:
    layer = attention_layer(scores, Shown(), coloured(scores, 0.25))
    assert layer.note == "Tiles with less than 25% tissue are not coloured; 60% of the attention lies on them."
    assert layer.top_N.tolist() == [1], "others have less than the mean"
    assert layer.top_said == ("1.2\N{MULTIPLICATION SIGN}  row 0, col 1",)
    assert attention_layer(scores, Shown(least_tissue=0), ALL).top_N.tolist() == [3, 1]
    assert coloured(scores, 1.0).tolist() == [False, True, False, False]
    assert coloured(replace(scores, tissue_N=scores.tissue_N * np.float32(0.5)), 0.9).all(), (
        "where none has so much tissue, all"
    )


def test_a_factor_has_its_place_on_a_scale_by_powers_of_two(scores: TileScores) -> None:
    """Factors 0.2, 1.2, 0.2 and 2.4 on a scale from 1/4 to 4: the mean lies in the middle."""
    layer = attention_layer(scores, Shown(), ALL)
    assert layer.place_N.tolist() == pytest.approx([0, (np.log2(1.2) + 2) / 4, 0, (np.log2(2.4) + 2) / 4])
    assert dict(layer.ticks)[0.5] == "1\N{MULTIPLICATION SIGN}"
    assert [name for _, name in layer.ticks] == [f"{n}\N{MULTIPLICATION SIGN}" for n in ("1/4", "1/2", "1", "2", "4")]
    strong = attention_layer(replace(scores, factor_N=np.array([0.1, 1, 30, 300.0])), Shown(), ALL)
    assert strong.place_N[3] == pytest.approx((np.log2(300) + 2) / (9 + 2))
    assert len(strong.ticks) <= 8
    rank, share = (attention_layer(scores, Shown(scale=own), ALL) for own in ("rank", "absolute"))
    assert rank.place_N.tolist() == pytest.approx([1 / 6, 2 / 3, 1 / 6, 1])
    assert share.place_N.tolist() == pytest.approx([0.05 / 0.6, 0.5, 0.05 / 0.6, 1])
    assert [name for _, name in share.ticks] == ["0 %", "30 %", "60 %"]


def test_directions_are_orange_towards_blue_away_and_nothing_between(scores: TileScores) -> None:
    layer = push_layer(scores, "LAA", ALL)
    assert layer.place_N[2] == 0.5
    assert layer.place_N[0] < 0.5 < layer.place_N[3] < layer.place_N[1]
    assert (layer.ticks[0][1], layer.ticks[-1][1]) == ("\N{MINUS SIGN}1", "+1")
    assert layer.top_N.tolist() == [1, 3, 0]
    assert layer.note == "Exact: all of it."
    other = push_layer(scores, "CE", ALL)
    np.testing.assert_allclose(other.place_N, 1 - layer.place_N)
    (towards, strong), (away, _), (_, none) = (DIRECTION(np.array([place])) for place in (1.0, 0.0, 0.5))
    assert towards[0, 0] > towards[0, 2] + 100
    assert away[0, 2] > away[0, 0] + 100
    assert none[0, 0] < 0.15 < 0.6 < strong[0, 0]
    risk = replace(scores, outputs=("risk", "x"))
    assert push_layer(risk, "risk", ALL).title == "Raises the risk (orange), lowers it (blue)"


def test_palettes_are_told_apart_by_lightness_alone() -> None:
    """Whoever sees no hue sees the order: lightness rises along attention, and falls from the middle of directions."""
    grey = np.array([0.299, 0.587, 0.114])
    ways = [
        (ATTENTION, np.linspace(0, 1, 20), 1),
        (DIRECTION, np.linspace(0.5, 1, 20), -1),
        (DIRECTION, np.linspace(0.5, 0, 20), -1),
    ]
    for palette, places, sign in ways:
        assert (np.diff(palette(places)[0] @ grey) * sign > 0).all()


def test_drawing_takes_any_id_and_shape_and_number_of_maps(scores: TileScores) -> None:
    one = picture(scores)
    wide = np.repeat(one.overview_HWC, 40, axis=1)
    assert draw(one).size[0] == draw(replace(one, overview_HWC=wide)).size[0] == 1430
    many = picture(scores, Shown(classes=("CE", "LAA"), disagreement=True))
    assert [layer.title.split(" ")[0] for layer in many.layers] == ["Attention", "Towards", "Towards", "Disagreement"]
    assert draw(many).size[0] == 1550
    assert draw(many).size[1] > 2 * draw(one).size[1] - 400


def test_top_tiles_are_framed_and_numbered_on_slide_and_map(scores: TileScores) -> None:
    """Only around the tile that stands out are there frames: black lines on pixels that were tissue or colour."""
    shown = picture(scores)
    bare = replace(shown, layers=tuple(replace(own, top_N=own.top_N[:0]) for own in shown.layers))
    bare = replace(bare, top_tiles=tuple(tiles[:0] for tiles in shown.top_tiles))
    with_marks, without = np.asarray(draw(shown)).astype(int), np.asarray(draw(bare)).astype(int)
    rows = min(len(with_marks), len(without)) - 24
    panels = np.abs(with_marks[:rows] - without[:rows]).any(axis=2)[: 24 + 3 * 22 + 22 + 400]
    ys, xs = np.nonzero(panels)
    scale = 619 / 45  # three tiles and a margin of one fill a panel
    tile_x = 24 + 15 * scale
    inside = [(x > tile_x - 3) & (x < tile_x + 15 * scale + 3) for x in (xs, xs - 619 - 24)]
    assert (inside[0] | inside[1]).all()
    assert inside[0].any()
    assert inside[1].any()
    assert ys.max() <= 24 + 4 * 22 + 10 * scale + 3


def test_scale_bars() -> None:
    assert [scale_bar(width) for width in (100, 999, 1000, 9000, 40_000)] == [20, 200, 200, 2000, 10_000]
    assert scale_bar(128, 0.45) == 50


def test_the_table_has_the_columns_it_had_and_more(trained: Trained, small_store: TileStore, tmp_path: Path) -> None:
    rows = instances(np.random.default_rng(SEED), small_store.n_tiles, positive=True)
    write_bag(tmp_path / f"{small_store.image_id}.h5", [rows], small_store.coords_l0_yx(), facts(small_store.image_id))
    wanted = replace(options(trained, small_store, tmp_path / "maps"), bags=(tmp_path,))
    assert heatmap(wanted).exit_code == 0
    with (wanted.out / f"{small_store.image_id}.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    old = ["tile_row", "tile_column", "l0_y", "l0_x", "attention", "percentile"]
    assert list(table[0]) == [*old, "factor", "tissue", "push_CE", "push_LAA"], "one model: no disagreement"
    for row, tissue in zip(table, small_store.tissue, strict=True):
        assert float(row["factor"]) == pytest.approx(float(row["attention"]) * len(table), rel=1e-4)
        assert float(row["push_CE"]) == pytest.approx(-float(row["push_LAA"]), rel=1e-4)
        assert float(row["tissue"]) == pytest.approx(float(tissue), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": ("XX",)}, "--class XX: expected one of CE, LAA"),
        ({"least_tissue": 1.2}, "--least-tissue"),
        ({"scale": "log"}, "--scale"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_work(
    trained: Trained, small_store: TileStore, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(RequestError, match=told):
        heatmap(replace(options(trained, small_store, tmp_path / "maps"), **changes))  # type: ignore[arg-type]
    assert not (tmp_path / "maps").exists()


def test_other_settings_are_another_picture(trained: Trained, small_store: TileStore, tmp_path: Path) -> None:
    wanted = options(trained, small_store, tmp_path / "maps")
    assert heatmap(wanted).exit_code == 0
    directions = replace(wanted, classes=("LAA",))
    assert "--overwrite" in heatmap(directions).outcomes[0].reason
    assert heatmap(replace(directions, overwrite=True)).outcomes[0].status is Status.DONE
    assert heatmap(directions).outcomes[0].status is Status.SKIPPED


def test_processes_draw_the_same_pictures(
    trained: Trained, small_store: TileStore, second_store: TileStore, tmp_path: Path
) -> None:
    for store in (small_store, second_store):
        rows = instances(np.random.default_rng(SEED), store.n_tiles, positive=True)
        write_bag(tmp_path / f"{store.image_id}.h5", [rows], store.coords_l0_yx(), facts(store.image_id))
    one = replace(
        options(trained, small_store, tmp_path / "one"),
        bags=(tmp_path,),
        stores=(Path(small_store.path), Path(second_store.path)),
    )
    two = replace(one, out=tmp_path / "two", workers=2, everything=True)
    assert [o.status for o in heatmap(one).outcomes] == [o.status for o in heatmap(two).outcomes] == [Status.DONE] * 2
    for name in (f"{store.image_id}.png" for store in (small_store, second_store)):
        assert (one.out / name).read_bytes() == (two.out / name).read_bytes()
    with pytest.raises(RequestError, match="--all and --image-id"):
        replace(one, everything=True, image_ids=("x",))
    alone = find_slides(RunFolder(trained.out), one.bags, one.stores[:1], ())
    assert alone.left_out == f"left out, for they have a bag or a tile store alone: {second_store.image_id}"
    assert find_slides(RunFolder(trained.out), one.bags, one.stores, ()).left_out == ""


def test_a_part_of_the_slide_is_painted_as_the_whole_is(scores: TileScores) -> None:
    shown = picture(scores)
    size = np.array([10.0, 15.0])
    whole = paint(shown.overview_HWC, scores.tiles_yx, shown.layers[0], size)
    part = paint(shown.overview_HWC[4:33, 7:41], scores.tiles_yx, shown.layers[0], size, np.array([4.0, 7.0]))
    np.testing.assert_array_equal(part, whole[4:33, 7:41])

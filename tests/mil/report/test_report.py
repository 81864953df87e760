"""Heat maps and the report: what they show, and that the page stands alone."""

import csv
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from making import SEED
from PIL import Image
from witness import Trained, facts, instances

from features.bags.bag import write_bag
from mil.evaluation.examples import MOST, choose, of_interest
from mil.heatmaps.heatmap import heatmap
from mil.heatmaps.options import HeatmapOptions
from mil.heatmaps.overlay import SlidePicture, draw, paint, scale_bar
from mil.heatmaps.tile_scores import percentiles
from mil.report.card import model_card
from mil.report.options import ReportOptions
from mil.report.report import page, report
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.targets import ClassTarget, ValueTarget
from wsi.errors import RequestError
from wsi.outcome import Status
from wsi.store.tile_store import TileStore


@pytest.fixture
def picture() -> SlidePicture:
    overview = np.full((40, 60, 3), 255, np.uint8)
    overview[:20, :30] = (150, 80, 160)
    return SlidePicture(
        image_id="a$b_0",
        classes=("CE", "LAA"),
        outputs_C=np.array([0.25, 0.75]),
        shares=True,
        label=None,
        out_of_fold=False,
        models=3,
        overview_HWC=overview,
        overview_mpp=8.0,
        tiles_yx=np.array([[0, 0], [0, 1], [1, 0]], np.int32),
        tile_share=np.array([10 / 40, 15 / 60]),
        attention_N=np.array([0.1, 0.7, 0.2]),
        percentile_N=np.array([0.0, 1.0, 0.5]),
        top_N=np.array([1, 2, 0]),
        top_tiles_KHWC=np.full((3, 8, 8, 3), 90, np.uint8),
        l0_yx=np.array([[0, 0], [0, 256], [256, 0]]),
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


def test_colour_goes_only_where_tiles_are_and_tissue_stays_visible(picture: SlidePicture) -> None:
    painted = paint(picture)
    changed = (painted != picture.overview_HWC).any(axis=2)
    tiles = np.zeros((40, 60), bool)
    for row, column in picture.tiles_yx:
        tiles[row * 10 : row * 10 + 10, column * 15 : column * 15 + 15] = True
    assert not changed[~tiles].any()
    assert changed[tiles].all()
    high, low = painted[5, 20].astype(int), painted[5, 5].astype(int)
    assert high[1] - high[2] > 60, "the highest attention is yellow"
    assert np.abs(low - picture.overview_HWC[5, 5]).max() < np.abs(high - picture.overview_HWC[5, 20]).max()


def test_drawing_takes_any_id_and_shape(picture: SlidePicture) -> None:
    wide = np.repeat(picture.overview_HWC, 40, axis=1)
    assert draw(picture).size[0] == draw(replace(picture, overview_HWC=wide)).size[0] == 1430


def test_percentiles_and_the_scale_bar() -> None:
    assert percentiles(np.array([0.5, 0.1, 0.1, 0.3])).tolist() == pytest.approx([1, 1 / 6, 1 / 6, 2 / 3])
    assert percentiles(np.array([1.0])).tolist() == [1]
    assert [scale_bar(width) for width in (100, 999, 1000, 9000, 40_000)] == [20, 200, 200, 2000, 10_000]


def test_examples_are_the_surest_right_and_wrong_ones() -> None:
    def row(image_id: str, label: str, p_laa: float, tiles: int = 9) -> dict[str, str]:
        return {
            "image_id": image_id,
            "label": label,
            "n_tiles": str(tiles),
            "p_CE": f"{1 - p_laa}",
            "p_LAA": f"{p_laa}",
        }

    rows = [row("a", "CE", 0.1), row("b", "CE", 0.2), row("c", "LAA", 0.6), row("d", "LAA", 0.3), row("e", "CE", 0, 0)]
    chosen = choose(ClassTarget, rows, ["CE", "LAA"], {"a", "b", "c", "d", "e"})
    assert [image_id for image_id, _ in chosen] == ["a", "c", "d"]
    assert chosen[-1][1] == "Wrong: LAA, but predicted CE with 70%"
    assert choose(ClassTarget, rows, ["CE", "LAA"], set()) == []


class _Links(HTMLParser):
    """Collect what a browser would fetch, and images without a description."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.images = 0
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.fetched += [found[key] or "" for key in ("src", "href", "srcset", "data") if key in found]
        if tag == "img":
            self.images += 1
            assert found.get("alt"), "an image without a description"
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)
        assert tag not in {"script", "link", "iframe", "object"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_stands_alone_and_shows_everything(trained: Trained) -> None:
    text = (trained.out / "report.html").read_text()
    links = _Links()
    links.feed(text)
    assert links.open == []
    assert links.images == 4, "ROC, calibration, training, one heat map"
    assert all(address.startswith("data:image/") for address in links.fetched)
    assert not re.search(r"url\(|@import|https?://", text)
    for part in ("AUC", "Mean colour of the tissue", "Center only", "0900_0", "Calibration error", "0.693"):
        assert part in text, part


def test_ids_from_outside_are_escaped(trained: Trained, tmp_path: Path) -> None:
    evidence = read_evidence(RunFolder(trained.out))
    evil = "<script>alert(1)</script>"
    metrics = {
        **evidence.metrics,
        "classes": [evil, "LAA"],
        "warnings": [evil],
        "failures": {evil: evil},
        "centers": [{**evidence.metrics["centers"][0], "center": evil}],
    }
    renamed = [{**row, f"p_{evil}": row["p_CE"], "label": evil} for row in evidence.slides]
    text = page(replace(evidence, metrics=metrics, slides=renamed))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_the_report_is_written_again_from_the_folder_alone(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / trained.out.name
    shutil.copytree(trained.out, copy)
    for name in ("report.html", "model_card.md"):
        (copy / name).unlink()
    assert report(ReportOptions(run=copy)).exit_code == 0
    for name in ("report.html", "model_card.md"):
        assert (copy / name).read_bytes() == (trained.out / name).read_bytes()
    with pytest.raises(RequestError, match="expected a run folder"):
        report(ReportOptions(run=tmp_path))


def test_the_model_card_tells_results_and_limits(trained: Trained) -> None:
    card = (trained.out / "model_card.md").read_text()
    for part in (
        "# Model card: CE vs LAA",
        "| AUC |",
        "Not a medical device",
        "equal class priors",
        "made (24 features)",
    ):
        assert part in card


def slide_row(image_id: str, label: str, p_a: float, tiles: int = 9) -> dict[str, str]:
    return {"image_id": image_id, "label": label, "n_tiles": str(tiles), "p_A": str(p_a), "p_B": str(1 - p_a)}


def test_slides_of_interest_are_the_surest_right_and_wrong_and_the_least_sure_of_each_class() -> None:
    rows = [
        slide_row("dull", "A", 0.8),
        slide_row("right", "A", 0.95),
        slide_row("wrong", "A", 0.1),
        slide_row("unsure", "A", 0.51),
        slide_row("b_right", "B", 0.02),
        slide_row("b_unsure", "B", 0.45),
        slide_row("empty", "B", 0.0, tiles=0),
        slide_row("absent", "B", 0.0),
    ]
    there = [row["image_id"] for row in rows if row["image_id"] != "absent"] + ["new"]
    found = of_interest(ClassTarget, rows, ("A", "B"), there)
    assert found[:5] == ["right", "b_right", "wrong", "unsure", "b_unsure"]
    assert found[5:] == ["dull", "new"]
    many = [slide_row(f"{i:03d}", "AB"[i % 2], i / 99) for i in range(100)]
    assert len(of_interest(ClassTarget, many, ("A", "B"), [row["image_id"] for row in many])) == MOST == 12


def test_slides_of_interest_of_values_are_the_highest_the_lowest_and_the_middle_ones() -> None:
    rows = [{"image_id": f"{i:02d}", "n_tiles": "9", "true_value": "1", "p_value": str(i)} for i in range(31)]
    found = of_interest(ValueTarget, rows, ("value",), [row["image_id"] for row in rows])
    assert found == ["30", "00", "15", "29", "01", "14", "28", "02", "16", "27", "03", "13"]


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


@pytest.mark.parametrize(
    ("changes", "on_page", "on_card"),
    [
        ({}, "no patient stands on both sides. A patient with several slides gets the mean", "Split by patient, bal"),
        ({"split": "centers"}, "Whole centers were divided into 3 groups", "Split by center: all patients of one"),
        ({"split": "centers"}, "no patient and no center stands on both sides", "gets the mean of their logits"),
        ({"aggregate": "max"}, "gets, for each class, the highest of their logits", "the highest of their logits"),
        ({"aggregate": "bag"}, "The tiles of all slides of a patient form one bag", "slides of a patient form one bag"),
    ],
)
def test_sentences_follow_from_the_options(
    trained: Trained, changes: dict[str, str], on_page: str, on_card: str
) -> None:
    evidence = read_evidence(RunFolder(trained.out))
    config = evidence.config | {"recipe": evidence.config["recipe"] | changes}
    changed = replace(evidence, config=config)
    assert on_page in page(changed)
    assert on_card in model_card(changed)
    if changes:
        assert on_page not in page(evidence)
    if changes.get("aggregate"):
        assert "mean of their logits" not in page(changed) + model_card(changed)
    if changes.get("split"):
        assert "Split by patient" not in model_card(changed)

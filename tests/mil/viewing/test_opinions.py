"""What a run says to readers through the server: the tables' own numbers, hidden where reading is blind."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import Server, served_of, serving
from making import SEED
from witness import Trained, Witness, facts, instances

from features.bags.bag import write_bag
from mil.inference.loaded_run import load_run
from mil.train import train
from mil.viewing.items import Items
from mil.viewing.opinions import RunOpinions, opinions_of, read_familiarity
from wsi.errors import RequestError
from wsi.files.csv_table import csv_text
from wsi.store.tile_store import TileStore
from wsi.viewing.judgements import JudgementFile
from wsi.viewing.review import Review

NEW = "0077_7"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, trained: Trained, small_store: TileStore) -> Path:
    """The slide that the run knows, and the same picture as one that it does not know, with a bag of its own."""
    folder = tmp_path_factory.mktemp("stores")
    for image_id in (small_store.image_id, NEW):
        shutil.copytree(small_store.path, folder / f"{image_id}.zarr")
    rows = instances(np.random.default_rng(SEED + 1), small_store.n_tiles, positive=False)
    write_bag(folder / f"{NEW}.h5", [rows], small_store.coords_l0_yx(), facts(NEW))
    return folder


@pytest.fixture(scope="module")
def opinions(trained: Trained, stores: Path, small_store: TileStore) -> RunOpinions:
    known = tuple(trained.witness.bags / f"{name}.h5" for name in (small_store.image_id, "0000_0"))
    bags = (*known, stores / f"{NEW}.h5")
    return opinions_of(trained.out, Items(bags=bags), [TileStore(own) for own in sorted(stores.glob("*.zarr"))])


def oof(run: Path) -> dict[str, dict[str, str]]:
    with (run / "oof.csv").open(newline="") as file:
        return {row["patient_id"]: row for row in csv.DictReader(file) if row["level"] == "patient"}


def manifest(trained: Trained) -> dict[str, dict[str, str]]:
    with trained.witness.manifest.open(newline="") as file:
        return {row["image_id"]: row for row in csv.DictReader(file)}


def test_a_runs_opinions_are_its_tables(trained: Trained, opinions: RunOpinions) -> None:
    told, rows = oof(trained.out), manifest(trained)
    assert opinions.classes == ("CE", "LAA")
    assert set(opinions.rows) == set(rows)
    for name, row in rows.items():
        own = opinions.rows[name]
        assert (own.patient_id, own.label, own.center_id) == (row["patient_id"], row["label"], row["center_id"])
        if name == "0900_0":  # no tiles: nothing was said
            assert opinions.predicted(name) is None
            continue
        p = {label: float(told[row["patient_id"]][f"p_{label}"]) for label in ("CE", "LAA")}
        assert opinions.predicted(name) == max(p, key=p.__getitem__)
        entropy = -sum(value * math.log2(value) for value in p.values() if value)
        assert opinions.orders["uncertainty"][name] == pytest.approx(entropy, abs=1e-6)
    errors = opinions.orders["error"]
    wrong = [name for name in errors if opinions.predicted(name) != rows[name]["label"]]
    assert wrong
    assert min(errors[name] for name in wrong) > max(errors[name] for name in errors if name not in wrong)


def test_of_a_new_slide_all_models_are_asked(trained: Trained, stores: Path, opinions: RunOpinions) -> None:
    p = load_run(trained.out).predict(stores / f"{NEW}.h5")
    assert opinions.predicted(NEW) == max(p, key=p.__getitem__)
    assert NEW not in opinions.rows
    assert 0 <= opinions.orders["uncertainty"][NEW] <= 1


@pytest.fixture
def server_of(stores: Path, opinions: RunOpinions, tmp_path: Path) -> Callable[..., Any]:
    def run(*, blind: bool) -> Any:
        served = served_of((stores,), (), tmp_path, opinions, blind=blind, judgements=tmp_path / "j.jsonl")
        return serving(served)

    return run


def document(server: Server, path: str, headers: Any = None) -> Any:
    answer = server.ask(path, headers=headers)
    assert answer.status == 200, answer.body
    text = answer.body.decode()
    return json.loads(text[text.index("(") + 1 : text.rindex(")")])


def test_the_server_tells_what_the_run_says(
    server_of: Callable[..., Any], trained: Trained, small_store: TileStore
) -> None:
    with server_of(blind=False) as server:
        for name in (small_store.image_id, NEW):
            told = document(server, f"/slides/{name}/slide.js")
            assert told["layers"][0]["key"] == "factor"
            assert told["prediction"]["classes"] == ["CE", "LAA"]
        known = document(server, f"/slides/{small_store.image_id}/slide.js")["prediction"]
        row = oof(trained.out)[small_store.image_id[:-2]]
        assert known["values"] == pytest.approx([float(row["p_CE"]), float(row["p_LAA"])])
        cohort = document(server, "/cohort.js")
        rows = {row["id"]: row["values"] for row in cohort["slides"]}
        assert rows[small_store.image_id]["probability"] == pytest.approx(max(known["values"]))
        assert "of 1 of the run's" in cohort["said"]  # the new slide is of nobody whom the run knows
        assert [own["patient"] for own in cohort["slides"] if own["id"] == NEW] == ["0077"]
        assert rows[NEW]["predicted"] in {"CE", "LAA"}
        assert all(values["tiles"] == small_store.n_tiles for values in rows.values())
        assert [key for key, _ in server.ask("/worklist").json["orders"]] == ["uncertainty", "error", "id"]


def test_blind_readers_get_nothing_of_a_run_before_they_judge(
    server_of: Callable[..., Any], small_store: TileStore
) -> None:
    with server_of(blind=True) as server:
        name = server.ask("/reader", "PUT", {"name": "A"}, server.own).headers["Set-Cookie"].split(";")[0]
        mine = server.own | {"Cookie": name}

        def seen() -> tuple[Any, list[str], set[str]]:
            told = document(server, f"/slides/{small_store.image_id}/slide.js", mine)
            rows = {own["id"]: own["values"] for own in document(server, "/cohort.js", mine)["slides"]}
            return told["prediction"], [own["kind"] for own in told["layers"]], set(rows[small_store.image_id])

        prediction, kinds, values = seen()
        assert prediction is None
        assert set(kinds) <= {"score"}
        assert values <= {"tiles", "mpp", "warnings"}
        assert server.ask("/judgements", "POST", {"slide": small_store.image_id, "label": "LAA"}, mine).status == 201
        prediction, kinds, values = seen()
        assert prediction["label"] == "LAA"
        assert "factor" in kinds
        assert {"predicted", "label", "error"} <= values
        assert document(server, f"/slides/{NEW}/slide.js", mine)["prediction"] is None


def test_train_takes_the_judged_labels(trained: Trained, opinions: RunOpinions, tmp_path: Path) -> None:
    rows = manifest(trained)
    patients = {name: row["patient_id"] for name, row in rows.items()}
    review = Review(patients, JudgementFile(tmp_path / "j.jsonl"), opinions, blind=False)
    wrong = next(name for name in sorted(rows) if opinions.predicted(name) not in (None, rows[name]["label"]))
    review.judge("A", {"slide": wrong, "verdict": "agree", "note": "=the slide's label was wrong"})
    table = tmp_path / "corrected.csv"
    table.write_text(review.manifest())
    corrected = Witness(trained.witness.bags, table)
    summary = train(corrected.options(tmp_path / "run", epochs=1, folds=2))
    assert summary.exit_code == 0
    with (tmp_path / "run" / "splits.csv").open(newline="") as file:
        labels = {row["image_id"]: row["label"] for row in csv.DictReader(file)}
    same = {name for name in rows if patients[name] != patients[wrong]}
    assert {name: labels[name] for name in same} == {name: rows[name]["label"] for name in same}
    assert labels[wrong] == opinions.predicted(wrong) != rows[wrong]["label"]


def test_novelty_comes_from_what_similar_found(trained: Trained, stores: Path, tmp_path: Path) -> None:
    table = tmp_path / "similar.csv"
    table.write_text(csv_text([["query"], [NEW]]))
    table.with_suffix(".json").write_text(json.dumps({"familiarity": {NEW: 0.25, "0001_0": 0.75}}))
    found = opinions_of(trained.out, Items(similar=(table,)), [])
    order = found.orders["novelty"]
    assert sorted(order, key=lambda name: -order[name]) == [NEW, "0001_0"]
    for broken in ("{", "{}", '{"familiarity": 3}', '{"familiarity": {"a": "x"}}'):
        table.with_suffix(".json").write_text(broken)
        with pytest.raises(RequestError, match="gigamil similar"):
            read_familiarity([table])
    table.with_suffix(".json").unlink()
    with pytest.raises(RequestError, match=r"similar\.json"):
        read_familiarity([table])


def test_an_unfinished_run_is_told_at_once(trained: Trained, tmp_path: Path) -> None:
    shutil.copy(trained.out / "config.toml", tmp_path)
    with pytest.raises(RequestError, match=r"not finished|expected"):
        opinions_of(tmp_path, Items(), [])

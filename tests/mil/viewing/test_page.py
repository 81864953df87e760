"""`gigamil page` of a run: what stands in the pages is what the run's tables and models tell."""

import base64
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import SEED
from witness import Trained, Witness, facts, instances

from cli.app import run as command
from features.bags.bag import read_header, write_bag
from mil.data.splits import known_slides
from mil.heatmaps.tile_scores import tile_scores
from mil.inference.loaded_run import load_run
from mil.models.ensemble import load_ensemble
from mil.run.folder import RunFolder
from mil.train import train
from mil.viewing.options import PageOptions
from mil.viewing.page import page
from wsi.errors import RequestError
from wsi.progress.outcome import Status
from wsi.store.tile_store import TileStore
from wsi.viewing import frontend, npm

pytestmark = pytest.mark.skipif(
    not Path(frontend.__file__).with_name("frontend").joinpath(npm.TARGET.name).is_file(),
    reason="OpenSeadragon is not there: gigamil was installed without a network",
)
NEW = "0077_7"


def told(path: Path) -> Any:
    """Read a data file back as a browser would."""
    text = path.read_text()
    return json.loads(text[text.index("(") + 1 : text.rindex(")")])


def floats(document: Any, key: str) -> np.ndarray:
    (found,) = [own for own in document["layers"] if own["key"] == key]
    return np.frombuffer(base64.b64decode(found["values"]), "<f4")


def oof(run: Path, level: str) -> dict[str, dict[str, str]]:
    with (run / "oof.csv").open(newline="") as file:
        return {row["patient_id"]: row for row in csv.DictReader(file) if row["level"] == level}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, small_store: TileStore) -> Path:
    """The slide that the run knows, and the same picture as a slide that it does not know."""
    folder = tmp_path_factory.mktemp("stores")
    for image_id in (small_store.image_id, NEW):
        shutil.copytree(small_store.path, folder / f"{image_id}.zarr")
    return folder


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory, trained: Trained, small_store: TileStore) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    shutil.copy(trained.witness.bags / f"{small_store.image_id}.h5", folder)
    rows = instances(np.random.default_rng(SEED), small_store.n_tiles - 1, positive=True)
    write_bag(folder / f"{NEW}.h5", [rows], small_store.coords_l0_yx()[:-1], facts(NEW))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, trained: Trained, stores: Path, bags: Path) -> Path:
    out = tmp_path_factory.mktemp("pages") / "out"
    summary = page(PageOptions(items=(trained.out, stores), bags=(bags,), out=out, workers=0, device="cpu"))
    assert [own.status for own in summary.outcomes] == [Status.DONE, Status.DONE]
    return out


def test_a_known_slide_shows_what_was_told_of_its_patient(
    written: Path, trained: Trained, small_store: TileStore, bags: Path
) -> None:
    image_id = small_store.image_id
    found, patients = told(written / f"slides/{image_id}/slide.js"), oof(trained.out, "patient")
    row, prediction = patients[image_id[:-2]], found["prediction"]
    assert found["patient"] == image_id[:-2]
    assert prediction["classes"] == ["CE", "LAA"]
    assert prediction["values"] == pytest.approx([float(row["p_CE"]), float(row["p_LAA"])])
    best = max(("CE", "LAA"), key=lambda name: float(row[f"p_{name}"]))
    assert prediction["said"].startswith(f"Predicted: {best} ")
    assert (prediction["label"], prediction["right"]) == (row["label"], row["label"] == best)
    assert (prediction["out_of_fold"], prediction["cohort_class"], prediction["kind"]) == (True, best, "probabilities")
    others = [float(own[f"p_{best}"]) for name, own in patients.items() if name not in (row["patient_id"], "0900")]
    assert sorted(prediction["cohort"]) == pytest.approx(sorted(others))
    probs = np.array(prediction["values"])
    assert prediction["uncertainty"]["value"] == pytest.approx(-(probs * np.log2(probs)).sum())
    assert 0 <= prediction["uncertainty"]["rank"] <= 1
    ensemble = load_ensemble(RunFolder(trained.out), "cpu")
    scores = tile_scores(ensemble, read_header(bags / f"{image_id}.h5"), small_store, known_slides(trained.out))
    enough = small_store.tissue >= 0.25
    assert 0 < enough.sum() < len(enough)
    for key, values in (("factor", scores.factor_N), ("rank", scores.percentile_N), ("absolute", scores.attention_N)):
        np.testing.assert_allclose(floats(found, key), np.where(enough, values, np.nan), rtol=1e-6)
    for place, name in enumerate(("CE", "LAA")):
        np.testing.assert_allclose(
            floats(found, f"push_{place}"), np.where(enough, scores.push_of(name), np.nan), rtol=1e-5
        )
    assert found["layers"][0]["key"] == "factor"
    assert "less than 25% tissue" in found["layers"][0]["how"]
    assert found["top"][0] == np.where(enough, scores.factor_N, 0).argmax()
    assert np.array_equal(floats(found, "tissue"), small_store.tissue)
    assert ["Patient", image_id[:-2]] in found["facts"]


def test_a_new_slide_shows_what_all_models_tell(written: Path, trained: Trained, bags: Path) -> None:
    found = told(written / f"slides/{NEW}/slide.js")
    prediction = found["prediction"]
    assert dict(zip(("CE", "LAA"), prediction["values"], strict=True)) == pytest.approx(
        load_run(trained.out, "cpu").predict(bags / f"{NEW}.h5")
    )
    assert (prediction["out_of_fold"], prediction["label"], prediction["right"]) == (False, None, None)
    assert np.isnan(floats(found, "rank")[-1])  # the bag lacks the last tile
    assert found["patient"] is None


def test_the_cohorts_table_tells_what_the_run_tells(written: Path, trained: Trained, small_store: TileStore) -> None:
    found = told(written / "cohort.js")
    rows = {own["id"]: own for own in found["slides"]}
    row = oof(trained.out, "patient")[small_store.image_id[:-2]]
    values = rows[small_store.image_id]["values"]
    assert values["label"] == row["label"]
    assert values["error"] == pytest.approx(1 - float(row[f"p_{row['label']}"]))
    assert values["probability"] == pytest.approx(max(float(row["p_CE"]), float(row["p_LAA"])))
    assert (values["center"], values["tiles"]) == (row["center_id"], small_store.n_tiles)
    worth = {small_store.image_id: values["error"], NEW: rows[NEW]["values"]["doubt"]}
    assert [own["id"] for own in found["slides"]] == sorted(worth, key=worth.__getitem__, reverse=True)
    assert (written / rows[NEW]["href"]).is_file()
    assert (written / rows[NEW]["thumb"]).is_file()
    assert {own["key"] for own in found["columns"]} >= {"predicted", "probability", "right", "error", "doubt", "center"}
    assert "1 slide of 1 of the run's 47 patients, and 1 that it did not know. On patients " in found["said"]


def test_pages_lie_where_the_report_looks_for_them(
    trained: Trained, stores: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.out, run)
    assert command(["page", str(run), "--stores", str(stores), "--image-id", NEW, "-w", "0"]) == 0
    assert f"double click does it): {run / 'pages/index.html'}" in capfd.readouterr().err
    found = told(run / f"pages/slides/{NEW}/slide.js")
    assert found["prediction"] is None  # neither the run nor a bag knows of it
    assert found["layers"][0]["key"] == "focus"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"items": ()}, "expected a run or tile stores"),
        ({"stores": ()}, "give the slides' tile stores, too: --stores"),
        ({"image_ids": ("nobody",)}, "no tile store of nobody"),
        ({"items": (), "bags": (Path("b"),)}, "bags go with a run"),
        ({"items": (), "out": None}, "expected --out, the folder to write, found none"),
    ],
)
def test_wrong_requests_get_one_line(
    trained: Trained, stores: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    wanted: dict[str, Any] = {"items": (trained.out,), "stores": (stores,), "out": tmp_path / "out"} | changes
    wanted |= {"stores": ()} if said.startswith("expected a run") else {}
    with pytest.raises(RequestError, match=said):
        page(PageOptions(**wanted))
    assert not (tmp_path / "out").exists()


def test_a_bag_of_another_store_fails_its_slide_alone(
    trained: Trained, stores: Path, bags: Path, tmp_path: Path
) -> None:
    shutil.copytree(bags, tmp_path / "bags")
    rows = instances(np.random.default_rng(SEED), 3, positive=True)
    write_bag(tmp_path / "bags" / f"{NEW}.h5", [rows], np.full((3, 2), 77), facts(NEW))
    wanted = PageOptions(items=(trained.out, stores), bags=(tmp_path / "bags",), out=tmp_path / "out", workers=0)
    found = {own.item_id: own for own in page(wanted).outcomes}
    assert found.pop(NEW).status is Status.FAILED
    assert [own.status for own in found.values()] == [Status.DONE]
    assert [own["id"] for own in told(tmp_path / "out/cohort.js")["slides"]] == list(found)


@pytest.mark.parametrize(
    ("target", "columns", "cells"),
    [
        ("value", "value", ["1.5", "2.5", "4", "8"]),
        ("survival", "time,event", ["1,1", "2,0", "3,1", "5,1"]),
        ("labels", "label", ["a", "b", "a;b", "none"]),
    ],
)
def test_every_target_has_pages(
    target: str,
    columns: str,
    cells: list[str],
    tmp_path: Path,
    small_store: TileStore,
    write_cohort: Callable[..., Witness],
) -> None:
    (tmp_path / "bags").mkdir()
    witness, image_id = write_cohort(tmp_path / "bags", n_patients=16), small_store.image_id
    rows = instances(np.random.default_rng(SEED), small_store.n_tiles, positive=True)
    write_bag(witness.bags / f"{image_id}.h5", [rows], small_store.coords_l0_yx(), facts(image_id))
    slides = [*(line.split(",")[0] for line in witness.manifest.read_text().splitlines()[1:]), image_id]
    lines = [f"{slide},{slide[:-2]},{cells[int(slide[:4]) % 4]}" for slide in slides]
    witness.manifest.write_text("\n".join([f"image_id,patient_id,{columns}", *lines]) + "\n")
    run = tmp_path / "run"
    options = {"target": target, "epochs": 2, "baselines": (), "seeds": 1}
    assert train(witness.options(run, **options)).exit_code == 0
    wanted = PageOptions(items=(run, small_store.path), bags=(witness.bags,), out=tmp_path / "out", workers=0)
    (outcome,) = page(wanted).outcomes
    assert outcome.status is Status.DONE, outcome.reason
    found, row = told(tmp_path / f"out/slides/{image_id}/slide.js"), oof(run, "patient")[image_id[:-2]]
    prediction, names = found["prediction"], load_run(run, "cpu").classes
    assert prediction["kind"] == target
    assert prediction["values"] == pytest.approx([float(row[f"p_{name}"]) for name in names])
    assert (prediction["classes"] is None) == (target != "labels")
    assert len(prediction["cohort"]) == len(oof(run, "patient")) - 1
    keys = [own["key"] for own in found["layers"]]
    assert keys[: 3 + len(names)] == ["factor", "rank", "absolute", *(f"push_{n}" for n in range(len(names)))]
    (line,) = told(tmp_path / "out/cohort.js")["slides"]
    if target != "labels":
        assert line["values"]["value"] == pytest.approx(prediction["values"][0])

"""A run that has seen one vector a slide: it is judged as any other, and what shows tiles says that there are none."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import shapely
from sklearn.metrics import roc_auc_score
from witness import DIM, Trained

from cli.endings import train as ending
from features.bags.bag import read_features
from mil.embedding.embed import embed
from mil.embedding.of_run import width_of
from mil.embedding.options import EmbedOptions
from mil.heads import HeadSpec
from mil.heatmaps.geojson import export_geojson
from mil.heatmaps.heatmap import heatmap
from mil.heatmaps.options import GeojsonOptions, HeatmapOptions
from mil.models.model import BagModel
from mil.report.compare import compare
from mil.report.options import CompareOptions, ReportOptions
from mil.report.report import report
from mil.run.folder import RunFolder
from mil.tiles.classify import classify_tiles
from mil.tiles.options import ClassifyTilesOptions
from mil.train import train
from mil.training.options import TrainOptions
from mil.viewing.documents import RunSpeaker
from wsi.annotations.geojson import Annotation, annotations_bytes
from wsi.errors import RequestError
from wsi.progress.outcome import Summary
from wsi.recipe import Json
from wsi.store.tile_store import TileStore


@pytest.fixture(scope="module")
def means(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vectors") / "means"
    assert embed(EmbedOptions(bags=(trained.witness.bags,), out=out)).exit_code == 0
    return out


@pytest.fixture(scope="module")
def asked(trained: Trained, means: Path, small_store: TileStore) -> TrainOptions:
    """With attention and stores, so that a report on tiles would show examples; beside it a linear probe."""
    return TrainOptions(
        bags=(means,), manifest=trained.witness.manifest, out=means.parent / "run", stores=(Path(small_store.path),),
        folds=3, epochs=2, hidden=8, attention=4, baselines=("linear",), device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def on_vectors(asked: TrainOptions) -> Summary:
    return train(asked)


@pytest.fixture
def run(on_vectors: Summary, asked: TrainOptions) -> Path:
    return asked.out


def patients(run: Path, name: str = "oof.csv", **wanted: str) -> dict[str, dict[str, str]]:
    with (run / name).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["level"] == "patient"]
    return {row["patient_id"]: row for row in rows if all(row[key] == own for key, own in wanted.items())}


def test_stores_make_no_examples_that_fail(on_vectors: Summary, asked: TrainOptions) -> None:
    assert on_vectors.exit_code == 0, on_vectors.outcomes
    assert "NEW_VECTORS" in ending(asked, on_vectors)["next"]


def test_what_shows_tiles_is_refused_in_one_line_and_writes_nothing(
    trained: Trained, means: Path, run: Path, small_store: TileStore, tmp_path: Path
) -> None:
    stores, out = (Path(small_store.path),), tmp_path / "out"
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    region = Annotation(geometry=shapely.box(-10, -10, 600, 600), class_name="Tumor")
    (drawn / f"{small_store.image_id}.geojson").write_bytes(annotations_bytes([region]))
    requests: list[Callable[[tuple[Path, ...]], Summary]] = [
        lambda bags: heatmap(HeatmapOptions(run=run, bags=bags, stores=stores, out=out)),
        lambda bags: export_geojson(GeojsonOptions(run=run, bags=bags, stores=stores, out=out)),
        lambda bags: report(ReportOptions(run=run, bags=bags, stores=stores, annotations=drawn)),
    ]
    for bags in ((means,), (trained.witness.bags,)):  # bags of tiles show nothing of such a run either
        for request in requests:
            with pytest.raises(RequestError, match=r"was trained on one vector a slide \(mean\)") as told:
                request(bags)
            assert "\n" not in str(told.value)
    with pytest.raises(RequestError, match="holds one vector for the slide"):  # its row is no tile at the corner
        classify_tiles(ClassifyTilesOptions(bags=(means,), annotations=drawn, out=out))
    assert not out.exists()


def test_its_pages_tell_patients_and_nothing_of_tiles(means: Path, run: Path, small_store: TileStore) -> None:
    document: Json = {"patient": None, "layers": [], "facts": [], "warnings": [], "n": small_store.n_tiles}
    found, _ = RunSpeaker(run, (means,), device="cpu").speak(small_store, document)
    row = patients(run)[small_store.image_id[:-2]]
    assert found["prediction"]["values"] == pytest.approx([float(row["p_CE"]), float(row["p_LAA"])])
    assert found["layers"] == []
    assert found["warnings"] == ["The run was trained on one vector a slide (mean), and says nothing of tiles."]


def test_compare_judges_it_beside_a_run_on_tiles(trained: Trained, run: Path, tmp_path: Path) -> None:
    assert compare(CompareOptions(runs=(run, trained.out), out=tmp_path, seed=0)).exit_code == 0
    told = json.loads((tmp_path / "compare.json").read_text())
    vectors, tiles = patients(run), patients(trained.out)
    shared = sorted(vectors.keys() & tiles.keys())
    assert told["patients"] == len(shared)
    rows = list(told["runs"].values())
    for row, of_run in zip(rows[:2], (vectors, tiles), strict=True):
        truth = [of_run[name]["label"] == "LAA" for name in shared]
        expected = roc_auc_score(truth, [float(of_run[name]["p_LAA"]) for name in shared])
        assert row["metrics"]["auc"]["value"] == pytest.approx(expected)
    gap = rows[1]["metrics"]["auc"]["value"] - rows[0]["metrics"]["auc"]["value"]
    assert rows[1]["difference"]["auc"]["value"] == pytest.approx(gap)


def test_the_linear_probe_is_one_layer_on_the_standardised_vector(means: Path, run: Path) -> None:
    folder = RunFolder(run).model("linear", 0, 0)
    weights = safetensors.numpy.load_file(folder / "weights.safetensors")
    assert {name for name in weights if name.startswith("head.")} == {
        "head.classify.layer.weight", "head.classify.layer.bias"
    }  # fmt: skip
    limit = json.loads((folder / "model.json").read_text())["spec"]["limit"]
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 10
    for row in rows:
        vector = read_features(means / f"{row['image_id']}.h5")
        if len(vector):
            x = (vector[0].astype(float) - weights["mean_D"]) * weights["scale_D"]
            x = np.clip(x, -limit or -np.inf, limit or np.inf)
            logits = weights["head.classify.layer.weight"] @ x + weights["head.classify.layer.bias"]
            told = float(row["logit_1"]) - float(row["logit_0"])  # of classes only differences count
            assert told == pytest.approx(logits[1] - logits[0], abs=1e-5)


@pytest.mark.parametrize(("head", "width"), [("linear", DIM), ("mean_pool", 8)])
def test_a_point_is_as_long_as_what_the_last_layer_sees(head: str, width: int) -> None:
    assert width_of(BagModel(HeadSpec(name=head, dim=DIM, n_classes=2, hidden=8))) == width

"""`gigamil report --annotations` on a run: the table, the section, and what goes wrong."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
from witness import Trained

from features.bags.bag import read_header
from mil.data.splits import known_slides
from mil.heatmaps.tile_scores import tile_scores
from mil.models.ensemble import load_ensemble
from mil.report.localisation import Localisation, localise, read_localisation
from mil.report.options import ReportOptions
from mil.report.report import report
from mil.run.folder import RunFolder
from wsi.annotations.geojson import Annotation, annotations_bytes
from wsi.errors import RequestError
from wsi.progress.outcome import Silent
from wsi.store.tile_store import TileStore


@pytest.fixture
def drawn(tmp_path: Path, trained: Trained, small_store: TileStore) -> Path:
    """A folder whose drawing holds the three tiles of highest attention, and one that is ignored."""
    header = read_header(trained.witness.bags / f"{small_store.image_id}.h5")
    ensemble = load_ensemble(RunFolder(trained.out), "cpu")
    scores = tile_scores(ensemble, header, small_store, known_slides(trained.out))
    side = scores.l0_tile_px
    places = scores.l0_yx[np.argsort(-scores.attention_N)]
    items = [Annotation(geometry=shapely.box(x, y, x + side, y + side), class_name="Tumor") for y, x in places[:3]]
    y, x = places[-1]
    items.append(Annotation(geometry=shapely.box(x, y, x + side, y + side), class_name="Ignore*"))
    folder = tmp_path / "drawn"
    folder.mkdir()
    (folder / f"{small_store.image_id}.geojson").write_bytes(annotations_bytes(items))
    return folder


def test_a_report_says_whether_attention_lies_in_what_was_drawn(
    trained: Trained, small_store: TileStore, drawn: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.out, run)
    given = {"run": run, "bags": (trained.witness.bags,), "stores": (small_store.path,), "annotations": drawn}
    assert report(ReportOptions(**given)).exit_code == 0  # type: ignore[arg-type]
    with (run / "localisation.csv").open() as file:
        [row] = csv.DictReader(file)
    assert row["image_id"] == small_store.image_id
    assert (float(row["pointing"]), float(row["auc"]), float(row["iou"])) == pytest.approx((1, 1, 1))
    assert float(row["region"]) == pytest.approx(3 / small_store.n_tiles)
    told = read_localisation(run)
    assert told is not None
    assert told["summary"]["auc"]["patients"] == 1
    page = (run / "report.html").read_text()
    assert "Attention against drawn regions" in page
    assert 'href="#regions"' in page
    (drawn / f"{small_store.image_id}.geojson").write_text("{")
    asked = Localisation(run, (trained.witness.bags,), (Path(small_store.path),), drawn)
    found, [lost] = localise(asked, Silent())
    assert not found
    assert "cannot be read as GeoJSON" in lost.reason
    (run / "localisation.json").write_text("[]")
    with pytest.raises(RequestError, match="run gigamil report --annotations again"):
        read_localisation(run)
    (run / "localisation.json").unlink()
    assert read_localisation(run) is None


def test_wrong_requests(trained: Trained, small_store: TileStore, tmp_path: Path) -> None:
    given = {"run": trained.out, "bags": (trained.witness.bags,), "stores": (small_store.path,)}
    with pytest.raises(RequestError, match="expected --bags and --stores beside it"):
        ReportOptions(run=trained.out, annotations=tmp_path)
    with pytest.raises(RequestError, match="expected --annotations beside it"):
        ReportOptions(**given, annotation_class=("Tumor",))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"expected <image id>\.geojson of a slide with a bag"):
        report(ReportOptions(**given, annotations=tmp_path))  # type: ignore[arg-type]

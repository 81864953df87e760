"""A classifier of tiles: patients held out, numbers as scikit-learn's, files that come back bit by bit."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from witness import facts, grid

from features.bags.bag import write_bag
from mil.data.cohort import load_rows, read_headers
from mil.tiles.classifier import classifier_text, fit, read_classifier
from mil.tiles.classify import classify_tiles
from mil.tiles.labels import tile_labels
from mil.tiles.options import ClassifyTilesOptions
from wsi.annotations.geojson import Annotation, annotations_bytes, read_annotations
from wsi.errors import RecipeMismatchError, RequestError
from wsi.progress.outcome import Status

DIM, SIDE = 6, 256


def region(x0: int, y0: int, x1: int, y1: int, name: str) -> Annotation:
    """A rectangle of whole tiles."""
    return Annotation(geometry=shapely.box(x0 * SIDE, y0 * SIDE, x1 * SIDE, y1 * SIDE), class_name=name)


@pytest.fixture
def cohort(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Ten patients of two slides of 16 x 4 tiles; row 0 and 1 are tumour, of another mean, except in one slide."""
    rng = np.random.default_rng(0)
    bags, drawn = tmp_path / "bags", tmp_path / "drawn"
    bags.mkdir()
    drawn.mkdir()
    lines = ["image_id,patient_id"]
    for patient in range(10):
        for number in range(2):
            image_id = f"{patient}_{number}"
            rows = rng.normal(size=(64, DIM))
            rows[:32, 0] += 1.5
            rows += rng.normal(size=DIM)  # of the slide
            write_bag(bags / f"{image_id}.h5", [rows.astype(np.float16)], grid(64), facts(image_id))
            lines.append(f"{image_id},p{patient}")
            if (patient, number) != (9, 1):
                items = [region(0, 0, 16, 2, "Tumor"), region(0, 2, 8, 4, "Stroma"), region(0, 0, 1, 1, "Ignore*")]
                (drawn / f"{image_id}.geojson").write_bytes(annotations_bytes(items))
    (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
    return bags, drawn, tmp_path / "cohort.csv"


def options(cohort: tuple[Path, Path, Path], out: Path, **more: object) -> ClassifyTilesOptions:
    bags, drawn, manifest = cohort
    given = {"bags": (bags,), "annotations": drawn, "manifest": manifest, "out": out} | more
    return ClassifyTilesOptions(**given)  # type: ignore[arg-type]


def scores(path: Path) -> np.ndarray:
    with path.open() as file:
        return np.array([[float(cell) for cell in row.values()] for row in csv.DictReader(file)])


def test_labels_are_of_the_class_in_which_most_of_a_tile_lies(tmp_path: Path) -> None:
    file = tmp_path / "a.geojson"
    items = [
        region(0, 0, 2, 1, "Tumor: Positive"),
        Annotation(geometry=shapely.box(2.4 * SIDE, 0, 3.5 * SIDE, SIDE), class_name="Stroma"),  # 0.6 of tile 2
        region(3, 0, 4, 1, "Tumor: Positive"),  # 3 is tumour as a whole, and half stroma
        region(4, 0, 5, 1, "A"), region(4, 0, 5, 1, "B"),
        region(0, 0, 1, 1, "Ignore*"),
    ]  # fmt: skip
    file.write_bytes(annotations_bytes(items))
    l0_yx = grid(8)
    found = {name: own.tolist() for name, own in tile_labels(file, l0_yx, SIDE).items()}
    assert found == {"Stroma": [2], "Tumor: Positive": [1, 3]}
    found = {name: own.tolist() for name, own in tile_labels(file, l0_yx, SIDE, ("tumor", "A"), "other").items()}
    assert found == {"A": [4], "tumor": [1, 3], "other": [2, 5, 6, 7]}
    file.write_bytes(annotations_bytes([]))
    assert {name: own.tolist() for name, own in tile_labels(file, l0_yx, SIDE, (), "other").items()} == {
        "other": list(range(8))
    }
    assert tile_labels(file, l0_yx, SIDE) == {}


def test_learning_and_scoring_with_patients_held_out(cohort: tuple[Path, Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = classify_tiles(options(cohort, out, geojson=True))
    assert summary.exit_code == 0, summary.outcomes
    told, classifier = json.loads((out / "metrics.json").read_text()), read_classifier(out / "classifier.json")
    assert classifier.classes == ("Stroma", "Tumor")
    assert told["classes"]["Tumor"]["tiles"] == 19 * 31  # the tile in Ignore* is left out
    assert told["classes"]["Tumor"]["patients"] == 10
    assert sum(fold["patients"] for fold in told["folds"]) == 10
    headers, _ = read_headers((cohort[0],))
    fold = told["folds"][0]
    tested = [i for i, patient in classifier.patients.items() if classifier.folds[patient] == 0]
    rows = {i: np.asarray(load_rows(headers[i]), np.float32) for i in headers}
    labels = {i: tile_labels(cohort[1] / f"{i}.geojson", grid(64), SIDE) for i in classifier.patients}
    of = {n: {i: (rows[i][labels[i][n]]) for i in classifier.patients} for n in classifier.classes}
    train = [i for i in classifier.patients if i not in tested]
    x = np.concatenate([of[n][i] for n in classifier.classes for i in train])
    y = np.concatenate([np.full(len(of[n][i]), n == "Tumor") for n in classifier.classes for i in train])
    mean, std = x.mean(axis=0), x.std(axis=0)
    by_hand = LogisticRegression(class_weight="balanced").fit((x - mean) / std, y)
    test_x = np.concatenate([of[n][i] for n in classifier.classes for i in tested])
    test_y = np.concatenate([np.full(len(of[n][i]), n == "Tumor") for n in classifier.classes for i in tested])
    expected = by_hand.predict_proba((test_x - mean) / std)[:, 1]
    assert fold["auc"]["Tumor"] == pytest.approx(roc_auc_score(test_y, expected), abs=2e-3)
    for image_id in (tested[0], train[0], "9_1"):  # the last was not drawn on, but its patient was learnt from
        model = classifier.model_of(image_id, f"p{image_id[0]}")
        assert model is classifier.of_fold[classifier.folds[f"p{image_id[0]}"]]
        found = scores(out / "scores" / f"{image_id}.csv")
        assert found[:, :2].tolist() == grid(64).tolist()
        np.testing.assert_allclose(found[:, 2:], model.probabilities(rows[image_id]), rtol=1e-5)
    found = scores(out / "scores" / f"{tested[0]}.csv")
    by_sklearn = by_hand.predict_proba((rows[tested[0]] - mean) / std)
    np.testing.assert_allclose(found[:, 2:], by_sklearn, atol=2e-3)
    assert found[:32, 3].mean() > found[32:, 3].mean() + 0.2
    objects = read_annotations(out / "scores" / f"{tested[0]}.geojson.gz")
    assert [item.geometry.bounds[:2] for item in objects] == [(x, y) for y, x in found[:, :2]]
    np.testing.assert_allclose([item.measurements["p_Tumor"] for item in objects], found[:, 3], rtol=1e-5)


def test_noise_is_not_learnt(cohort: tuple[Path, Path, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for path in cohort[0].glob("*.h5"):
        path.unlink()
        # the slide is told by its features: a split of tiles would be judged far too well
        write_bag(
            path,
            [(rng.normal(size=(64, DIM)) + 5 * rng.normal(size=DIM)).astype(np.float16)],
            grid(64),
            facts(path.stem),
        )
    classify_tiles(options(cohort, tmp_path / "out"))
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert 0.42 < told["classes"]["Tumor"]["auc"] < 0.58


def test_a_classifier_scores_new_slides(cohort: tuple[Path, Path, Path], tmp_path: Path) -> None:
    classify_tiles(options(cohort, tmp_path / "out"))
    new = tmp_path / "new"
    new.mkdir()
    rows = np.random.default_rng(5).normal(size=(64, DIM)).astype(np.float16)
    write_bag(new / "77_0.h5", [rows], grid(64), facts("77_0"))
    write_bag(new / "78_0.h5", [rows], grid(64), facts("78_0", "another"))
    given = {"annotations": None, "manifest": None, "classifier": tmp_path / "out" / "classifier.json", "bags": (new,)}
    summary = classify_tiles(options(cohort, tmp_path / "scored", **given))
    done, bad = summary.outcomes
    assert (done.status, bad.status) == (Status.DONE, Status.FAILED)
    assert "was not made like those of" in bad.reason
    classifier = read_classifier(tmp_path / "out" / "classifier.json")
    found = scores(tmp_path / "scored" / "scores" / "77_0.csv")
    np.testing.assert_allclose(found[:, 2:], classifier.whole.probabilities(rows), rtol=1e-5)
    assert not (tmp_path / "scored" / "classifier.json").exists()
    assert classifier_text(classifier) == (tmp_path / "out" / "classifier.json").read_text()


def test_several_classes_and_probabilities_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 50)
    rows = (rng.normal(size=(150, DIM)) + np.eye(3, DIM)[labels] * 2).astype(np.float32)
    for kept in (labels >= 0, labels < 2):
        model, ended = fit(rows[kept], labels[kept], 1.0, 0)
        standard = (rows[kept] - model.mean_D) / model.scale_D
        by_hand = LogisticRegression(class_weight="balanced", tol=1e-6, max_iter=1000).fit(standard, labels[kept])
        np.testing.assert_allclose(model.probabilities(rows[kept]), by_hand.predict_proba(standard), atol=2e-3)
        assert ended


def test_a_finished_folder_is_skipped_another_refused_and_foreign_ones_left(
    cohort: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    asked = options(cohort, tmp_path / "out")
    assert [classify_tiles(asked).outcomes[-1].status for _ in range(2)] == [Status.DONE, Status.SKIPPED]
    with pytest.raises(RecipeMismatchError, match="folds"):
        classify_tiles(replace(asked, folds=3))
    (cohort[1] / "0_0.geojson").write_bytes(annotations_bytes([region(0, 0, 16, 1, "Tumor")]))
    with pytest.raises(RecipeMismatchError, match="annotations"):
        classify_tiles(asked)
    assert classify_tiles(replace(asked, overwrite=True)).exit_code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(RequestError, match="not made by gigamil"):
        classify_tiles(replace(asked, out=tmp_path / "mine", overwrite=True))


def test_wrong_requests_are_one_line(cohort: tuple[Path, Path, Path], tmp_path: Path) -> None:
    asked = options(cohort, tmp_path / "out")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"annotations": None}, "give either --annotations"),
        ({"classifier": tmp_path}, "give either --annotations"),
        ({"annotations": tmp_path / "none"}, "expected a folder"),
    ]
    for more, told in wrong:
        with pytest.raises(RequestError, match=told):
            replace(asked, **more)
    wrong = [
        ({"annotations": cohort[0]}, "no tile lies in a region of a class"),
        ({"annotation_class": ("Tumor",)}, "expected two or more classes"),
        ({"folds": 11}, "expected two or more classes with 11 or more patients each"),
    ]
    for more, told in wrong:
        with pytest.raises(RequestError, match=told) as raised:
            classify_tiles(replace(asked, **more))
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
    (cohort[1] / "3_1.geojson").write_text("{")
    summary = classify_tiles(asked)
    assert [(own.item_id, own.status) for own in summary.outcomes if own.status is not Status.DONE] == [
        ("3_1 (annotations)", Status.FAILED)
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"}, {"classes": ["Tumor"]}, {"folds": {"p0": 9}}, {"model": {}}, {"bags": {"x": 1}},
        {"models_of_folds": 3}, {"patients": []},
    ],
)  # fmt: skip
def test_a_classifier_that_is_none(cohort: tuple[Path, Path, Path], tmp_path: Path, change: dict[str, object]) -> None:
    file = tmp_path / "c.json"
    headers, _ = read_headers((cohort[0],))
    rows = np.concatenate([load_rows(headers[i]) for i in headers]).astype(np.float32)
    linear = fit(rows, np.arange(len(rows)) % 2, 1.0, 0)[0].as_json()
    whole = {
        "format": "gigamil-tile-classifier-1", "classes": ["A", "B"], "bags": {"dim": DIM}, "folds": {"p0": 0},
        "patients": {"0_0": "p0"}, "model": linear, "models_of_folds": [linear],
    }  # fmt: skip
    file.write_text(json.dumps(whole))
    assert read_classifier(file).classes == ("A", "B")
    file.write_text(json.dumps(whole | change))
    with pytest.raises(RequestError, match="cannot be read as a classifier of tiles"):
        read_classifier(file)

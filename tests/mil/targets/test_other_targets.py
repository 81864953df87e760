"""Runs that predict values, survival or several labels, from the manifest to the prediction."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from witness import DIM, Witness, facts, grid

from features.bags.bag import write_bag
from mil.inference.options import PredictOptions
from mil.inference.predict import predict
from mil.report.cards.texts import plain
from mil.report.compare import compare
from mil.report.options import CompareOptions, ReportOptions
from mil.report.report import report
from mil.run.evidence import read_evidence
from mil.run.folder import RunFolder
from mil.targets.survival.metrics import kaplan_meier
from mil.train import train
from wsi.errors import ManifestError, RequestError
from wsi.files.csv_table import read_records
from wsi.progress.outcome import Status

PATIENTS = 60


def write_bags(folder: Path, seed: int = 0) -> np.ndarray:
    """Write bags in which a share of the tiles (the patient's truth, 0 to 1) is told by one feature; return it."""
    rng = np.random.default_rng(seed)
    shares = rng.random(PATIENTS)
    for patient, share in enumerate(shares):
        for slide in range(1 + (patient % 6 == 0)):
            rows = rng.normal(size=(60, DIM)).astype(np.float16)
            rows[: round(60 * share), 2] += 3
            write_bag(folder / f"{patient:03d}_{slide}.h5", [rows], grid(60), facts(f"{patient:03d}_{slide}"))
    write_bag(folder / "900_0.h5", [np.empty((0, DIM), np.float16)], grid(0), facts("900_0"))
    return shares


def write_manifest(folder: Path, columns: str, cells: list[str]) -> Path:
    lines = [f"image_id,patient_id,{columns}"]
    for patient, cell in enumerate(cells):
        lines += [f"{patient:03d}_{slide},{patient:03d},{cell}" for slide in range(1 + (patient % 6 == 0))]
    path = folder / "manifest.csv"
    path.write_text("\n".join([*lines, f"900_0,900,{cells[0]}"]) + "\n")
    return path


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bags")


@pytest.fixture(scope="module")
def shares(bags: Path) -> np.ndarray:
    return write_bags(bags)


def run_of(bags: Path, folder: Path, manifest: Path, target: str) -> tuple[Path, dict[str, object]]:
    run = folder / "run"
    options = {"head": "mean_mlp", "baselines": (), "folds": 3, "epochs": 40, "hidden": 16, "lr": 1e-2}
    assert train(Witness(bags, manifest).options(run, target=target, **options)).exit_code == 0
    return run, json.loads((run / "metrics.json").read_text())


def predicted(run: Path, bags: Path, manifest: Path, out: Path, nobody: str) -> dict[str, dict[str, str]]:
    """Predict, with a slide that cannot be read beside the empty one; what is told of both is in the target's words."""
    (out.parent / "901_0.h5").write_bytes(b"no bag")
    with_bad = out.parent / "with_bad.csv"
    with_bad.write_text(manifest.read_text() + f"901_0,901,{manifest.read_text().splitlines()[-1].split(',', 2)[2]}\n")
    options = PredictOptions(run=(run,), items=(bags, out.parent / "901_0.h5"), out=out, manifest=with_bad)
    first, again = predict(options), predict(options)
    for summary in (first, again):
        assert [o.item_id for o in summary.ended(Status.FAILED)] == ["901_0"]
        assert summary.ended(Status.FAILED)[0].reason.endswith(f"({nobody})")
    notes = json.loads(out.with_suffix(".json").read_text())["notes"]
    assert f"2 patients at {nobody}, without a usable slide: 900, 901" in notes
    with out.open(newline="") as file:
        rows = {row["patient_id"]: row for row in csv.DictReader(file)}
    assert list(rows["901"].values())[1:] == list(rows["900"].values())[1:]
    return rows


def test_a_value(bags: Path, shares: np.ndarray, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, "value", [f"{400 + 100 * share:.4f}" for share in shares])
    run, found = run_of(bags, tmp_path, manifest, "value")
    own, constant = (found["models"][name] for name in ("mean_mlp", "constant"))  # type: ignore[index]
    assert own["r2"]["low"] > 0.7
    assert constant["r2"]["high"] < 0.1
    assert own["mean_absolute_error"]["value"] < 10
    rows = predicted(run, bags, manifest, tmp_path / "p.csv", "the mean of the training")
    told = np.array([float(rows[f"{p:03d}"]["value"]) for p in range(PATIENTS)])
    assert np.abs(told - (400 + 100 * shares)).mean() < 10
    assert float(rows["900"]["value"]) == pytest.approx(450, abs=15)  # no tiles: the mean
    page = (run / "report.html").read_text()
    assert "data:image/svg+xml" in page
    again = train(
        Witness(bags, manifest).options(
            run, target="value", head="mean_mlp", baselines=(), folds=3, epochs=40, hidden=16, lr=1e-2
        )
    )
    assert {o.status for o in again.outcomes} <= {Status.SKIPPED, Status.FAILED}


def test_survival(bags: Path, shares: np.ndarray, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    times, censored = rng.exponential(np.exp(-6 * shares)), rng.exponential(1.0, PATIENTS)
    cells = [f"{min(t, c):.6f},{int(t <= c)}" for t, c in zip(times, censored, strict=True)]
    run, found = run_of(bags, tmp_path, write_manifest(tmp_path, "time,event", cells), "survival")
    own, constant = (found["models"][name]["concordance"] for name in ("mean_mlp", "constant"))  # type: ignore[index]
    assert own["low"] > 0.6
    assert constant["value"] == 0.5
    rows = predicted(run, bags, tmp_path / "manifest.csv", tmp_path / "p.csv", "a log risk of 0, which says nothing")
    assert float(rows["901"]["risk"]) == 0
    told = [float(rows[f"{p:03d}"]["risk"]) for p in range(PATIENTS)]
    assert np.corrcoef(told, shares)[0, 1] > 0.7
    calibration = json.loads((run / "calibration.json").read_text())
    zeros = [-own["shift"][0] for own in calibration["folds"]]
    assert zeros == pytest.approx([median_validated(run / f"fold{fold}" / "seed0") for fold in range(len(zeros))])
    assert calibration["shift"][0] == pytest.approx(-np.mean(zeros))
    for row in read_records(run / "oof.csv"):
        if int(row["n_tiles"]):
            assert float(row["p_risk"]) == pytest.approx(float(row["logit_risk"]) - zeros[int(row["fold"])])


def median_validated(model: Path) -> float:
    """Return the median of what a model tells of the patients who chose its epoch, slides at their mean."""
    told: dict[str, list[float]] = {}
    for row in read_records(model / "scores.csv"):
        if row["part"] == "val":
            told.setdefault(row["image_id"].partition("_")[0], []).append(float(row["logit_0"]))
    return float(np.median([np.mean(own) for own in told.values()]))


def test_several_labels(bags: Path, shares: np.ndarray, tmp_path: Path) -> None:
    names = [("high",) * int(share > 0.5) + ("some",) * int(share > 0.25) for share in shares]
    manifest = write_manifest(tmp_path, "label", [";".join(own) or "none" for own in names])
    run, found = run_of(bags, tmp_path, manifest, "labels")
    assert found["classes"] == ["high", "some"]
    assert found["models"]["mean_mlp"]["macro_auc"]["low"] > 0.85  # type: ignore[index]
    rows = predicted(run, bags, manifest, tmp_path / "p.csv", "the labels' shares in the training")
    assert float(rows["901"]["high"]) == pytest.approx((shares > 0.5).mean(), abs=0.1)
    assert all(0 <= float(rows[f"{p:03d}"]["high"]) <= 1 for p in range(PATIENTS))
    strong, weak = int(np.argmax(shares)), int(np.argmin(shares))
    assert float(rows[f"{strong:03d}"]["high"]) + float(rows[f"{strong:03d}"]["some"]) > 1.5
    assert float(rows[f"{weak:03d}"]["some"]) < float(rows[f"{strong:03d}"]["some"]) - 0.3


def test_labels_that_are_known_in_part_and_in_another_order(bags: Path, shares: np.ndarray, tmp_path: Path) -> None:
    cells = ["a;b" if share > 0.6 else "?b" if share > 0.3 else "b" for share in shares]
    manifest = write_manifest(tmp_path, "label", cells)
    slides = [line for line in manifest.read_text().splitlines() if line.startswith("000_")]
    swapped = slides[1].replace(cells[0], ";".join(reversed(cells[0].split(";"))))
    manifest.write_text(manifest.read_text().replace(slides[1], swapped))
    _, found = run_of(bags, tmp_path, manifest, "labels")
    assert found["classes"] == ["a", "b"]
    assert found["models"]["mean_mlp"]["macro_auc"]["value"] > 0.8  # type: ignore[index]


@pytest.mark.parametrize(
    ("target", "columns", "told"),
    [
        ("value", "value", "predicted the value with an <b>R\N{SUPERSCRIPT TWO} of"),
        ("survival", "time,event", "put patients in the order of their risk with a <b>concordance of"),
        ("labels", "label", "told a and b with a <b>mean AUC of"),
    ],
)
def test_every_target_has_every_table_and_page(
    bags: Path, shares: np.ndarray, tmp_path: Path, target: str, columns: str, told: str
) -> None:
    cells = {
        "value": [f"{share:.4f}" for share in shares],
        "survival": [f"{2 - share:.4f},{i % 3 != 0:d}" for i, share in enumerate(shares)],
        "labels": ["a;b" if share > 0.6 else "?b" if share > 0.3 else "b" for share in shares],
    }[target]
    manifest = write_manifest(tmp_path, columns, cells)
    lines = manifest.read_text().splitlines()
    centers = [f"{line},{'center_id' if row == 0 else int(line[:3]) % 2}" for row, line in enumerate(lines)]
    manifest.write_text("\n".join(centers) + "\n")
    run, found = run_of(bags, tmp_path, manifest, target)
    assert list(found["models"]) == ["mean_mlp", "center_only", "constant"]  # type: ignore[call-overload]
    assert [len(found[name]) for name in ("folds", "centers")] == [3, 2]  # type: ignore[arg-type]
    with (run / "oof.csv").open(newline="") as file:
        rows = {(row["level"], row["patient_id"]): row for row in csv.DictReader(file)}
    nobody = [float(rows["patient", "900"][f"p_{name}"]) for name in found["classes"]]  # type: ignore[attr-defined]
    default = found["default"]
    assert np.allclose(nobody, default, atol=0.2)  # type: ignore[arg-type]  # no tiles: what is best said of anybody
    page, card = ((run / name).read_text() for name in ("report.html", "model_card.md"))
    assert told in page
    assert "Center only" in card
    assert (
        page.count("data:image/svg+xml") == {"value": 5, "survival": 6, "labels": 6}[target]
    )  # two of them: the training
    (run / "report.html").unlink()
    assert report(ReportOptions(run=run)).exit_code == 0
    assert (run / "report.html").read_text() == page
    shutil.copytree(run, tmp_path / "twin")
    compare(CompareOptions(runs=(run, tmp_path / "twin"), out=tmp_path / "c"))
    rows = json.loads((tmp_path / "c" / "compare.json").read_text())["runs"]
    assert list(rows) == ["run", "twin", "mean of the runs"]
    assert all(own["value"] == own["low"] == own["high"] == 0 for own in rows["twin"]["difference"].values())


def test_what_is_for_classes_is_refused_in_one_line(bags: Path, shares: np.ndarray, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, "value", [f"{share:.4f}" for share in shares])
    witness = Witness(bags, manifest)
    with pytest.raises(RequestError, match="--target value: label-smoothing is for classes"):
        witness.options(tmp_path / "no", target="value", label_smoothing=0.1)
    run, _ = run_of(bags, tmp_path, manifest, "value")
    with pytest.raises(RequestError, match="is for runs that predict classes, found --target value"):
        RunFolder(run).check_classes("a stack")


@pytest.mark.parametrize(
    ("columns", "cells", "target", "told"),
    [
        ("value", ["x"] * PATIENTS, "value", "slide 000_0: value 'x': expected a number"),
        ("value", ["2"] * PATIENTS, "value", "expected different values"),
        ("time,event", ["1,0"] * PATIENTS, "survival", "expected events in the manifest"),
        ("time,event", ["-1,1"] * PATIENTS, "survival", "slide 000_0: time -1: expected times of 0 or more"),
        ("time,event", ["1,2"] * PATIENTS, "survival", "slide 000_0: event '2': expected 1"),
        ("label", ["none"] * PATIENTS, "labels", "expected labels in the manifest, found none"),
        ("label", ["EGFR", "egfr;KRAS"] * (PATIENTS // 2), "labels", "labels EGFR and egfr differ in capitals"),
        (
            "label",
            ["CE", "LAA", "L aa"] * (PATIENTS // 3),
            "classes",
            "labels L aa and LAA differ in capitals",
        ),
    ],
)
def test_tables_that_say_nothing(
    bags: Path, shares: np.ndarray, tmp_path: Path, columns: str, cells: list[str], target: str, told: str
) -> None:
    manifest = write_manifest(tmp_path, columns, cells)
    with pytest.raises(ManifestError, match=told):
        train(Witness(bags, manifest).options(tmp_path / "run", target=target))
    assert not (tmp_path / "run").exists()


def test_a_table_without_the_column_is_named(bags: Path, shares: np.ndarray, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, "label", ["CE"] * PATIENTS)
    with pytest.raises(RequestError, match=r"manifest\.csv: expected slides with a value, found none"):
        train(Witness(bags, manifest).options(tmp_path / "run", target="value"))


def test_a_patient_has_one_truth(bags: Path, shares: np.ndarray, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, "value", [f"{share:.4f}" for share in shares])
    manifest.write_text(manifest.read_text().replace(f"000_1,000,{shares[0]:.4f}", "000_1,000,7"))
    with pytest.raises(ManifestError, match="patient 000: expected one value for all slides, found two"):
        train(Witness(bags, manifest).options(tmp_path / "run", target="value"))


def test_kaplan_meier_by_hand() -> None:
    times, shares = kaplan_meier(np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([True, True, False, False, True]))
    np.testing.assert_array_equal(times, [0, 1, 2, 4, 4])
    np.testing.assert_allclose(shares, [1, 0.8, 0.6, 0, 0])


@pytest.mark.parametrize(
    ("target", "columns", "cells", "carried"),
    [
        ("value", "value", [f"{patient}" for patient in range(9)], "in all: 9) carry"),
        (
            "survival",
            "time,event",
            [f"{1 + patient},{patient % 2}" for patient in range(12)],
            "with the event: 6) carry",
        ),
        ("labels", "label", ["some", "none"] * 6, "with some: 6, without some: 6) carry"),
    ],
)
def test_what_weakens_a_run_is_told_for_every_target(
    target: str, columns: str, cells: list[str], carried: str, tmp_path: Path
) -> None:
    lines = [f"image_id,patient_id,center_id,{columns}"]
    for patient, cell in enumerate(cells):
        untrained = replace(facts(f"{patient:02d}"), provenance={"encoder": {"trained": False, "description": "hash"}})
        rows = np.random.default_rng(patient).normal(size=(20, DIM))
        rows += 3 * (patient % 2)  # the center
        write_bag(tmp_path / f"{patient:02d}.h5", [rows.astype(np.float16)], grid(20), untrained)
        lines.append(f"{patient:02d},{patient:02d},{patient % 2},{cell}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    run = tmp_path / "run"
    options = {"head": "mean_mlp", "baselines": (), "folds": 2, "epochs": 1, "hidden": 4, "split": "patients"}
    train(Witness(tmp_path, tmp_path / "m.csv").options(run, target=target, **options))
    warnings = read_evidence(RunFolder(run)).warnings()
    wanted = [carried, "the encoder is not trained: hash"]
    wanted += ["the features tell the center (balanced accuracy 1.00, chance 0.50)"] if len(cells) >= 10 else []
    page, card = ((run / name).read_text() for name in ("report.html", "model_card.md"))
    for line in wanted:
        assert [own for own in warnings if line in own], (line, warnings)
        assert line in page
    assert all(f"- {plain(line)}" in card for line in warnings)
    assert "no patient stands on both sides" in page

"""Repeats beside each other: the corrected resampled t over the folds of all repeats."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from witness import Witness

from cli.endings import train as train_ending
from mil.evaluation.compare import compared, read_shared
from mil.evaluation.spread.repeats import members
from mil.report.compare import compare
from mil.report.options import CompareOptions
from mil.report.spread.told_apart import told_apart, verdict_of_folder
from mil.run.evidence import SPREAD, read_evidence
from mil.run.folder import RunFolder
from mil.train import train
from mil.training.options import TrainOptions
from wsi.errors import RequestError
from wsi.progress.outcome import Summary

QUICK = {"folds": 2, "epochs": 2, "hidden": 16, "attention": 8, "baselines": (), "repeats": 2}


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "oof.csv").open() as file:
        return list(csv.DictReader(file))


def rewritten(run: Path, change: Callable[[dict[str, str], int], dict[str, str]]) -> None:
    rows = [change(row, number) for number, row in enumerate(rows_of(run))]
    with (run / "oof.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def repeats(write_cohort: Callable[..., Witness], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two repeats of a way; b: another way, which tells something else of each; other: on other divisions."""
    folder = tmp_path_factory.mktemp("repeats")
    (folder / "bags").mkdir()
    witness = write_cohort(folder / "bags", 21)
    assert train(witness.options(folder / "a", **QUICK)).exit_code == 0
    for name in ("b", "other"):
        shutil.copytree(folder / "a", folder / name)
    rng = np.random.default_rng(0)
    for run in members(folder / "b"):
        told = rng.random(100)
        rewritten(run, lambda row, n, told=told: {**row, "p_CE": str(1 - told[n]), "p_LAA": str(told[n])})  # type: ignore[misc]
    rewritten(folder / "other" / "repeat0", lambda row, _: {**row, "fold": str(1 - int(row["fold"]))})
    return folder


def by_fold(folder: Path) -> np.ndarray:
    found = []
    for run in members(folder):
        rows = [row for row in rows_of(run) if row["level"] == "patient"]
        for fold in "01":
            own = [row for row in rows if row["fold"] == fold]
            found.append(roc_auc_score([row["label"] == "LAA" for row in own], [float(row["p_LAA"]) for row in own]))
    return np.array(found)


def test_the_test_is_of_the_folds_that_the_runs_tell(repeats: Path, tmp_path: Path) -> None:
    shared = read_shared([repeats / "a", repeats / "b"])
    rows = compared(shared, 0)
    assert list(rows) == ["a", "b"]  # no ensembles
    differences = by_fold(repeats / "b") - by_fold(repeats / "a")
    error = np.sqrt((1 / 4 + 1 / 1) * differences.var(ddof=1))  # of two folds one trains and one tests
    found = rows["b"]["resampled"]
    assert found["value"] == pytest.approx(differences.mean())
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(differences.mean()) / error, 1))  # of two folds
    assert shared.looks == 2  # b and the other stand beside a
    assert found["corrected_p"] == pytest.approx(min(1, 2 * found["p"]))
    pooled = [json.loads((own / "metrics.json").read_text())["models"]["gated_abmil"] for own in members(repeats / "a")]
    told = rows["a"]["metrics"]["auc"]
    assert told["value"] == pytest.approx(np.mean([own["auc_pooled"]["value"] for own in pooled]))
    assert told["low"] < told["value"] < told["high"]
    compare(CompareOptions(runs=(repeats / "a", repeats / "b"), out=tmp_path / "out"))
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "Each was trained 2 times" in page
    assert "the corrected resampled t test" in page
    assert (found["low"], found["high"]) == (-1, 1)  # of two folds: no areas differ by more
    gap = f"b less a is {found['value']:+.3f} in AUC (95 % interval -1.000 to +1.000, corrected p"
    assert f"No difference between a and b can be told on the same {len(shared.ids)} patients: {gap}" in page
    head, *table = (line.split(",") for line in (tmp_path / "out" / "compare.csv").read_text().splitlines())
    assert head[-2:] == ["resampled_p", "corrected_p"]
    assert table[0][-2:] == ["", ""]
    assert float(table[1][-2]) == pytest.approx(found["p"], rel=0.01)


def test_what_cannot_be_compared_fold_by_fold_is_refused(repeats: Path) -> None:
    with pytest.raises(RequestError, match="repeat 0 of other divides the patients otherwise than that of a"):
        read_shared([repeats / "a", repeats / "other"])
    with pytest.raises(RequestError, match=r"expected as many repeats of each, found 2 of \S+/a and 1 of \S+/repeat0"):
        read_shared([repeats / "a", repeats / "b" / "repeat0"])


def test_the_report_of_a_repeat_tells_how_they_differ(repeats: Path) -> None:
    told = told_apart(read_evidence(RunFolder(repeats / "a" / "repeat1")))["repeats"]
    values = [
        json.loads((own / "metrics.json").read_text())["models"]["gated_abmil"]["auc"]["value"]
        for own in members(repeats / "a")
    ]
    assert (told["repeats"], told["least"], told["most"]) == (2, min(values), max(values))
    assert told["mean"] == pytest.approx(np.mean(values))
    assert told["over_folds"]["value"] == pytest.approx(by_fold(repeats / "a").mean())
    assert SPREAD == "spread.json"
    said = verdict_of_folder(repeats / "a")
    assert said.startswith(
        f"AUC {told['mean']:.3f} on average of 2 divisions of the patients, from {told['least']:.3f}"
    )
    assert said.endswith("better than chance.")
    assert ("not shown" in said) == (told["over_folds"]["low"] <= 0.5)
    assert (
        said
        in train_ending(TrainOptions(bags=(repeats,), manifest=repeats, out=repeats / "a"), Summary("", (), 0))["lines"]
    )

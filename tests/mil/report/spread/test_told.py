"""The sections on uncertainty and centers, of a run that was trained."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from witness import Trained

from mil.report.options import ReportOptions
from mil.report.report import report
from mil.run.evidence import SPREAD, read_evidence
from mil.run.folder import RunFolder


def words(page: str, section: str) -> str:
    found = re.search(rf'<section id="{section}".*?</section>', page, re.DOTALL)
    assert found is not None
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", found[0])).split())


def test_what_is_told_is_what_scikit_learn_says_of_the_table(trained: Trained) -> None:
    told, evidence = json.loads((trained.out / SPREAD).read_text()), read_evidence(RunFolder(trained.out))
    labels, scores, folds = evidence.truth.groups_N, evidence.told[evidence.head][:, 1], evidence.folds_P
    assert told["metric"] == "auc"
    assert told["pooled"]["value"] == pytest.approx(roc_auc_score(labels, scores))
    by_fold = [roc_auc_score(labels[folds == fold], scores[folds == fold]) for fold in range(3)]
    np.testing.assert_allclose(told["folds"]["values"], by_fold)
    assert told["folds"]["value"] == pytest.approx(np.mean(by_fold))
    assert told["patients"] == evidence.own["auc"]
    shares = [[row["class"], row["least"], row["most"]] for row in told["balance"]]
    mean = [np.mean(labels[folds == fold]) for fold in range(3)]
    assert shares[1] == ["LAA", pytest.approx(min(mean)), pytest.approx(max(mean))]
    assert told["looks"]["runs"] == 1
    assert told["looks"]["p"] <= 0.01  # the cohort's rule is learnt


def test_the_page_names_each_uncertainty_and_the_other_looks(trained: Trained, tmp_path: Path) -> None:
    for name in ("own", "other"):
        shutil.copytree(trained.out, tmp_path / name)
    report(ReportOptions(run=tmp_path / "own"))
    page, told = (tmp_path / "own" / "report.html").read_text(), json.loads((tmp_path / "own" / SPREAD).read_text())
    assert "The intervals say how much the number would move with other patients scored by the same models" in page
    spread = words(page, "spread")
    assert told["looks"]["runs"] == 2
    assert told["looks"]["corrected_p"] == pytest.approx(min(1, 2 * told["looks"]["p"]))
    for line in (
        "other patients, the same models",
        "other training sets, 3 folds",
        "mean of the folds",
        "all folds pooled",
        "2 runs of these patients and this target stand in the same folder (other, own)",
        "Other divisions and seeds were not tried",
    ):
        assert line in spread, line
    groups = words(page, "groups")
    assert "Within centers, where nothing is won by knowing where a slide was made" in groups
    assert "the robustness index of PathoROB" in groups
    assert "Told at each center's own shares" in groups

"""Labels one by one, against scikit-learn, on those of whom each is known."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from mil.evaluation.by_target.each_label import each_label

NAMES = ("a", "b", "never")


def test_each_label_counts_whom_it_is_known_of() -> None:
    rng = np.random.default_rng(0)
    n = 60
    told = rng.random((n, 3))
    present = (rng.random((n, 3)) < told).astype(float)
    present[:, 2] = 0
    present[rng.random((n, 3)) < 0.2] = np.nan
    present[0] = np.nan
    blind = np.tile(np.nanmean(present, axis=0), (n, 1))
    found = each_label(present, told, blind, np.zeros(n, int), NAMES, [str(i) for i in range(n)], 0)
    for c, row in enumerate(found["labels"]):
        known = ~np.isnan(present[:, c])
        true = present[known, c] == 1
        assert (row["with"], row["without"], row["unknown"]) == (true.sum(), (~true).sum(), (~known).sum())
        brier = brier_score_loss(true, told[known, c], pos_label=True)
        assert row["brier"]["value"] == pytest.approx(brier, abs=1e-9)
        if c < 2:
            assert row["auc"]["value"] == pytest.approx(roc_auc_score(true, told[known, c]), abs=1e-9)
            precision = average_precision_score(true, told[known, c])
            assert row["average_precision"]["value"] == pytest.approx(precision, abs=1e-9)
            gain = 1 - brier / brier_score_loss(true, blind[known, c], pos_label=True)
            assert row["brier_gain"]["value"] == pytest.approx(gain, abs=1e-9)
            assert row["auc"]["low"] < row["auc"]["value"] < row["auc"]["high"]
        else:
            assert row["auc"]["value"] is None
            assert row["average_precision"]["value"] is None
    pair = [row["auc"]["value"] for row in found["labels"][:2]]
    assert found["macro"]["auc"]["value"] == pytest.approx(np.mean(pair))
    whole = (~np.isnan(present)).all(axis=1).sum()
    none = np.isnan(present).all(axis=1).sum()
    assert (found["all_known"], found["not_known"], found["partly_known"]) == (whole, none, n - whole - none)

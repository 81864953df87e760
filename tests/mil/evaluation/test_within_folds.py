"""Out-of-fold figures compare patients that one model scored: what knows nothing scores exactly chance."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mil.evaluation.delong import delong
from mil.report.options import CompareOptions
from mil.targets import ClassTarget
from mil.targets.metrics import ones
from mil.targets.survival.metrics import Followed, harrell_c
from wsi.errors import RequestError


def test_a_guess_of_the_class_shares_scores_exactly_chance() -> None:
    folds = np.repeat([0, 1, 2], 10)
    labels = np.concatenate([np.arange(10) < rare for rare in (2, 4, 6)]).astype(np.int64)
    target = ClassTarget(labels, ("a", "b"))
    share = np.array([labels[folds != fold].mean() for fold in folds])
    probs = np.stack([1 - share, share], axis=1)
    found = {name: float(own(ones(30))[0]) for name, own in target.measures(probs, folds).items()}
    assert found["auc"] == 0.5
    assert found["auc_pooled"] == pytest.approx(roc_auc_score(labels, share))
    assert found["auc_pooled"] < 0.45


def test_folds_of_other_scales_are_combined_by_their_pairs() -> None:
    rng = np.random.default_rng(0)
    folds, labels = np.arange(60) % 3, np.asarray(rng.random(60) < 0.4, np.int64)
    scores = 1 / (1 + np.exp(-((labels + rng.normal(size=60)) * np.array([0.1, 1, 5])[folds] + folds)))
    areas = [roc_auc_score(labels[folds == k], scores[folds == k]) for k in range(3)]
    pairs = [labels[folds == k].sum() * (1 - labels[folds == k]).sum() for k in range(3)]
    probs = np.stack([1 - scores, scores], axis=1)
    within = ClassTarget(labels, ("a", "b")).measures(probs, folds)["auc"]
    assert within(ones(60))[0] == pytest.approx(np.average(areas, weights=pairs))


def test_concordance_compares_patients_of_one_fold() -> None:
    times, events = np.array([1.0, 2, 3, 4]), np.ones(4, bool)
    risks, folds = np.array([2.0, 1, 9, 8]), np.array([0, 0, 1, 1])
    assert harrell_c(Followed(times, events, folds), risks, ones(4))[0] == 1
    assert harrell_c(Followed(times, events, 0 * folds), risks, ones(4))[0] == pytest.approx(2 / 6)


def test_a_difference_without_variance_has_no_p() -> None:
    positive = np.array([True, True, False, False])
    told = delong(positive, np.array([3.0, 4, 1, 2]), np.array([1.0, 2, 3, 4]))
    assert told.difference == -1
    assert np.isnan(told.p)
    assert delong(positive, np.arange(4.0), np.arange(4.0)).p == 1


def test_a_run_is_not_compared_with_itself_by_another_path(tmp_path) -> None:  # type: ignore[no-untyped-def]
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    (tmp_path / "again").symlink_to(a)
    with pytest.raises(RequestError, match="expected two or more different runs"):
        CompareOptions(runs=(a, b, tmp_path / "again"), out=tmp_path / "c")

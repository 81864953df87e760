"""Pairs of one center only, by hand and pair by pair; the prior of a center knows nothing of who is told."""

import numpy as np
import pytest

from mil.evaluation.bootstrap import draw_patients
from mil.evaluation.centers.prior import center_priors, priors_of_new, told_by_center
from mil.evaluation.centers.within import strata_of, within_centers
from mil.targets import ClassTarget
from mil.targets.base import Measure


def told_of(scores: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(scores), np.array(scores)], axis=1)


def test_a_model_that_knows_the_center_alone_is_at_chance_within() -> None:
    """Center a has 3 of 4, b 1 of 4; the score is the center. Pooled 9 + 6 / 2 of 16 pairs... within, all ties."""
    labels = np.array([1, 1, 1, 0, 1, 0, 0, 0])
    centers, told = ["a"] * 4 + ["b"] * 4, told_of([0.8] * 4 + [0.2] * 4)
    target, folds = ClassTarget(labels, ("no", "yes")), np.zeros(8, np.int64)

    def measure_in(strata: np.ndarray) -> Measure:
        return target.measures(told, strata)["auc"]

    found = within_centers(measure_in, target, centers, folds, draw_patients(8, 0, 50))
    assert found is not None
    assert found["pooled"]["value"] == 0.5
    assert measure_in(folds)(np.ones((1, 8)))[0] == pytest.approx((9 + 0.5 * (3 + 3)) / 16)
    assert [row["value"] for row in found["centers"]] == [0.5, 0.5]
    assert [row["worth"] for row in found["centers"]] == [0.75, 0.75]  # 3 * 1 / 4
    assert found["over_centers"] is None  # each has a class of one
    assert found["left_out"] == 2


def test_pairs_of_one_center_and_fold_count_once_each() -> None:
    rng = np.random.default_rng(0)
    labels, folds = rng.integers(2, size=90), rng.integers(3, size=90)
    centers = [["", "x", "y", "z"][c] for c in rng.integers(4, size=90)]
    scores = (rng.random(90) + 0.3 * labels).round(1)
    target, told = ClassTarget(labels, ("no", "yes")), told_of((scores / 2).tolist())
    found = within_centers(
        lambda strata: target.measures(told, strata)["auc"], target, centers, folds, draw_patients(90, 0, 200)
    )
    assert found is not None
    won, pairs = dict[str, float](), dict[str, float]()
    for up in np.flatnonzero(labels == 1):
        for down in np.flatnonzero(labels == 0):
            if folds[up] == folds[down] and centers[up] == centers[down] and centers[up]:
                pairs[centers[up]] = pairs.get(centers[up], 0) + 1
                half = float(scores[up] > scores[down]) + 0.5 * float(scores[up] == scores[down])
                won[centers[up]] = won.get(centers[up], 0) + half
    assert found["pooled"]["value"] == pytest.approx(sum(won.values()) / sum(pairs.values()))
    for row in found["centers"]:
        assert row["value"] == pytest.approx(won[row["center"]] / pairs[row["center"]])
    over = found["over_centers"]
    assert over["low"] < over["value"] < over["high"]
    assert len(set(strata_of(centers, folds).tolist())) == 12
    assert (
        within_centers(lambda strata: target.measures(told, strata)["auc"], target, ["x"] * 90, folds, np.ones((1, 90)))
        is None
    )


def test_a_centers_prior_is_counted_on_the_other_folds_by_hand() -> None:
    """Fold 1 holds of a: yes, yes, no; of b: no, no, no. For fold 0: share 2 / 6, then a and b pulled to it."""
    labels = np.array([1, 1, 0, 0, 0, 0, 1, 0])
    centers, folds = ["a", "a", "a", "b", "b", "b", "a", "c"], np.array([1, 1, 1, 1, 1, 1, 0, 0])
    prior, beliefs = center_priors(labels, centers, folds, 2)
    belief = beliefs[0]
    assert np.isfinite(belief)  # centers differ: they are believed
    assert prior[6, 1] == pytest.approx((2 + belief / 3) / (3 + belief))
    assert prior[7, 1] == pytest.approx(1 / 3)  # an unseen center is like all


def test_a_new_patients_prior_is_that_of_known_patients_of_the_same_center() -> None:
    """The same numbers as out of fold for fold 0; a center that is not known, or not told, is like all."""
    rng = np.random.default_rng(2)
    folds, home = np.arange(80) % 2, rng.integers(3, size=80)
    labels = (rng.random(80) < np.array([0.1, 0.5, 0.9])[home]).astype(np.int64)
    centers = [str(c) for c in home]
    wanted, beliefs = center_priors(labels, centers, folds, 2)
    known, new = folds == 1, folds == 0
    found, belief = priors_of_new(
        labels[known], [c for c, fine in zip(centers, known, strict=True) if fine],
        [*(c for c, fine in zip(centers, new, strict=True) if fine), "9", ""], 2,
    )  # fmt: skip
    assert belief == beliefs[0]
    np.testing.assert_allclose(found[:-2], wanted[new])
    np.testing.assert_allclose(found[-2:], [[1 - labels[known].mean(), labels[known].mean()]] * 2)
    alone, belief = priors_of_new(labels, [""] * 80, ["1"], 2)
    assert belief == np.inf
    assert alone[0, 1] == pytest.approx(labels.mean())


def test_who_is_told_plays_no_part_in_the_own_prior() -> None:
    rng = np.random.default_rng(1)
    folds = np.arange(60) % 3
    centers = [str(c) for c in rng.integers(3, size=60)]
    labels = rng.integers(2, size=60)
    prior, beliefs = center_priors(labels, centers, folds, 2)
    for fold in range(3):
        own = folds == fold
        other, again = center_priors(np.where(own, 1 - labels, labels), centers, folds, 2)
        assert np.array_equal(prior[own], other[own])
        assert beliefs[fold] == again[fold]
        assert not np.array_equal(prior[~own], other[~own])


def test_the_prior_of_a_center_gains_where_centers_differ_and_loses_nothing_where_they_do_not() -> None:
    rng = np.random.default_rng(3)
    folds, center = np.arange(600) % 5, rng.integers(4, size=600)
    draws = draw_patients(600, 0, 300)
    for shares, differ in (((0.1, 0.3, 0.6, 0.9), True), ((0.4, 0.4, 0.4, 0.4), False)):
        labels = (rng.random(600) < np.array(shares)[center]).astype(np.int64)
        told = told_of((1 / (1 + np.exp(-(2 * labels - 1 + 1.4 * rng.normal(size=600))))).tolist())
        found = told_by_center(ClassTarget(labels, ("no", "yes")), told, [str(c) for c in center], folds, draws)
        assert found is not None
        if differ:
            assert found["gain"]["low"] > 0.05
            assert found["moved"][0] < -1 < 1 < found["moved"][1]
        else:
            assert abs(found["gain"]["value"]) < 0.005
    assert told_by_center(ClassTarget(labels, ("no", "yes")), told, ["one"] * 600, folds, draws) is None

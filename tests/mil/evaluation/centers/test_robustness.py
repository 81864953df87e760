"""The robustness index: by hand on toy vectors, and with scikit-learn's neighbours."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from mil.evaluation.centers.robustness import NEIGHBOURS, neighbours_share, robustness_index
from mil.evaluation.oof import Patients
from mil.targets import ClassTarget


def at(degrees: list[float]) -> np.ndarray:
    return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)


def test_by_hand_on_a_circle() -> None:
    """Class A of centers 1 and 2 lies at 0 and 10 degrees, B at 90 and 100: the nearest shares the class alone."""
    classes, centers, groups = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.arange(4)
    found = neighbours_share(at([0, 10, 90, 100]), classes, centers, groups, 1)
    assert found.index(np.ones((1, 4)))[0] == 1
    assert found.chance == 0.5  # each has one of the same class and one of the same center among the three others
    # centers lie together: the nearest shares the center alone
    found = neighbours_share(at([0, 90, 10, 100]), classes, centers, groups, 1)
    assert found.index(np.ones((1, 4)))[0] == 0
    # two neighbours: of 0 degrees 10 (class) and 90 (center), of 10: 0 (class) and 90 (neither), of 90: 100 and 10 ...
    found = neighbours_share(at([0, 10, 90, 100]), classes, centers, groups, 2)
    assert found.class_only_P.tolist() == [1, 1, 1, 1]
    assert found.center_only_P.tolist() == [1, 0, 0, 1]
    assert found.index(np.ones((1, 4)))[0] == pytest.approx(4 / 6)


def test_neighbours_are_those_of_scikit_learn_and_never_of_the_same_patient() -> None:
    rng = np.random.default_rng(0)
    features, classes, centers = rng.normal(size=(50, 8)), rng.integers(2, size=50), rng.integers(3, size=50)
    found = neighbours_share(features, classes, centers, np.arange(50), 5)
    near = NearestNeighbors(n_neighbors=6, metric="cosine").fit(features).kneighbors(return_distance=True)[1][:, :5]
    alike, home = classes[near] == classes[:, None], centers[near] == centers[:, None]
    assert found.class_only_P.tolist() == (alike & ~home).sum(axis=1).tolist()
    assert found.center_only_P.tolist() == (~alike & home).sum(axis=1).tolist()
    twins = np.concatenate([features, features])
    both = neighbours_share(twins, np.tile(classes, 2), np.tile(centers, 2), np.tile(np.arange(50), 2), 1)
    alone = neighbours_share(features, classes, centers, np.arange(50), 1)
    assert both.class_only_P[:50].tolist() == alone.class_only_P.tolist()


def patients_of(classes: np.ndarray, centers: list[str | None]) -> Patients:
    ids, size = tuple(map(str, range(len(classes)))), len(classes)
    target = ClassTarget(classes, ("a", "b"))
    folds = np.zeros(size, np.int64)
    return Patients(ids, target, tuple(centers), folds, ids, np.ones(size, bool), np.full((size, 2), 0.5))


def test_it_tells_class_from_center_and_says_what_chance_would_give() -> None:
    rng = np.random.default_rng(1)
    classes, centers = np.arange(80) % 2, np.arange(80) // 2 % 4
    names: list[str | None] = [str(own) for own in centers]
    index = {}
    for what, of in (("class", classes), ("center", centers), ("nothing", np.zeros(80))):
        means = [row + 4 * np.eye(16)[int(own)] for row, own in zip(rng.normal(size=(80, 16)), of, strict=True)]
        found = robustness_index(means, patients_of(classes, names), 0)
        assert found is not None
        assert found["neighbours"] == NEIGHBOURS
        assert found["chance"] == pytest.approx(30 / 40)  # of 79 others 30 share the class alone, 10 the center alone
        index[what] = found["index"]
    assert index["class"]["low"] > 0.75
    assert index["center"]["high"] < 0.75
    assert index["nothing"]["low"] < 0.75 < index["nothing"]["high"]


def test_it_is_not_told_where_it_means_nothing() -> None:
    classes, means = np.arange(40) % 2, [np.ones(3) * i for i in range(40)]
    assert robustness_index(means, patients_of(classes, [str(own) for own in classes]), 0) is None  # one and the same
    assert robustness_index(means, patients_of(classes, [None] * 40), 0) is None
    assert robustness_index(means[:10], patients_of(classes[:10], ["x", "y"] * 5), 0) is None

"""Confident learning against the published rule, worked out by loops; and what it finds where labels were flipped."""

import numpy as np
import pytest

from mil.review.confident import NOBODY, confident_classes, suspects, thresholds


def published(labels: np.ndarray, probs: np.ndarray) -> tuple[list[float], list[list[int]]]:
    """Return thresholds and the confident joint as Northcutt et al. 2021 write them (equations 1 and 2)."""
    classes = range(probs.shape[1])
    t = [float(np.mean([p[j] for p, given in zip(probs, labels, strict=True) if given == j])) for j in classes]
    joint = [[0 for _ in classes] for _ in classes]
    for p, given in zip(probs, labels, strict=True):
        confident = [j for j in classes if p[j] >= t[j]]
        if confident:
            joint[given][max(confident, key=lambda j: p[j])] += 1
    return t, joint


def confident_joint(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Count who is told as a confident member of which class."""
    found = confident_classes(labels, probs)
    joint = np.zeros((probs.shape[1], probs.shape[1]), np.int64)
    np.add.at(joint, (labels[found != NOBODY], found[found != NOBODY]), 1)
    return joint


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_joint_is_the_published_one(classes: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        probs = rng.dirichlet(np.full(classes, 0.7), 60)
        labels = np.array([rng.choice(classes, p=own) for own in probs])
        labels[:classes] = np.arange(classes)  # each class has members
        t, joint = published(labels, probs)
        np.testing.assert_allclose(thresholds(labels, probs), t, rtol=1e-12)
        assert confident_joint(labels, probs).tolist() == joint


def test_suspects_by_hand() -> None:
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    # thresholds: (0.9 + 0.8 + 0.1) / 3 = 0.6 and (0.8 + 0.7 + 0.55) / 3 = 0.683
    rows, suggested = suspects(labels, probs)
    assert (rows.tolist(), suggested.tolist()) == ([2], [1])


def test_the_surest_stand_first_and_a_less_probable_class_is_never_suggested() -> None:
    rng = np.random.default_rng(3)
    probs = rng.dirichlet([2.0, 1.0], 200)
    labels = (rng.random(200) < probs[:, 1]).astype(np.int64)
    rows, suggested = suspects(labels, probs)
    margins = probs[rows, labels[rows]] - probs[rows, suggested]
    assert len(rows) > 10
    assert np.all(np.diff(margins) >= 0)
    assert np.all(margins < 0)


def test_a_class_without_members_is_suggested_to_nobody() -> None:
    probs = np.array([[0.2, 0.1, 0.7], [0.6, 0.3, 0.1], [0.3, 0.6, 0.1]])
    assert 2 not in suspects(np.array([0, 0, 1]), probs)[1].tolist()

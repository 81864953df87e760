"""What a label would teach, against other ways to the same number."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from mil.heads import HeadSpec
from mil.models.model import BagModel
from mil.review.informative import chosen, disagreement, expected_change, margin, uncertainty

PROBS = np.random.default_rng(1).dirichlet([1.0, 1.0, 1.0], (4, 9))
"""Of four models (M, P, C)."""
EVERYBODY = np.ones((4, 9), bool)


def test_uncertainty_is_entropy_and_margin_the_lead() -> None:
    np.testing.assert_allclose(uncertainty("classes", PROBS[0]), scipy_entropy(PROBS[0], axis=1) / np.log(3))
    leads = [2 * max(own) - sum(own) + min(own) for own in PROBS[0].tolist()]  # of three: the middle one is the rest
    np.testing.assert_allclose(margin(PROBS[0]), leads)
    labels = uncertainty("labels", np.array([[0.5, 0.5], [1.0, 0.5]]))
    np.testing.assert_allclose(labels, [1.0, 0.5])


def test_disagreement_is_the_divergence_from_the_consensus() -> None:
    mean = PROBS.mean(axis=0)
    divergence = np.mean([scipy_entropy(own, mean, axis=1) for own in PROBS], axis=0) / np.log(3)
    np.testing.assert_allclose(disagreement("classes", PROBS, EVERYBODY), divergence)
    two = disagreement("classes", PROBS[:2], EVERYBODY[:2])
    np.testing.assert_allclose(two, jensenshannon(PROBS[0], PROBS[1], axis=1) ** 2 / np.log(3))


def test_only_models_that_are_asked_disagree() -> None:
    asked = EVERYBODY.copy()
    asked[2:, 0], asked[1:, 1] = False, False
    found = disagreement("classes", PROBS, asked)
    assert found[0] == pytest.approx(disagreement("classes", PROBS[:2], EVERYBODY[:2])[0])
    assert np.isnan(found[1])
    values = np.random.default_rng(2).normal(size=(4, 9, 1))
    np.testing.assert_allclose(disagreement("value", values, EVERYBODY), values.std(axis=0)[:, 0])


def test_the_expected_change_is_that_of_a_small_step() -> None:
    """The loss falls along its gradient by the square of the gradient's length: finite differences tell the length."""
    torch.manual_seed(0)
    model = BagModel(HeadSpec(name="gated_abmil", dim=6, n_classes=2, hidden=8, attention=4)).double().eval()
    bags = [np.random.default_rng(i).normal(size=(5 + i, 6)).astype(np.float32) for i in range(2)]
    told = np.array([0.3, 0.7])
    lengths = [_length_by_steps(model, bags, number) for number in range(2)]
    assert expected_change(model, bags, told, "cpu") == pytest.approx(float(told @ lengths), rel=1e-3)


def _length_by_steps(model: BagModel, bags: list[np.ndarray], number: int, step: float = 1e-4) -> float:
    """Return the length of a gradient by central differences, weight by weight."""

    @torch.no_grad()
    def loss() -> float:
        logits = torch.cat([model(torch.from_numpy(bag), (0, len(bag))).logits_BC for bag in bags]).double()
        return float(-torch.log_softmax(logits, dim=1)[:, number].mean())

    squares = 0.0
    for weight in model.parameters():
        flat = weight.data.view(-1)
        for i in range(len(flat)):
            there = float(flat[i])
            flat[i] = there + step
            up = loss()
            flat[i] = there - step
            down = loss()
            flat[i] = there
            squares += ((up - down) / (2 * step)) ** 2
    return float(squares**0.5)


def test_diversity_takes_one_of_each_kind_first() -> None:
    points = np.repeat(np.eye(3) * 10, 4, axis=0) + np.random.default_rng(0).normal(0, 0.01, (12, 3))
    scores = np.repeat([0.9, 0.8, 0.5], 4)
    order, near = chosen(scores, points, 5)
    assert {own // 4 for own in order[:3]} == {0, 1, 2}
    assert near[0] == np.inf
    assert max(near[3:]) < 0.1  # the fourth is one of a kind that is there already
    assert chosen(scores, None, 5)[0] == [0, 1, 2, 3, 4]


def test_whose_score_is_not_known_comes_last() -> None:
    scores = np.array([0.1, np.nan, 0.5])
    assert chosen(scores, None, 3)[0] == [2, 0, 1]
    assert chosen(scores, np.eye(3), 3)[0] == [2, 0, 1]
    assert chosen(np.zeros(2), np.zeros((2, 3)), 9)[0] == [0, 1]

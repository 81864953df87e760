"""Which heads respect what multiple instance learning assumes, and which reach a known optimum."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from synthetic_bags import ShiftedMean, auc, scores, train_head, unit_test_bags

REACHING = ("gated_abmil", "abmil", "dsmil", "additive")
"""Heads held to the optimum here."""


@given(st.integers(0, 300), st.integers(1, 3))
def test_the_closed_forms_are_the_likelihood_ratios(seed: int, run: int) -> None:
    rule = ShiftedMean(run=run, shifted=2, dim=3, smallest=4, largest=6)
    (bag, _) = rule.draw(2, seed).bags

    def likelihood(moved: tuple[int, ...]) -> float:
        means = np.zeros(bag.shape)
        means[list(moved), :2] = rule.shift
        return float(norm.pdf(bag.astype(np.float64), means).prod())

    runs = [tuple(range(start, start + run)) for start in range(len(bag) - run + 1)]
    ordered = np.mean([likelihood(moved) for moved in runs]) / likelihood(())
    anywhere = np.mean([likelihood(m) for m in combinations(range(len(bag)), run)]) / likelihood(())
    assert rule.log_odds(bag) == pytest.approx(np.log(ordered), abs=1e-6)
    assert rule.log_odds_unordered(bag) == pytest.approx(np.log(anywhere), abs=1e-6)


@pytest.mark.parametrize("name", ["single concept", "multiple concepts"])
def test_the_highest_tile_respects_the_assumption_and_attention_does_not(name: str) -> None:
    train, test = unit_test_bags(name, 200, True, 0), unit_test_bags(name, 200, False, 0)
    for head, respects in (("max_pool", True), ("gated_abmil", False)):
        model = train_head(head, train, epochs=20)
        assert auc(train.labels_N, scores(model, train)) > 0.8
        assert (auc(test.labels_N, scores(model, test)) > 0.5) == respects


@pytest.mark.parametrize("name", REACHING[:1])
def test_the_optimum_on_shifted_bags_is_reached(name: str) -> None:
    _reaches(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", REACHING[1:])
def test_the_optimum_on_shifted_bags_is_reached_by_more_heads(name: str) -> None:
    _reaches(name)


def _reaches(name: str) -> None:
    """Assert an AUC within 0.02 of the optimum's on bags with one shifted instance."""
    rule = ShiftedMean(run=1, shift=3.0, dim=4)
    train, test = rule.draw(1000, 1), rule.draw(2000, 2)
    best = auc(test.labels_N, np.array([rule.log_odds(bag) for bag in test.bags]))
    assert auc(test.labels_N, scores(train_head(name, train, epochs=12), test)) > best - 0.02

"""How single patients are judged, by hand, and against the metrics of the whole."""

from typing import Any

import numpy as np
import pytest

from mil.targets import ClassTarget, LabelsTarget, SurvivalTarget, ValueTarget
from mil.targets.judged import Judged, entropy, percent
from mil.targets.metrics import confusion, ones
from mil.targets.survival.metrics import Followed, harrell_c, kaplan_meier_at, misordered

FOLDS = np.array([0, 0, 1, 1])


def near(value: float) -> Any:
    return pytest.approx(value)


def test_a_class_is_right_or_wrong_with_the_probability_missed_and_the_doubt() -> None:
    told = np.array([[0.9, 0.1], [0.5, 0.5], [0.998, 0.002], [0.2, 0.8]])
    found = ClassTarget(np.array([0, 1, 1, -1]), ("CE", "LAA")).judged(told, FOLDS)
    assert found[0] == Judged("CE", "CE 90 %", near(0.1), right=True, doubt=near(0.46899559))
    assert (found[1].right, found[1].error, found[1].doubt) == (False, 0.5, near(1))
    assert (found[2].told, found[2].error, found[2].right) == ("CE > 99 %", near(0.998), False)
    assert (found[3].truth, found[3].error, found[3].right) == ("", None, None)


def test_labels_count_where_they_are_known() -> None:
    target = LabelsTarget(np.array([[1, 0, np.nan], [1, 1, 0], [np.nan] * 3, [0, 0, 0]]), ("a", "b", "c"))
    told = np.array([[0.9, 0.2, 0.9], [0.6, 0.4, 0.1], [0.5, 0.5, 0.5], [0.1, 0.1, 0.1]])
    found = target.judged(told, FOLDS)
    assert found[0].truth == "a, c?"
    assert found[0].told == "a 90 %, b 20 %, c 90 %"
    assert (found[0].error, found[0].right) == (near((0.1 + 0.2) / 2), True)
    assert (found[1].error, found[1].right) == (near((0.4 + 0.6 + 0.1) / 3), False)
    assert (found[2].truth, found[2].error, found[2].right, found[2].doubt) == ("", None, None, near(1))
    assert found[3].truth == "none"
    assert target.breakdown(told, FOLDS).rows == [
        ("a", "2", "0", "0", "1"), ("b", "0", "1", "0", "2"), ("c", "0", "0", "0", "2"),
    ]  # fmt: skip


def test_values_are_near_or_far() -> None:
    target = ValueTarget(np.array([1.0, 2.0, 4.0, np.nan]))
    found = target.judged(np.array([[1.5], [2.0], [1.0], [1.0]]), FOLDS)
    assert [own.error for own in found] == [0.5, 0.0, 3.0, None]
    assert {own.right for own in found} == {None}
    assert (found[0].truth, found[0].told) == ("1", "1.5")


def test_value_quarters_are_means_by_hand() -> None:
    true = np.arange(8.0)[::-1]
    rows = ValueTarget(true).breakdown(np.full((8, 1), 3.0), np.zeros(8, np.int64)).rows
    assert rows[0] == ("0 to 1", "2", "0.5", "3", "2.5", "2.5")
    assert rows[3] == ("6 to 7", "2", "6.5", "3", "-3.5", "3.5")


@pytest.mark.parametrize("seed", range(3))
def test_orders_that_are_wrong_add_up_to_the_concordance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, events, risks = rng.integers(1, 9, 40).astype(float), rng.random(40) < 0.6, np.round(rng.normal(size=40), 1)
    known = Followed(times, events, rng.integers(0, 3, 40))
    wrong = misordered(known, risks)
    pairs = np.zeros(40)
    for i in range(40):
        for j in range(40):
            first = times[i] < times[j] or (times[i] == times[j] and not events[j])
            if known.folds_N[i] == known.folds_N[j] and events[i] and first:
                pairs[[i, j]] += 1
    assert np.nansum(wrong * pairs) / pairs.sum() == pytest.approx(1 - harrell_c(known, risks, ones(40))[0])


def test_survivors_by_hand() -> None:
    target = SurvivalTarget(np.array([1.0, 2.0, 3.0, 9.0]), np.array([True, False, True, False]))
    found = target.judged(np.array([[0.0], [1.0], [2.0], [0.0]]), np.zeros(4, np.int64))
    assert [own.truth for own in found] == ["event at 1", "no event until 2", "event at 3", "no event until 9"]
    assert found[0].told == "log risk 0.00"
    # pairs: (1, 2) wrong, (1, 3) wrong, (1, 9) a tie, (3, 9) right
    assert [own.error for own in found] == pytest.approx([2.5 / 3, 1, 0.5, 0.25])


def test_halves_of_risk_are_those_of_each_fold() -> None:
    folds, times = np.repeat([0, 1], 4), np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    risks = np.array([3.0, 2, 1, 0, 103, 102, 101, 100])[:, None]  # the second fold's model has another scale
    target = SurvivalTarget(times, np.ones(8, bool), cut_before=False)  # a run of an earlier version
    higher, lower = target.breakdown(risks, folds).rows
    assert higher == ("higher risk", "4", "4", "2")
    assert lower == ("lower risk", "4", "4", "4")
    (plot,) = target.plots({"own": risks}, "own", "", np.ones((1, 8)), folds)
    np.testing.assert_array_equal(plot.lines[0].until_P, [1, 2, 5, 6])
    assert kaplan_meier_at(np.array([2.0]), times[[0, 1, 4, 5]], np.ones(4, bool))[0] == 0.5


def test_who_is_taken_for_whom_is_the_confusion() -> None:
    rng = np.random.default_rng(0)
    labels, told = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50)
    table = ClassTarget(labels, ("a", "b", "c")).breakdown(told, np.zeros(50, np.int64))
    counts = [[int(cell.split()[0]) for cell in row[1:]] for row in table.rows]
    np.testing.assert_array_equal(counts, confusion(labels, told))
    assert table.hits == {(0, 1), (1, 2), (2, 3)}
    assert len(table.misses) == 6


def test_only_what_is_certain_is_told_as_certain() -> None:
    assert [percent(share) for share in (0, 0.001, 0.005, 0.5, 0.994, 0.996, 1)] == [
        "0 %", "< 1 %", "< 1 %", "50 %", "99 %", "> 99 %", "100 %",
    ]  # fmt: skip
    np.testing.assert_allclose(entropy(np.array([[1.0, 0.0], [0.25, 0.75]])), [0, 0.811278], atol=1e-6)

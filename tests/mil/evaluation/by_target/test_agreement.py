"""Agreement of values against statsmodels and by hand; intervals that keep their promise."""

import numpy as np
import pytest

from mil.evaluation.bootstrap import draw_patients
from mil.evaluation.by_target.agreement import Pairs, agreement, intervals_held, reach, reaches_by_others, within
from mil.evaluation.decisions.decide import Answered
from mil.evaluation.new_patients import ByTheRun
from mil.targets import ValueTarget


def pairs(n: int = 80, folds: int = 3) -> Pairs:
    rng = np.random.default_rng(0)
    true = rng.normal(50, 10, n)
    told = 20 + 0.6 * true + rng.normal(0, 5, n) + 3 * (np.arange(n) % folds)
    return Pairs(true, told, np.arange(n) % folds, [str(i) for i in range(n)], 0)


def test_slopes_are_those_of_least_squares() -> None:
    linear = pytest.importorskip("statsmodels.regression.linear_model")
    own = pairs()
    dummies = np.eye(3)[own.folds_N]
    for weights in np.array([np.ones((1, 80)), draw_patients(80, 1, 1)]):
        model = linear.WLS(own.true_N, np.column_stack([own.told_N, dummies]), weights=weights[0])
        assert within(own.true_N, own.told_N, own.folds_N, weights)[0] == pytest.approx(model.fit().params[0], abs=1e-9)
    one = Pairs(own.true_N, own.told_N, np.zeros(80, int), own.groups, 0)
    intercept, slope = linear.OLS(own.true_N, np.column_stack([np.ones(80), own.told_N])).fit().params
    found = agreement(one)
    assert (found["slope"]["value"], found["intercept"]["value"]) == pytest.approx((slope, intercept), abs=1e-9)
    assert np.isnan(within(own.true_N, own.folds_N.astype(np.float64), own.folds_N, np.ones((1, 80)))).all(), (
        "constant in each fold"
    )


def test_limits_and_errors_as_worked_out() -> None:
    own, off = pairs(), pairs().off_N
    found = agreement(own)
    spread = off.std(ddof=1)
    assert found["bias"]["value"] == pytest.approx(off.mean())
    assert found["upper_limit"]["value"] == pytest.approx(off.mean() + 1.959964 * spread, abs=1e-4)
    assert found["lower_limit"]["value"] == pytest.approx(off.mean() - 1.959964 * spread, abs=1e-4)
    cov = np.cov(own.true_N, own.told_N, bias=True)
    lin = 2 * cov[0, 1] / (cov[0, 0] + cov[1, 1] + off.mean() ** 2)
    assert found["concordance_correlation"]["value"] == pytest.approx(lin)
    rows = found["ranges"]
    assert [row["patients"] for row in rows] == [20] * 4
    lowest = np.argsort(own.true_N)[:20]
    assert rows[0]["mean_absolute_error"]["value"] == pytest.approx(np.abs(off[lowest]).mean())
    assert rows[0]["bias"]["low"] < off[lowest].mean() < rows[0]["bias"]["high"]
    assert rows[0]["to"] <= rows[1]["from"]


def test_a_distance_is_promised_only_where_enough_are_known() -> None:
    errors = np.arange(1.0, 20)  # of 19 the largest is beaten by a new one once in 20
    assert reach(errors, 0.05) == 19
    assert reach(-errors, 0.1) == 18
    assert reach(errors[:18], 0.05) is None
    own = pairs(folds=4)
    reaches = reaches_by_others(own, 0.1)
    others = np.sort(np.abs(own.off_N[own.folds_N != 2]))
    assert (reaches[own.folds_N == 2] == others[len(others) - (len(others) + 1) // 10]).all()
    (row,) = intervals_held(own, {0.1: reaches})
    assert row["held"]["value"] == pytest.approx((np.abs(own.off_N) <= reaches).mean())


def test_slides_of_a_patient_are_drawn_together() -> None:
    own = pairs()
    rows = np.repeat(np.arange(80), 2)
    twice = Pairs(own.true_N[rows], own.told_N[rows], own.folds_N[rows], [str(i) for i in rows], 0)
    alone = Pairs(twice.true_N, twice.told_N, twice.folds_N, [str(i) for i in range(160)], 0)
    widths = []
    for of in (own, twice, alone):
        found = agreement(of)["bias"]
        widths.append(found["high"] - found["low"])
    assert widths[1] == pytest.approx(widths[0], rel=0.05)
    assert widths[2] < 0.85 * widths[0]


def test_new_patients_are_told_how_far_the_value_may_lie() -> None:
    own = pairs()
    answered = Answered(
        truth=ValueTarget(own.true_N), told_PC=own.told_N[:, None], prevalence_PC=np.zeros((80, 1)),
        folds_P=own.folds_N, groups=own.groups,
    )  # fmt: skip
    told = ByTheRun(answered).told(["n"], np.array([[50.0]]), np.array([True]), ["value"])
    assert told == {"intervals": {"promised": 0.9, "distance": pytest.approx(np.sort(np.abs(own.off_N))[72])}}

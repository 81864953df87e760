"""What is said of survival at horizons, against scikit-survival and by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mil.evaluation.by_target.over_time import Told, calibration_at, curves, default_horizons, over_time
from mil.targets.survival.metrics import Followed, kaplan_meier_at


def told(n: int = 90, folds: int = 3, seed: int = 0) -> Told:
    rng = np.random.default_rng(seed)
    risks = rng.normal(size=n)
    ends, lost = rng.exponential(np.exp(-risks)), rng.exponential(2.0, n)
    times = np.ceil(20 * np.minimum(ends, lost)) / 20
    known = Followed(times, ends <= lost, np.arange(n) % folds)
    return Told(known, risks, risks > 0, [str(i) for i in range(n)], 0)


def test_horizons_agree_with_scikit_survival() -> None:
    metrics = pytest.importorskip("sksurv.metrics")
    survival = pytest.importorskip("sksurv.util").Surv
    own, other = told(folds=1), told(seed=1)
    own = replace(own, baseline=(other.known, other.risks_N))
    truth = survival.from_arrays(own.known.events_N, own.known.times_N)
    found = over_time(own, (0.4, 0.9, 99.0))
    assert found["beyond"] == [99.0]
    for row in found["horizons"]:
        without = own.without(own.risks_N, np.array([row["at"]]))
        assert row["brier"]["value"] == pytest.approx(
            metrics.brier_score(truth, truth, without, row["at"])[1][0], abs=1e-9
        )
        area = metrics.cumulative_dynamic_auc(truth, truth, own.risks_N, [row["at"]])[0][0]
        assert row["auc"]["value"] == pytest.approx(area, abs=1e-9)
        seen = 1 - kaplan_meier_at(np.array([row["at"]]), own.known.times_N, own.known.events_N)[0]
        assert row["observed_over_predicted"]["value"] == pytest.approx(seen / (1 - without.mean()))
        assert row["observed"]["low"] < seen < row["observed"]["high"]
        blind = own.without(np.zeros(90), np.array([row["at"]]))
        assert np.ptp(blind) == 0
        worse = metrics.brier_score(truth, truth, blind, row["at"])[1][0]
        assert row["brier_gain"]["value"] == pytest.approx(1 - row["brier"]["value"] / worse)


def test_the_fold_is_judged_by_a_baseline_of_the_others() -> None:
    own = told()
    at, fold = np.array([0.5]), own.known.folds_N == 1
    changed = Followed(np.where(fold, 9.0, own.known.times_N), own.known.events_N & ~fold, own.known.folds_N)
    before, after = own.without(own.risks_N, at), replace(own, known=changed).without(own.risks_N, at)
    np.testing.assert_array_equal(before[fold], after[fold])
    assert not np.array_equal(before[~fold], after[~fold])


def test_a_horizon_before_all_events_of_the_others_has_no_ratio() -> None:
    own = told(30)
    early = Followed(
        np.append(own.known.times_N[:-1] + 1, 0.1), np.append(own.known.events_N[:-1], True), own.known.folds_N
    )
    (row,) = over_time(replace(own, known=early), (0.2,))["horizons"]
    assert row["events"] == 1
    assert row["predicted"] > 0, "of the two folds that know the event"
    early = Followed(early.times_N, np.append(np.zeros(29, bool), True), np.zeros(30, int))
    (row,) = over_time(replace(own, known=early), (0.2,))["horizons"]
    assert row["predicted"] == 0
    assert row["observed_over_predicted"]["value"] is None


def test_groups_of_alike_shares() -> None:
    own = told()
    at = default_horizons(own.known)[1]
    found = calibration_at(own, at)
    predicted = 1 - own.without(own.risks_N, np.array([at]))[:, 0]
    highest = np.argsort(predicted, kind="stable")[-22:]
    assert found.predicted_K[-1] == pytest.approx(predicted[highest].mean())
    seen = 1 - kaplan_meier_at(np.array([at]), own.known.times_N[highest], own.known.events_N[highest])[0]
    assert found.observed_K[-1] == pytest.approx(seen)
    assert (found.reach_2K >= 0).all()
    drawn = curves(own)
    assert drawn is not None
    assert (drawn.auc_2T[0] <= drawn.auc_T).all()
    assert (drawn.auc_T <= drawn.auc_2T[1]).all()


def test_slides_of_a_patient_widen_the_intervals() -> None:
    own = told()
    rows = np.repeat(np.arange(90), 2)
    known = Followed(own.known.times_N[rows], own.known.events_N[rows], own.known.folds_N[rows])
    twice = Told(known, own.risks_N[rows], own.high_N[rows], [str(i) for i in rows], 0)
    once, both = (over_time(of, (0.5,)) for of in (own, twice))
    assert both["groups"]["chi_squared"] == pytest.approx(once["groups"]["chi_squared"], rel=0.3)
    for key in ("auc", "brier", "observed"):
        widths = [of["horizons"][0][key]["high"] - of["horizons"][0][key]["low"] for of in (once, both)]
        assert widths[1] == pytest.approx(widths[0], rel=0.2), key

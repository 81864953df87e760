"""Who is of higher risk, by a cut on others; patients who come late are refused; batches hold enough events."""

import numpy as np
import pytest

from mil.run.scores import Scores, validation_medians
from mil.targets.calibration import LOCATED, Calibration
from mil.targets.survival import SurvivalTarget
from mil.training.sampling import EVENTS, risk_set_batches
from wsi.cohort.manifest import ManifestRow
from wsi.errors import ManifestError


def row(number: int, event: bool, **facts: str) -> ManifestRow:
    name = f"{number:02d}"
    return ManifestRow(name, name, None, None, time=str(1 + number), event=str(int(event)), facts=facts)


def test_the_cut_is_on_patients_who_are_not_judged() -> None:
    table = Scores(
        tuple("abcdefg"),
        np.array([False] * 5 + [True] * 2),
        np.array([[1.0], [3.0], [9.0], [2.0], [0.0], [50.0], [60.0]]),
    )
    patients, usable = ["1", "1", "2", "3", "4", "5", "6"], np.array([True] * 4 + [False] + [True] * 2)
    assert validation_medians(table, patients, usable) == 2  # of 2 (the mean of two slides), 9 and 2; 4 has no tiles
    assert validation_medians(table, patients, ~usable & False) == 0
    moved = Calibration(LOCATED, shift=(-2.0,))
    np.testing.assert_array_equal(SurvivalTarget.told(np.array([[2.5], [2.0]]), moved), [[0.5], [0.0]])
    target = SurvivalTarget(np.arange(1.0, 7), np.ones(6, bool))
    risks, folds = np.array([-5.0, -1, 0, 0.1, 3, 4]), np.array([0, 0, 0, 1, 1, 1])
    assert target.halves(risks, folds)["higher"].tolist() == [False] * 3 + [True] * 3, "not half of each fold"
    breakdown = target.breakdown(risks[:, None], folds)
    assert [own[1:3] for own in breakdown.rows] == [("3", "3")] * 2
    assert "validated inside the training" in breakdown.caption
    older = SurvivalTarget(target.times_N, target.events_N, cut_before=False)
    assert older.halves(risks, folds)["higher"].tolist() == [False, False, True] * 2
    assert "median of the fold" in older.breakdown(risks[:, None], folds).caption


def test_patients_who_come_late_are_refused() -> None:
    rows = [row(n, n % 2 == 0, **{"Start time": "0.0", "age": "70"}) for n in range(12)]
    SurvivalTarget.read(rows, (), 2)
    late = [*rows[:-1], row(11, True, **{"Start time": "3"})]
    with pytest.raises(ManifestError, match=r"column Start time: slide 11 is followed from 3 on; .*left truncation"):
        SurvivalTarget.read(late, (), 2)


def test_few_events_are_shared_out_among_the_folds() -> None:
    _, strata = SurvivalTarget.read([row(n, n in (1, 7, 14, 20)) for n in range(24)], (), 4)
    assert len({own for n, own in enumerate(strata) if n in (1, 7, 14, 20)}) == 1, "one stratum of all who had it"
    assert not {strata[1]} & {own for n, own in enumerate(strata) if n not in (1, 7, 14, 20)}


@pytest.mark.parametrize("events", [3, 9, 40])
def test_each_batch_has_events_and_each_slide_one_place(events: int) -> None:
    rng = np.random.default_rng(events)
    order, has = rng.permutation(100), np.arange(100) < events
    batches = risk_set_batches(order, has, 16, np.arange(100))
    assert sorted(np.concatenate(batches).tolist()) == list(range(100))
    counts = [int(has[own].sum()) for own in batches]
    assert min(counts) >= min(EVENTS, events)
    assert max(counts) - min(counts) <= 1
    assert len(batches) == {3: 1, 9: 2, 40: 7}[events]
    assert max(map(len, batches)) - min(map(len, batches)) <= 2
    assert len(risk_set_batches(order, has, 16, np.arange(100) // 2)) == {3: 1, 9: 1, 40: 5}[events], "patients' events"

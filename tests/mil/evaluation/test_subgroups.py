"""Subgroups: each group's metrics against scikit-learn on its patients, the test against a loop, few are not judged."""

from functools import partial

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from mil.evaluation.decisions.decide import Answered
from mil.evaluation.subgroups import LEAST, Column, banded, columns_of, interaction, subgroups
from mil.targets import ClassTarget
from mil.targets.metrics import auc, binary_auc
from wsi.cohort.manifest import ManifestRow
from wsi.errors import RequestError


def answered(n: int = 120, seed: int = 0, worse: float = 1.5) -> tuple[Answered, np.ndarray]:
    """Two groups in turns; in the second the scores are ``worse`` apart, where in the first they are 1.5 apart."""
    rng = np.random.default_rng(seed)
    positive, group = rng.random(n) < 0.4, np.arange(n) % 2
    told = 1 / (1 + np.exp(-(rng.normal(size=n) + np.where(group == 0, 1.5, worse) * positive - 0.7)))
    own = Answered(
        truth=ClassTarget(positive.astype(np.int64), ("CE", "LAA")), told_PC=np.stack([1 - told, told], axis=1),
        prevalence_PC=np.tile([0.6, 0.4], (n, 1)), folds_P=np.zeros(n, np.int64), groups=[str(i) for i in range(n)],
    )  # fmt: skip
    return own, group


def test_each_group_is_measured_by_itself() -> None:
    own, group = answered()
    column = Column("sex", tuple("fm"[g] for g in group))
    called = own.told_PC[:, 1] >= 0.5
    (found,) = subgroups(own, np.zeros((120, 2)), called, [column])
    assert [row["value"] for row in found["groups"]] == ["f", "m"]
    for number, row in enumerate(found["groups"]):
        of = group == number
        truth = own.truth.groups_N[of]
        assert row["metric"]["value"] == pytest.approx(roc_auc_score(truth, own.told_PC[of, 1]), abs=1e-9)
        assert row["sensitivity"]["value"] == pytest.approx(recall_score(truth, called[of]), abs=1e-9)
        assert row["excess"] == pytest.approx(own.questions[0].real_P[of].mean() - truth.mean())
        assert row["metric"]["low"] < row["metric"]["value"] < row["metric"]["high"]
    gaps = [row["sensitivity"]["value"] for row in found["groups"]]
    assert found["gaps"]["equal_opportunity"] == pytest.approx(max(gaps) - min(gaps))


def test_few_are_not_judged_and_take_no_part_in_the_test() -> None:
    own, group = answered()
    values = ["f" if g == 0 else "m" for g in group]
    values[: LEAST - 1] = ["rare"] * (LEAST - 1)
    (found,) = subgroups(own, np.zeros((120, 2)), None, [Column("sex", tuple(values))])
    (few,) = [row for row in found["groups"] if row["value"] == "rare"]
    assert few == {"value": "rare", "few": True, "patients": LEAST - 1}
    assert found["p"] is not None
    only = ["f"] * 115 + ["m"] * 5
    (alone,) = subgroups(own, np.zeros((120, 2)), None, [Column("sex", tuple(only))])
    assert (alone["p"], alone["gaps"]) == (None, {"equal_opportunity": None, "calibration": None})


def test_p_is_the_share_of_deals_that_differ_as_much() -> None:
    own, group = answered(60, worse=0.0)
    labels = own.truth.groups_N
    found = interaction(partial(auc, labels, own.told_PC), [group == 0, group == 1], labels, 0)

    def apart(dealt: np.ndarray) -> float:
        told = own.told_PC[:, 1]
        sides = [[told[(dealt == g) & (labels == cls)] for cls in (1, 0)] for g in (0, 1)]
        areas = [(up[:, None] > down).mean() for up, down in sides]  # no two scores are equal
        sizes = np.bincount(dealt)
        mean = np.average(areas, weights=sizes)
        return float((sizes * np.square(np.array(areas) - mean)).sum())

    rng, hits = np.random.default_rng(9), 0
    for _ in range(400):
        dealt = group.copy()
        for cls in (0, 1):
            dealt[labels == cls] = rng.permutation(dealt[labels == cls])
        hits += apart(dealt) >= apart(group) - 1e-12
    wanted = (1 + hits) / 401
    assert found == pytest.approx(wanted, abs=3 * np.sqrt(wanted * (1 - wanted) / 400) + 0.01)


def test_a_group_that_is_told_nothing_of_is_found() -> None:
    own, group = answered(300, worse=0.0)
    labels = own.truth.groups_N
    p = interaction(partial(auc, labels, own.told_PC), [group == 0, group == 1], labels, 0)
    assert p is not None
    assert p < 0.01


@pytest.mark.slow
def test_groups_that_are_alike_differ_in_one_of_twenty_cohorts() -> None:
    found = []
    for seed in range(400):
        own, group = answered(80, seed)
        labels = own.truth.groups_N
        found.append(interaction(partial(auc, labels, own.told_PC), [group == 0, group == 1], labels, seed))
    assert 0.02 < np.mean(np.array(found, float) < 0.05) < 0.085


def test_columns_are_read_patient_by_patient() -> None:
    rows = [
        ManifestRow(f"{p}_{s}", str(p), facts={"sex": "fm"[p % 2], "slide": f"{p}_{s}", "age": str(30 + p)}
                    | ({"stain": "HE" if s else "PAS"} if p == 3 else {"stain": "HE"}))
        for p in range(30) for s in (0, 1)
    ]  # fmt: skip
    found = {own.name: own.values_P for own in columns_of(rows, ["0", "3"], (), by_slide=False, source="t.csv")}
    assert found["sex"] == ("f", "m")
    assert "slide" not in found  # ids are no groups
    everyone = [str(p) for p in range(30)]
    ages = columns_of(rows, everyone, ("age",), by_slide=False, source="t.csv")[0]
    assert sorted(set(ages.values_P)) == ["30 to 39", "40 to 49", "50 to 59"]
    assert (
        columns_of(rows, everyone, ("stain",), by_slide=False, source="t.csv") == []
    )  # one stain, but for one patient
    with pytest.raises(RequestError, match="which are sex, slide, age, stain"):
        columns_of(rows, ["0"], ("eye",), by_slide=False, source="t.csv")


def test_numbers_of_few_values_stay_as_they_are() -> None:
    assert banded(["1", "2", "1", "not known"]) == ["1", "2", "1", "not known"]
    cut = banded([str(i) for i in range(12)] + ["not known"])
    assert cut[0] == "0 to 3"
    assert cut[-1] == "not known"


def test_slides_of_a_patient_are_dealt_whole() -> None:
    """Listed four times, patients say no more than once: the p of whole patients stays, that of single rows falls."""
    rng = np.random.default_rng(3)
    positive, side = np.arange(48) % 2 == 0, np.arange(48) // 2 % 2 == 0
    scores = rng.normal(size=48) + positive * np.where(side, 1.6, 0.0)
    rows = np.repeat(np.arange(48), 4)

    def p(chosen: np.ndarray, people: list[str]) -> float:
        def measure(weights: np.ndarray) -> np.ndarray:
            return binary_auc(positive[chosen], scores[chosen], weights, np.zeros(len(chosen), int))

        found = interaction(measure, [side[chosen], ~side[chosen]], np.zeros(len(chosen), int), 0, people)
        assert found is not None
        return found

    once = p(np.arange(48), [])
    assert p(rows, [str(i) for i in rows]) == pytest.approx(once, abs=0.05)
    assert p(rows, []) < once / 2

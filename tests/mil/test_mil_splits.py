"""No patient on both sides, every class everywhere, the same every time."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mil.splits import inner_split, outer_folds, patient_folds, read_splits, write_splits
from wsi.errors import RequestError

Slides = tuple[list[str], list[str | None], list[str]]


@st.composite
def cohorts(draw: st.DrawFn) -> Slides:
    """Labels, centers and patients of slides; every class has 5 patients or more."""
    labels: list[str] = []
    centers: list[str | None] = []
    patients: list[str] = []
    n_classes = draw(st.integers(2, 3))
    for number in range(draw(st.integers(5 * n_classes, 40))):
        label, center = "ABC"[number % n_classes], draw(st.sampled_from(["1", "2", "7", None]))
        for _ in range(draw(st.integers(1, 3))):
            labels.append(label)
            centers.append(center)
            patients.append(f"{number:03d}")
    return labels, centers, patients


@settings(max_examples=30)
@given(cohorts(), st.integers(2, 5), st.integers(0, 3))
def test_folds_keep_patients_whole_and_hold_every_class(cohort: Slides, n_folds: int, seed: int) -> None:
    labels, centers, patients = cohort
    folds = outer_folds(labels, centers, patients, n_folds, seed)
    assert set(folds.tolist()) == set(range(n_folds))
    assert all(len({f for f, p in zip(folds.tolist(), patients, strict=True) if p == who}) == 1 for who in patients)
    for fold in range(n_folds):
        assert {label for label, f in zip(labels, folds.tolist(), strict=True) if f != fold} == set(labels)
    assert np.array_equal(folds, outer_folds(labels, centers, patients, n_folds, seed))


@settings(max_examples=40)
@given(cohorts(), st.floats(0.05, 0.9), st.integers(0, 3))
def test_the_inner_split_keeps_patients_whole_and_every_class_on_both_sides(
    cohort: Slides, share: float, seed: int
) -> None:
    labels, _, patients = cohort
    val = inner_split(labels, patients, share, seed)
    sides = [{p for p, v in zip(patients, val, strict=True) if v == side} for side in (True, False)]
    assert not sides[0] & sides[1]
    for side in (True, False):
        assert {label for label, v in zip(labels, val, strict=True) if v == side} == set(labels)


def test_folds_are_balanced_on_label_and_center() -> None:
    patients = [f"{i:03d}" for i in range(120)]
    labels = ["LAA" if i % 3 == 0 else "CE" for i in range(120)]
    centers: list[str | None] = [str(i % 4) for i in range(120)]
    folds = outer_folds(labels, centers, patients, 5, 0)
    pairs = Counter(zip(folds.tolist(), labels, centers, strict=True))
    expected = {"LAA": 40 / 4 / 5, "CE": 80 / 4 / 5}
    assert all(abs(count - expected[label]) <= 1 for (_, label, _), count in pairs.items())


def test_too_few_patients_of_a_class_are_refused_by_number() -> None:
    with pytest.raises(RequestError, match="LAA: 2"):
        outer_folds(["CE"] * 9 + ["LAA"] * 2, [None] * 11, [str(i) for i in range(11)], 3, 0)


def test_splits_are_read_back_and_a_torn_patient_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    images, patients, labels = ["049194_0", "049194_1", "2_0"], ["049194", "049194", "2"], ["CE", "CE", "LAA"]
    write_splits(path, images, patients, labels, [None, None, "4"], np.array([1, 1, 0]))
    assert read_splits(path) == {"049194_0": 1, "049194_1": 1, "2_0": 0}
    write_splits(path, images, patients, labels, [None, None, "4"], np.array([1, 0, 0]))
    with pytest.raises(RequestError, match="049194"):
        read_splits(path)


def test_patients_are_balanced_by_themselves_without_strata() -> None:
    folds = patient_folds(["x"] * 20, [str(i // 2) for i in range(20)], 5, 0)
    assert sorted(Counter(folds.tolist()).values()) == [4] * 5

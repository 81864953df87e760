"""No patient on both sides, every class everywhere, the same every time."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from witness import Witness

from features.folds import folds_of, make_folds, outer_folds, patient_folds, strata
from features.pretrain.cohort import _folds
from features.pretrain.options import PretrainOptions
from mil.data.duplicates import alike_ids
from mil.data.splits import (
    center_folds,
    inner_split,
    read_column,
    read_splits,
    write_splits,
)
from mil.training.training_data import gather
from wsi.cohort.manifest import ManifestRow, load_manifest
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
    for label in set(labels):
        own = {p for p, of in zip(patients, labels, strict=True) if of == label}
        assert len(own & sides[0]) == min(max(1, round(share * len(own))), len(own) - 1)


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
    rows = list(map(ManifestRow, images, patients, labels, [None, None, "4"]))
    write_splits(path, rows, np.array([1, 1, 0]))
    assert read_splits(path) == {"049194_0": 1, "049194_1": 1, "2_0": 0}
    write_splits(path, rows, np.array([1, 0, 0]))
    with pytest.raises(RequestError, match="049194"):
        read_splits(path)


def test_patients_are_balanced_by_themselves_without_strata() -> None:
    folds = patient_folds(["x"] * 20, [str(i // 2) for i in range(20)], 5, 0)
    assert sorted(Counter(folds.tolist()).values()) == [4] * 5


def test_a_center_is_balanced_where_as_many_patients_as_folds_share_its_label() -> None:
    labels, centers = ["A"] * 5 + ["B"] * 2, ["1", "1", "1", "2", None, "1", "1"]
    patients = ["p", "p", "q", "r", "s", "t", "u"]
    assert strata(labels, centers, patients, 2) == ["A|1"] * 3 + ["A|*"] * 2 + ["B|1"] * 2
    assert strata(labels, centers, patients, 3) == ["A|*"] * 5 + ["B|*"] * 2


def test_as_many_patients_as_folds_are_enough_and_one_class_is_not() -> None:
    labels, patients = ["A"] * 3 + ["B"] * 3, list("abcdef")
    folds = outer_folds(labels, [None] * 6, patients, 3, 0)
    assert [sorted(folds[:3].tolist()), sorted(folds[3:].tolist())] == [[0, 1, 2], [0, 1, 2]]
    for none in (labels[:3], []):
        with pytest.raises(RequestError, match="A: 3; give fewer" if none else "found none"):
            outer_folds(none, [None] * len(none), patients[: len(none)], 3, 0)


def test_where_centers_would_leave_a_fold_without_a_class_labels_alone_are_balanced() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        labels = ["A" if i < 4 else "B" for i in range(16)]
        centers: list[str | None] = [str(c) for c in rng.integers(0, 3, 16)]
        patients = [f"{i:02d}" for i in range(16)]
        folds = outer_folds(labels, centers, patients, 4, seed)
        assert {(f, label) for f, label in zip(folds.tolist(), labels, strict=True)} == {
            (f, label) for f in range(4) for label in "AB"
        }


def test_the_inner_split_is_one_of_its_seed_and_of_patients_in_any_order() -> None:
    labels, patients = ["A"] * 20 + ["B"] * 20 + ["C"], [f"{i:02d}" for i in range(41)]
    chosen = [{p for p, v in zip(patients, inner_split(labels, patients, 0.3, s), strict=True) if v} for s in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert "40" not in chosen[0]  # the only patient of a class trains
    back = inner_split(labels[::-1], patients[::-1], 0.3, 0)
    assert {p for p, v in zip(patients[::-1], back, strict=True) if v} == chosen[0]


def test_where_every_label_is_one_patients_alone_somebody_validates() -> None:
    for share, validating in ((0.05, 1), (0.4, 2), (0.6, 3)):
        val = inner_split(list("ABCDE"), list("12345"), share, 0)
        assert int(val.sum()) == validating
    assert not inner_split(["A", "A"], ["1", "1"], 0.5, 0).any()  # one patient trains


def test_the_truth_of_every_target_and_columns_of_earlier_tables(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    rows = [
        ManifestRow("a", "a", "CE", None), ManifestRow("b", "b", None, None, value="7.5"),
        ManifestRow("c", "c", None, None, time="12", event="1"), ManifestRow("d", "d", None, None),
    ]  # fmt: skip
    write_splits(path, rows, np.arange(4))
    assert read_column(path, "label") == {"a": "CE", "b": "7.5", "c": "12", "d": ""}
    path.write_text("image_id,patient_id,fold\na,1,0\n")
    assert read_column(path, "overview_sha256", "") == {"a": ""}
    assert read_column(path, "center_id", "none") == {"a": "none"}
    with pytest.raises(RequestError, match="no column label"):
        read_column(path, "label")


def test_the_largest_center_goes_into_the_smallest_fold() -> None:
    centers = ["d", "c", "c", "b", "b", "a", "a", "a", "e"]
    patients = ["1", "2", "3", "4", "5", "6", "7", "8", "9"]
    # a (3) -> 0, b (2) -> 1, c (2) -> 1 (2 < 3), d (1) -> 0 (3 < 4), e (1) -> 0 (4 = 4)
    assert center_folds(centers, patients, 2).tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert center_folds(["x", "x", "x", "y", "z"], ["1", "1", "1", "2", "3"], 3).tolist() == [0, 0, 0, 1, 2]
    assert center_folds(["z", "y", "x"], ["1", "2", "3"], 3).tolist() == [2, 1, 0]  # whatever the table's order


def test_ids_that_differ_in_capitals_or_leading_zeros_are_told() -> None:
    rows = [ManifestRow(str(n), own, center_id=f"C{n % 2}") for n, own in enumerate(("P7", "p07", "P70", "P007", "P7"))]
    (told,) = alike_ids("patient_id", rows)
    assert told.startswith("patient_id P007 and P7, P007 and p07 differ in capitals or leading zeros alone"), told
    assert alike_ids("center_id", rows) == []


@pytest.mark.parametrize(
    ("labels", "share", "validating"),
    [("AAAAABB", 0.9, {"A": 4, "B": 1}), ("AABBBB", 0.01, {"A": 1, "B": 1}), ("AB", 0.2, {None: 1})],
)
def test_as_many_validate_as_can(labels: str, share: float, validating: dict[str | None, int]) -> None:
    """All but one of a class at most, one at least; of two patients of two classes one, whichever it is."""
    chosen = inner_split(list(labels), [f"p{number}" for number in range(len(labels))], share, 0)
    found = Counter(label if None not in validating else None for label, own in zip(labels, chosen, strict=True) if own)
    assert found == validating


def test_the_table_of_splits_is_read_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    images, patients, labels = ["a_0", "a_1", "b"], ["a", "a", "b"], ["CE", "CE", "LAA, or not"]
    rows = list(map(ManifestRow, images, patients, labels, ["7", None, "4"]))
    write_splits(path, rows, np.array([1, 1, 0]), {"b": "abc"})
    assert path.read_text() == (
        "image_id,patient_id,label,center_id,fold,overview_sha256\n"
        'a_0,a,CE,7,1,\na_1,a,CE,,1,\nb,b,"LAA, or not",4,0,abc\n'
    )
    assert read_column(path, "label") == dict(zip(images, labels, strict=True))
    assert read_column(path, "patient_id") == dict(zip(images, patients, strict=True))
    assert read_column(path, "overview_sha256", "") == {"a_0": "", "a_1": "", "b": "abc"}
    assert folds_of(path, ["b", "a_0"], ["b", "a"]).tolist() == [0, 1]
    with pytest.raises(RequestError, match="no fold for c; expected"):
        folds_of(path, ["b", "c"], ["b", "c"])
    with pytest.raises(RequestError, match=r"1 slide is of another patient .*\(b: expected patient z, found b\)"):
        folds_of(path, ["a_0", "b"], ["a", "z"])
    head = "image_id,patient_id,fold\n"
    for text, told in (
        (head + "a,1,0\na,1,0\n", "slide a stands there twice"),
        (head + "a,1,0\nb,1,1\n", "patient 1 stands in folds 0 and 1"),
        (head + "a,1,-1\n", "patient 1 stands in fold -1: expected 0 or more"),
        (head + f"a,{'y' * 20_000},-1\n", r"patient [y. ]{50,70} stands in fold -1"),
        (head + "a,1,x\n", "an integer fold in each row"),
        ("image_id,fold\na,1\n", "no column patient_id"),
    ):
        path.write_text(text)
        with pytest.raises(RequestError, match=rf"{re.escape(str(path))}: .*{told}"):
            read_splits(path)


def test_fold_k_of_a_training_a_fine_tuning_and_a_pretraining_means_the_same_patients(
    write_cohort: Callable[..., Witness], tmp_path: Path
) -> None:
    """Of centers that differ in the disease, where folds by label alone are others; rows without a label among them."""
    witness = write_cohort(tmp_path, 24)
    rows = load_manifest(witness.manifest)
    assert len({row.center_id for row in rows}) > 1
    found = gather(witness.options(tmp_path / "run", folds=3, seed=5))
    trained = {row.patient_id: int(fold) for row, fold in zip(found.rows, found.folds, strict=True)}
    lacking = [*rows[:5], ManifestRow("later_0", "later", None), *rows[5:]]
    assert make_folds([row for row in lacking if row.label], 3, 5) == trained
    asked = PretrainOptions(
        source=(tmp_path,),
        manifest=witness.manifest,
        fold=0,
        folds=3,
        seed=5,
        network="resnet18",
        out=tmp_path / "w.safetensors",
    )
    assert _folds(asked, rows) == trained
    by_label = patient_folds([row.label or "" for row in rows], [row.patient_id for row in rows], 3, 5)
    assert dict(zip([row.patient_id for row in rows], by_label.tolist(), strict=True)) != trained

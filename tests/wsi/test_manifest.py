"""The cohort table: what is accepted, and each fault by name."""

from pathlib import Path

import pytest

from wsi.errors import ManifestError
from wsi.manifest import check_disjoint, load_manifest

TRAIN = "image_id,center_id,patient_id,image_num,label\n006388_0,11,006388,0,CE\n049194_0,4,049194,0,LAA\n"


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.csv"
    path.write_text(text)
    return path


def test_strip_ai_tables_work_as_they_are(tmp_path: Path) -> None:
    rows = load_manifest(table(tmp_path, TRAIN))
    assert [(r.image_id, r.patient_id, r.label, r.center_id) for r in rows] == [
        ("006388_0", "006388", "CE", "11"),
        ("049194_0", "049194", "LAA", "4"),
    ]
    test = load_manifest(table(tmp_path, "image_id,center_id,patient_id,image_num\n0c5a_0,1,0c5a,0\n"))
    assert test[0].label is None
    other = load_manifest(
        table(
            tmp_path,
            "image_id,patient_id,image_num,other_specified,label\n01_0,01,0,,Unknown\n02_0,02,0,Dissection,Other\n",
        )
    )
    assert [r.label for r in other] == ["Unknown", "Other"]


def test_the_patient_follows_from_the_image_where_it_is_not_given(tmp_path: Path) -> None:
    assert load_manifest(table(tmp_path, "image_id\n049194_12\n"))[0].patient_id == "049194"


def test_paths_are_relative_to_the_table(tmp_path: Path) -> None:
    assert load_manifest(table(tmp_path, "image_id,path\na,s/a.tif\n"))[0].path == tmp_path / "s" / "a.tif"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a column image_id"),
        ("slide\na\n", "expected a column image_id"),
        ("image_id,colour\na,b\n", "unknown columns colour"),
        ("image_id,image_id\na,b\n", "stands twice"),
        ("image_id\n", "no rows"),
        ("image_id\na\na\n", "more than once: a"),
        ("image_id,patient_id,label\na,p,CE\nb,p,LAA\n", "p \\(CE and LAA\\)"),
        ("image_id,mpp\na,fast\n", "line 2: mpp 'fast'"),
        ("image_id,mpp\na,-1\n", "line 2: mpp '-1'"),
        ("image_id\n../../etc/x\n", "cannot name a file"),
        ("image_id\n.hidden\n", "cannot name a file"),
        ("image_id,label\na\n", "number of fields"),
        ("image_id,label\na,b,c\n", "number of fields"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ManifestError, match=expected):
        load_manifest(table(tmp_path, text))


def test_a_missing_or_binary_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        load_manifest(tmp_path / "gone.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(ManifestError, match="cannot be read"):
        load_manifest(tmp_path / "b.csv")


def test_a_leak_between_train_and_test_is_named(tmp_path: Path) -> None:
    train = load_manifest(table(tmp_path, TRAIN))
    with pytest.raises(ManifestError, match="image_id in both train and test: 006388_0"):
        check_disjoint(train, train[:1])
    other = load_manifest(table(tmp_path, "image_id,patient_id\n049194_7,049194\n"))
    with pytest.raises(ManifestError, match="patient_id in both"):
        check_disjoint(train, other)

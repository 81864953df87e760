"""The cohort table: what is accepted, and each fault by name."""

import os
import re
from pathlib import Path

import pytest

from wsi.cohort.manifest import check_disjoint, load_manifest, parse_columns, slide_name
from wsi.errors import ManifestError
from wsi.options import NAMES

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
        ("slide\na\n", "expected a column image_id, found slide"),
        ("name;label\na;b\n", "found name, label \\(parted by semicolons\\)"),
        ("Label,label,image_id\na,b,c\n", "stands twice"),
        (",".join(map(str, range(10**6))) + "\n1\n", "more than 4096 columns"),
        ("image_id,labels\na,b\n", "labels: is label meant"),
        ("image_id,patientid\na,b\n", "patientid: is patient_id meant"),
        ("image_id,image_id\na,b\n", "stands twice"),
        ("image_id\n", "no rows"),
        ("image_id\na\na\n", "more than once: a"),
        ("image_id,mpp\na,fast\n", "line 2: mpp 'fast'"),
        ("image_id,mpp\na,-1\n", "line 2: mpp '-1'"),
        ("image_id\n../../etc/x\n", "cannot name a file"),
        ("image_id\n.hidden\n", "cannot name a file"),
        (f"image_id\n{'y' * 20_000}\n", r"id '(y| \.\.\. ){70,100}' cannot name a file"),
        (f"image_id,mpp\na,{'y' * 20_000}\n", r"line 2: mpp '(y| \.\.\. ){70,100}': expected"),
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
    for content in (b"\xff\xfe\x00image", b"\x89PNG\r\n\x1a\n\x00\x81", b"image_id\x81\x8d\n"):
        (tmp_path / "b.csv").write_bytes(content)
        with pytest.raises(ManifestError, match=r"cannot be read|expected a column"):
            load_manifest(tmp_path / "b.csv")
    (tmp_path / "b.csv").unlink()
    os.mkfifo(tmp_path / "b.csv")
    with pytest.raises(ManifestError, match="named pipe"):
        load_manifest(tmp_path / "b.csv")
    with pytest.raises(ManifestError, match="folder"):
        load_manifest(tmp_path)


def test_a_leak_between_train_and_test_is_named(tmp_path: Path) -> None:
    train = load_manifest(table(tmp_path, TRAIN))
    with pytest.raises(ManifestError, match="image_id in both train and test: 006388_0"):
        check_disjoint(train, train[:1])
    other = load_manifest(table(tmp_path, "image_id,patient_id\n049194_7,049194\n"))
    with pytest.raises(ManifestError, match="patient_id in both"):
        check_disjoint(train, other)


GIVEN = [("049194_0", "049194", "CE", "11"), ("ü 2_0", "ü 2", None, "4")]
PLAIN = "image_id,patient_id,label,center_id\n049194_0,049194,CE,11\nü 2_0,ü 2,,4\n"


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.encode("latin-1"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace("\n", "\n\n").encode(),
        (PLAIN + ",,,\n , ,,\n").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", "|").encode(),
        PLAIN.replace(",", ", ").encode(),
        "\n".join(f"{line}," for line in PLAIN.splitlines()).encode(),
        re.sub("[^,\n]+", lambda found: f'"{found[0]}"', PLAIN).encode(),
        PLAIN.replace("image_id,patient_id", "IMAGE_ID,Patient ID").encode(),
        PLAIN.replace("image_id,patient_id", "slide_id,case_id").encode(),
        PLAIN.replace("_0,", "_0.tif,").encode(),
        PLAIN.replace("_0,", "_0.OME.TIFF,").encode(),
        PLAIN.replace(",,", ",nan,").encode(),
        PLAIN.replace(",,", ",NA,").encode(),
        PLAIN.replace(",11", ",11.0").replace(",4", ",4.0").encode(),
        b"sep=,\r\n" + PLAIN.encode(),
        ('\ufeff"SEP=;"\n' + PLAIN.replace(",", ";")).encode(),
        PLAIN.replace("049194,", '="049194",').encode(),
    ],
)
def test_tables_come_in_many_forms(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    rows = load_manifest(tmp_path / "t.csv")
    assert [(r.image_id, r.patient_id, r.label, r.center_id) for r in rows] == GIVEN


def test_numbers_stay_as_they_stand_there_unless_all_are_floats(tmp_path: Path) -> None:
    rows = load_manifest(table(tmp_path, "image_id,center_id,label\n007,1.0,1.5\n008,2.5,2.0\n"))
    assert [(r.image_id, r.center_id, r.label) for r in rows] == [("007", "1.0", "1.5"), ("008", "2.5", "2.0")]


def test_a_decimal_comma_is_read_where_commas_do_not_part_columns(tmp_path: Path) -> None:
    rows = load_manifest(
        table(tmp_path, "image_id;label;value;time;event;age\na;1,5;-0,82;1,5e+1;1.0;70,5\nb;;3;,5;0.0;\n")
    )
    assert (rows[0].label, dict(rows[0].facts)) == ("1,5", {"age": "70.5"})
    assert [(row.value, row.time, row.event) for row in rows] == [("-0.82", "1.5e+1", "1"), ("3", ".5", "0")]
    (row,) = load_manifest(table(tmp_path, 'image_id,value\na,"1,234"\n'))
    assert row.value == "1,234", "may be a thousand: refused when it is used"


def test_further_columns_are_facts_of_the_row(tmp_path: Path) -> None:
    rows = load_manifest(table(tmp_path, "image_id,Age,sex,other_specified\na,61,f,x\nb,nan,,\n"))
    assert [dict(row.facts) for row in rows] == [{"Age": "61", "sex": "f"}, {}]
    assert len({*rows}) == 2


def test_columns_are_named_by_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path, "Filename;Diagnosis;case;mpp\na.svs;CE;p;0,25\n")
    columns = parse_columns("image_id=filename, label=Diagnosis,patient_id=case")
    (row,) = load_manifest(path, columns)
    assert (row.image_id, row.label, row.patient_id, row.mpp, dict(row.facts)) == ("a", "CE", "p", 0.25, {})
    monkeypatch.setenv(NAMES, "image_id=Filename")
    assert load_manifest(path)[0].facts == {"Diagnosis": "CE", "case": "p"}
    with pytest.raises(ManifestError, match=r"label=Grade: found no such column, but Filename, Diagnosis"):
        load_manifest(path, {"image_id": "Filename", "label": "Grade"})
    for text in ("slide=x", "label", "label="):
        with pytest.raises(ManifestError, match="expected OURS=THEIRS"):
            parse_columns(text)


def test_a_column_of_ours_goes_before_clams(tmp_path: Path) -> None:
    (row,) = load_manifest(table(tmp_path, "slide_id,image_id,case_id\ns,i,p\n"))
    assert (row.image_id, row.patient_id, dict(row.facts)) == ("i", "p", {"slide_id": "s"})


def test_windows_paths_are_read(tmp_path: Path) -> None:
    rows = load_manifest(table(tmp_path, "image_id,path\na,s\\a.tif\nb,C:\\slides\\b.tif\nc,\n"))
    assert [row.path for row in rows] == [tmp_path / "s" / "a.tif", None, None]


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.svs", "a"), ("a.b.OME.TIF", "a.b"), ("TCGA-1.2", "TCGA-1.2"), (".svs", ".svs"), ("a.svs.h5", "a.svs")],
)
def test_an_ending_is_no_part_of_the_name(name: str, stem: str) -> None:
    assert slide_name(name) == stem

"""The search finds what was planted, wherever and however it is spelt, and cries for nothing else."""

import base64
import json
import shutil
import struct
from pathlib import Path

import h5py
import matplotlib
import numpy as np
import pytest
import tifffile
from making import picture
from making_dicom import JPEG, write_dicom
from planted_texts import PLANTS

from wsi.errors import RequestError
from wsi.progress.outcome import Status, Summary
from wsi.sharing.options import PhiOptions
from wsi.sharing.phi.search import verify_phi
from wsi.store.tile_store import TileStore

ROW = {
    "image_id": "S21-4711_0",
    "patient_id": "0815347",
    "label": "CE",
    "center_id": "4",
    "patient_name": "Mustermann, Erika",
    "birth_date": "1950-03-04",
    "path": "/data/Klinik Nord/S21-4711_0.svs",
    "note": "brought by courier",
    "case": "QX7Z",
}
VALUES = ["S21-4711_0", "0815347", "Mustermann, Erika", "1950-03-04", "/data/Klinik Nord/S21-4711_0.svs"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "cohort.csv"
    path.write_text(",".join(ROW) + "\n" + ",".join(f'"{cell}"' for cell in ROW.values()) + "\n")
    return path


def search(folder: Path, table: Path, *slides: Path) -> Summary:
    return verify_phi(PhiOptions(folders=(folder,), against=table, slides=slides))


def reasons(summary: Summary) -> str:
    return " ".join(outcome.reason for outcome in summary.ended(Status.FAILED))


@pytest.mark.parametrize("place", PLANTS)
def test_every_value_is_found_in_every_place(place: str, table: Path, tmp_path: Path) -> None:
    folders = tuple(tmp_path / f"bundle{number}" for number in range(len(VALUES)))
    for folder, value in zip(folders, VALUES, strict=True):
        folder.mkdir()
        PLANTS[place](folder, value)
    found = verify_phi(PhiOptions(folders=folders, against=table)).ended(Status.FAILED)
    assert {outcome.item_id.partition("/")[0] for outcome in found} == {folder.name for folder in folders}
    for value in VALUES:  # what is told does not tell it
        assert not any(value in outcome.reason for outcome in found)


@pytest.mark.parametrize(
    "place", [place for place in PLANTS if place not in ("TIFF, behind everything", "NumPy texts")]
)
def test_short_values_are_found_where_words_stand(place: str, table: Path, tmp_path: Path) -> None:
    """They are not looked for in any bytes: whoever reads that kind of file finds them, or nobody."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    PLANTS[place](bundle, "QX7Z")
    assert "case of line 2" in reasons(search(bundle, table))


def test_texts_that_hdf5_would_not_survive_are_read_without_it(table: Path, tmp_path: Path) -> None:
    """Of an attribute in ten, which lies apart, and of a dataset; in a heap without an end."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with h5py.File(bundle / "a.h5", "w", libver="latest") as file:
        file.attrs.update({f"a{number}": "word" for number in range(10)})
        file["names"] = ["x", ROW["case"]]
    whole = (bundle / "a.h5").read_bytes()
    assert "texts of /names" in reasons(search(bundle, table))
    for heap in (whole.index(b"GCOL"), whole.rindex(b"GCOL")):
        (bundle / "a.h5").write_bytes(whole[: heap + 16] + bytes(16) + whole[heap + 32 :])
        assert "it cannot be read as what it seems to be" in reasons(search(bundle, table))


@pytest.mark.parametrize("place", PLANTS)
def test_the_same_file_without_a_value_is_no_finding(place: str, table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    PLANTS[place](folder, "p0123456789ab_0 of 1,024 tiles")
    assert reasons(search(folder, table)) == ""


@pytest.mark.parametrize(
    "spelt",
    [
        "s21-4711_0", "S21 4711 0", "S21_4711_0", "s21-4711", "xS21-4711_0y", "S2147110",
        "MUSTERMANN", "Erika Mustermann", "mustermann^erika", "ErikaMustermann", "erika_mustermann", "mustermann-erika",
        "815347", "id0815347", "'0815347", "0815347_2",
        "1950-03-04", "04.03.1950", "4/3/1950", "03/04/1950", "19500304", "19500304101500", "1950:03:04 10:15:00",
        "4 Mar 1950", "March 4, 1950", "04-MAR-1950", "04.03.50", "3/4/50", "50-03-04",
        "\\\\data\\klinik nord\\S21-4711_0.SVS", "brought  by\ncourier",
    ],
)  # fmt: skip
def test_spellings_are_found(spelt: str, table: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "notes.txt").write_text(f"a {spelt} b")
    assert "of line 2" in reasons(search(bundle, table))


@pytest.mark.parametrize(
    "text",
    [
        "10815347", "08153470", "0.0815347", "12.815347", "c0ffee0815347a0815347beef0815347c0ffee", "CE", "center 4",
        "label CE 4", "1950", "119500304", "mustermanx", "[1950, 3, 5]", "eric", "S21", "4711", '{"a": 4, "b": 815}',
    ],
)  # fmt: skip
def test_what_only_resembles_a_value_is_no_finding(text: str, table: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "a.json").write_text(text)
    assert reasons(search(bundle, table)) == ""


def test_random_bytes_and_features_are_no_finding(tmp_path: Path) -> None:
    """A table of a hundred slides with ids as short as they come, against 8 MB of noise and of base64."""
    rng = np.random.default_rng(20240817)
    ids = [f"{value:06x}_0" for value in rng.integers(0, 1 << 24, 100)] + [
        f"{value:06d}" for value in range(0, 10**6, 9973)
    ]
    table = tmp_path / "cohort.csv"
    table.write_text("image_id\n" + "\n".join(ids) + "\n")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "noise.bin").write_bytes(b"\0" + rng.bytes(4 << 20))
    (bundle / "a.js").write_text(json.dumps({"values": base64.b64encode(rng.bytes(3 << 20)).decode()}))
    (bundle / "scores.csv").write_text("\n".join(map(repr, rng.random(100_000).tolist())))
    assert reasons(search(bundle, table)) == ""


def test_an_umlaut_is_found_in_every_way_to_write_it(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("image_id,name\nq1w2e3r4,Jörg Müßig\n")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for spelt in ("Jörg Müßig", "JÖRG MÜSSIG", "joerg muessig", "Jorg Mussig", "Mu\u0308ßig"):
        (bundle / "a.txt").write_text(f"- {spelt} -")
        assert "name of line 2" in reasons(search(bundle, table)), spelt


def test_a_name_of_short_parts_is_found_in_either_order(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text('image_id,name\nq1w2e3r4,"Li, Bo"\n')
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for spelt, found in (("Bo Li", True), ("LI^BO", True), ("bo_li", True), ("Li", False), ("robo limit", False)):
        (bundle / "a.txt").write_text(f"- {spelt} -")
        assert ("name of line 2" in reasons(search(bundle, table))) is found, spelt


def test_pictures_of_a_label_are_a_finding_by_being_there(table: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    pixels = picture(64, 64)
    with tifffile.TiffWriter(bundle / "a.tif") as tiff:
        tiff.write(pixels, photometric="rgb", metadata=None, description=b"Aperio\nx")
        tiff.write(pixels, photometric="rgb", metadata=None, description=b"Aperio\nlabel 64x64")
        tiff.write(pixels, photometric="rgb", metadata=None, description=b"Aperio\nmacro 64x64")
    write_dicom(bundle / "b.dcm", pixels, flavour="LABEL")
    (bundle / "macro.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = {outcome.item_id: outcome.facts["findings"] for outcome in search(bundle, table).ended(Status.FAILED)}
    what = "a picture of a label or of the whole glass"
    assert found["bundle/a.tif"] == [f"page 2: {what}", f"page 3: {what}"]
    assert f"ImageType: {what}" in found["bundle/b.dcm"]
    assert f"name: {what}" in found["bundle/macro.png"]


def test_fields_of_dates_and_persons_are_a_finding_whatever_they_hold(table: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    tifffile.imwrite(
        bundle / "a.tif", picture(64, 64), photometric="rgb", metadata=None, datetime="2024:05:06 07:08:09"
    )
    write_dicom(bundle / "b.dcm", picture(64, 64), PatientID="anything")
    head = bytearray(132)
    head[24:28], head[36:40] = struct.pack(">HH", 2020, 2), b"acsp"
    (bundle / "icc.icc").write_bytes(bytes(head))
    found = {outcome.item_id: outcome.reason for outcome in search(bundle, table).ended(Status.FAILED)}
    assert "DateTime" in found["bundle/a.tif"]
    assert "PatientID: a patient's id" in found["bundle/b.dcm"]
    assert "date" in found["bundle/icc.icc"]


def test_what_cannot_be_read_and_links_are_findings(table: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    (bundle / "b").symlink_to(table)
    found = {outcome.item_id: outcome.reason for outcome in search(bundle, table).ended(Status.FAILED)}
    assert "cannot be read" in found["bundle/a.h5"]
    assert "link" in found["bundle/b"]


def test_a_store_as_it_was_tiled_names_its_slide(small_store: TileStore, tmp_path: Path) -> None:
    assert isinstance(small_store.path, Path)
    table = tmp_path / "cohort.csv"
    table.write_text(f"image_id\n{small_store.image_id}\n")
    shutil.copytree(small_store.path, tmp_path / "bundle" / "renamed.zarr")
    found = search(tmp_path / "bundle", table)
    assert [outcome.item_id for outcome in found.ended(Status.FAILED)] == ["bundle/renamed.zarr/zarr.json"]


def test_what_slides_say_of_themselves_is_looked_for(tmp_path: Path, table: Path) -> None:
    slide = tmp_path / "slide.tif"
    told = "Aperio v1\r\n64x64|ScanScope ID = SS7123QX|Filename = biopsy9|Date = 12/29/09|Left = 4.5|MPP = 0.499"
    tifffile.imwrite(slide, picture(64, 64), photometric="rgb", tile=(64, 64), metadata=None, description=told.encode())
    dicom = write_dicom(
        tmp_path / "d.dcm",
        picture(64, 64),
        PatientName="Doe^Jane",
        DeviceSerialNumber="DSN-99812",
        StudyDate="20200131",
    )
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for text, source in [
        ("ss7123qx", "ScanScope ID"), ("biopsy9", "Filename"), ("2009-12-29", "Date"), ("Jane Doe", "PatientName"),
        ("DSN-99812", "DeviceSerialNumber"), ("31.01.2020", "StudyDate"),
    ]:  # fmt: skip
        (bundle / "a.txt").write_text(f"- {text} -")
        assert reasons(search(bundle, table)) == "", text
        assert f"{source} of slide" in reasons(search(bundle, table, slide, dicom)), text
    (bundle / "a.txt").write_text("0.499 um/px, 64 x 64, 4.5")
    assert reasons(search(bundle, table, slide, dicom)) == ""


def test_a_table_that_names_nobody_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("image_id,label\n1,CE\n")
    with pytest.raises(RequestError, match="long enough"):
        search(tmp_path, table)
    table.write_text("image_id\nabcdef\n12\n")
    (tmp_path / "bundle").mkdir()
    (done,) = search(tmp_path / "bundle", table).outcomes
    assert "1 are too short" in done.reason or "1 is too short" in done.reason


def label_picture(turns: int) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.new("RGB", (700, 300), "white")
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 48)
    ImageDraw.Draw(canvas).text((40, 100), "Mustermann 0815347", "black", font)
    return np.ascontiguousarray(np.rot90(np.asarray(canvas), turns))


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract, which reads pictures, is not installed")
@pytest.mark.parametrize("form", ["TIFF page", "PNG", "JPEG", "DICOM"])
def test_what_is_written_on_a_label_is_read(form: str, table: Path, tmp_path: Path) -> None:
    from PIL import Image

    (bundle := tmp_path / "bundle").mkdir()
    pixels = label_picture(turns=1 if form == "TIFF page" else 0)
    if form == "TIFF page":
        tifffile.imwrite(bundle / "a.tif", pixels, photometric="rgb", description="label 300x700")
    elif form == "DICOM":
        write_dicom(bundle / "a.dcm", pixels, syntax=JPEG, flavour="LABEL")
    else:
        Image.fromarray(pixels).save(bundle / f"label.{form.lower()}")
    told = reasons(search(bundle, table))
    assert "written in the picture" in told
    assert "patient_id of line 2" in told
    assert "Mustermann" not in told


@pytest.mark.parametrize("length", [23, 24, 32, 40, 64])
@pytest.mark.parametrize("digits", ["0123456789", "0123456789abcdef"])
def test_an_id_that_is_itself_a_hash_is_found_whole_and_not_in_a_longer_one(
    length: int, digits: str, tmp_path: Path
) -> None:
    value = (digits * length)[:length]
    table = tmp_path / "cohort.csv"
    table.write_text(f"image_id,patient_id\ns_0,{value}\n")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for spelt, found in ((f"id: {value.upper()}", True), (f"{value}_0", True), (f"c0ffee{value}beef", False)):
        (bundle / "a.txt").write_text(spelt)
        assert ("patient_id of line 2" in reasons(search(bundle, table))) is found, spelt


def test_a_uuid_is_found_whole_and_hides_no_number(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text("image_id,patient_id\ns_0,12345678-9abc-4def-8123-456789abcdef\nt_0,4711\n")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for spelt, lines in (
        ('"12345678-9ABC-4DEF-8123-456789ABCDEF"', [2]),
        ("123456789abc4def8123456789abcdef", [2]),
        ("0c0ffee0-4711-4711-8711-c0ffee4711ee", []),
        ("c0ffee00-4711-4711-8711", [3]),
    ):
        (bundle / "a.txt").write_text(spelt)
        found = reasons(search(bundle, table))
        assert [line for line in (2, 3) if f"of line {line}" in found] == lines, spelt

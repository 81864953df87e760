"""What `gigamil info` says."""

from pathlib import Path

import pytest
import tifffile
from making import picture, spoil_tile, write_deflate, write_pyramid

from wsi.annotations.regions import read_regions
from wsi.cohort.fingerprint import fingerprint, slide_bytes
from wsi.cohort.manifest import load_manifest
from wsi.errors import AnnotationError, ManifestError, RequestError
from wsi.qc.info import count_resolutions, describe_all
from wsi.qc.options import InfoOptions
from wsi.qc.pixel_check import check_pixels
from wsi.slide import open_slide
from wsi.tiling.options import TileOptions


def test_the_reader_and_why_the_resolution_and_whence(pyramid_slide: Path) -> None:
    row = describe_all(InfoOptions(slides=(pyramid_slide,)))[0]
    assert not row["failed"]
    assert row["size"] == "1700 x 2100"
    assert row["reader"] == "tiff (generic)"
    assert "decode directly" in row["reader_because"]
    assert (row["mpp"], row["mpp_source"]) == ("0.25", "TIFF resolution")
    assert "20 tiles of 256 px" in row["tiling"]
    assert "2.2 MB with --codec zstd or 446.2 kB with --codec jpeg on disk" in row["tiling"], "of 850 x 1050 pixels"
    assert describe_all(InfoOptions(slides=(pyramid_slide,), reader="openslide"))[0]["reader"].startswith("openslide")


def test_a_slide_without_resolution_fails_with_the_way_out(deflate_slide: Path) -> None:
    row = describe_all(InfoOptions(slides=(deflate_slide,)))[0]
    assert row["failed"]
    assert "--assume-mpp" in row["notes"]
    assert not describe_all(InfoOptions(slides=(deflate_slide,), assume_mpp=0.5))[0]["failed"]


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_verify_counts_what_cannot_be_decoded(tmp_path: Path, reader: str) -> None:
    path = write_pyramid(tmp_path / "a.tif", picture(700, 700))
    assert str(check_pixels(open_slide(path))) == "all 14 tiles decode"
    spoil_tile(path, 4)
    check = check_pixels(open_slide(path, reader))
    assert {level for level, _ in check.damaged} == {0}
    box = check.damaged[0][1]
    assert box.y0 >= 0
    assert box.y1 <= 700
    if reader == "tiff":
        assert [tuple(part) for _, part in check.damaged] == [(256, 256, 512, 512)]
    row = describe_all(InfoOptions(slides=(path,), verify=True, reader=reader))[0]  # type: ignore[arg-type]
    assert row["failed"]
    assert row["damaged"] == len(check.damaged)


def test_a_missing_slide_of_the_manifest_is_a_row_of_its_own(tmp_path: Path, pyramid_slide: Path) -> None:
    (tmp_path / "t.csv").write_text(f"image_id,path\nhere,{pyramid_slide}\ngone,nowhere.tif\n")
    here, gone = describe_all(InfoOptions(manifest=tmp_path / "t.csv"))
    assert not here["failed"]
    assert gone["failed"]
    assert gone["odd"]


def test_the_odd_one_of_a_cohort_is_marked(tmp_path: Path) -> None:
    for i, mpp in enumerate((0.25, 0.251, 0.2503, 0.252, 0.5)):
        write_pyramid(tmp_path / f"s{i}.tif", picture(300, 300), mpp, levels=1)
    write_deflate(tmp_path / "bare.tif", picture(300, 300))
    rows = describe_all(InfoOptions(slides=(tmp_path,)))
    assert [row["image_id"] for row in rows if row["odd"]] == ["bare", "s4"]
    groups = count_resolutions(rows)
    assert (groups[0]["mpp"], len(groups[0]["images"]), groups[0]["odd"]) == ("0.25", 4, False)
    assert {group["mpp"] for group in groups if group["odd"]} == {"0.5", "unknown"}


def test_nothing_is_odd_where_nothing_is_known(deflate_slide: Path) -> None:
    assert not any(row["odd"] for row in describe_all(InfoOptions(slides=(deflate_slide,))))


def test_fingerprints_tell_slides_apart_and_not_their_names(tmp_path: Path) -> None:
    first = write_deflate(tmp_path / "a.tif", picture(100, 100))
    same = tmp_path / "b.tif"
    same.write_bytes(first.read_bytes())
    other = write_deflate(tmp_path / "c.tif", picture(100, 100, seed=3))
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)
    folder = tmp_path / "d.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")
    before = fingerprint(folder)
    assert slide_bytes(folder) == 2
    (folder / "zarr.json").write_text("[]")
    assert fingerprint(folder) != before


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e-9])
def test_um_per_px_that_cannot_be_is_one_line_with_the_value(tmp_path: Path, deflate_slide: Path, value: float) -> None:
    for name, option in (("target_mpp", "--mpp"), ("assume_mpp", "--assume-mpp")):
        with pytest.raises(RequestError, match=f"{option} {value}: expected 0.05 to"):
            InfoOptions(**{name: value})  # type: ignore[arg-type]
        with pytest.raises(RequestError, match=f"{option} {value}: expected 0.05 to"):
            TileOptions(slides=(deflate_slide,), out=tmp_path, **{name: value})  # type: ignore[arg-type]
    (tmp_path / "m.csv").write_text(f"image_id,mpp\na,{value}\n")
    if value == value:
        with pytest.raises(ManifestError, match=r"line 2: mpp '.*': expected 0.05 to 100 um/px"):
            load_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("dtype", "told"),
    [("float32", "32 bits, floating point"), ("int32", "32 bits, with a sign"), ("complex64", "64 bits, complex")],
)
def test_pixels_that_are_no_colours_are_named_for_a_person(tmp_path: Path, dtype: str, told: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(300, 300).astype(dtype), photometric="rgb", tile=(128, 128))
    (row,) = describe_all(InfoOptions(slides=(tmp_path / "a.tif",)))
    assert row["failed"]
    assert told in row["notes"]
    assert "object has no attribute" not in row["notes"]


@pytest.mark.parametrize(
    ("geometry", "told"),
    [
        ('{"type": "Polygon", "coordinates": []}', "found only an empty Polygon"),
        ('{"type": "MultiPolygon", "coordinates": []}', "found only an empty MultiPolygon"),
        ('{"type": "Polygon", "coordinates": [[]]}', "found only an empty Polygon"),
    ],
)
def test_an_empty_polygon_is_told_as_such(tmp_path: Path, geometry: str, told: str) -> None:
    (tmp_path / "a.geojson").write_text(geometry)
    with pytest.raises(AnnotationError, match=told):
        read_regions(tmp_path / "a.geojson")

"""QuPath's GeoJSON, read and written: nothing is lost, nothing is believed unchecked."""

import gzip
import json
import time
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi.annotations import geojson
from wsi.annotations.geojson import (
    Annotation,
    annotations_bytes,
    feature_lines,
    flat,
    parse_annotations,
    read_annotations,
    write_geojson,
)
from wsi.annotations.tile_objects import tile_lines
from wsi.errors import AnnotationError

ID = "8c0e2c1a-9a5d-4a57-8a37-2f9f1a1c9a11"
SQUARE = [[0, 0], [100, 0], [100, 100.5], [0, 100.5], [0, 0]]
HOLE = [[10, 10], [20, 10], [20, 20], [10, 20], [10, 10]]


def feature(geometry: Any = None, **properties: Any) -> dict[str, Any]:
    geometry = geometry or {"type": "Polygon", "coordinates": [SQUARE]}
    return {"type": "Feature", "id": ID, "geometry": geometry, "properties": properties}


def parsed(document: Any) -> list[Annotation]:
    return parse_annotations(json.dumps(document).encode())


QUPATH = feature(
    {"type": "Polygon", "coordinates": [SQUARE, HOLE], "isEllipse": True, "plane": {"c": -1, "z": 2, "t": 0}},
    objectType="annotation",
    name="Herd \u00e4 \ud83d",
    color=[1, 2, 3],
    classification={"names": ["Tumor", "Positive"], "color": [200, 0, 0], "ours": 1},
    isLocked=True,
    measurements={"Area \u00b5m^2": 10050.25, "n": 3, "ratio": "Infinity"},
    metadata={"ANNOTATION_DESCRIPTION": "as seen", "number": 7},
    unknown={"deep": [1, {"a": None}]},
    childObjects=[feature(objectType="cell", classification={"name": "Ignore*"}) | {"id": str(uuid.UUID(int=5))}],
) | {"nucleusGeometry": {"type": "Point", "coordinates": [1, 2]}, "bbox": [0, 0, 100, 100.5]}


def test_every_field_of_qupaths_is_read() -> None:
    [item] = parsed({"type": "FeatureCollection", "features": [QUPATH]})
    assert (item.id, item.kind, item.name, item.color, item.locked) == (
        ID,
        "annotation",
        "Herd \u00e4 \ud83d",
        (1, 2, 3),
        True,
    )
    assert (item.class_name, item.class_color) == ("Tumor: Positive", (200, 0, 0))
    assert item.classes == ("Tumor: Positive", "Tumor", "Positive")
    assert item.measurements == {"Area \u00b5m^2": 10050.25, "n": 3.0, "ratio": float("inf")}
    assert item.metadata == {"ANNOTATION_DESCRIPTION": "as seen"}
    assert item.area().area == 100 * 100.5 - 100
    [child] = item.children
    assert (child.kind, child.class_name, child.ignored) == ("cell", "Ignore*", True)
    assert [own.kind for own in flat([item])] == ["annotation", "cell"]


def test_what_is_written_holds_every_member_that_was_read() -> None:
    written = json.loads(annotations_bytes(parsed([QUPATH])))
    assert written == {"type": "FeatureCollection", "features": [QUPATH]}


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 3)) | st.integers(-1000, 10**6)
points = st.tuples(numbers, numbers).map(list)
geometries = st.one_of(
    st.builds(lambda p: {"type": "Point", "coordinates": p}, points),
    st.builds(lambda p: {"type": "MultiPoint", "coordinates": p}, st.lists(points, min_size=1, max_size=5)),
    st.builds(lambda p: {"type": "LineString", "coordinates": p}, st.lists(points, min_size=2, max_size=5)),
    st.builds(lambda p: {"type": "MultiLineString", "coordinates": [p, p]}, st.lists(points, min_size=2, max_size=4)),
    st.builds(lambda p: {"type": "Polygon", "coordinates": [[*p, p[0]]]}, st.lists(points, min_size=3, max_size=9)),
    st.builds(
        lambda p: {"type": "MultiPolygon", "coordinates": [[[*p, p[0]], HOLE]]},
        st.lists(points, min_size=3, max_size=5),
    ),
)
documents = st.lists(
    st.builds(
        lambda geometry, id_, properties, extra: {
            "type": "Feature", "id": str(id_), "geometry": geometry, "properties": properties, **extra,
        },
        st.none() | geometries | st.builds(lambda g: {"type": "GeometryCollection", "geometries": [g, g]}, geometries),
        st.uuids(),
        st.fixed_dictionaries(
            {"objectType": st.sampled_from(["annotation", "detection", "tile", "cell", "tmaCore", "root"])},
            optional={
                "name": st.text(min_size=1),
                "color": st.lists(st.integers(0, 255), min_size=3, max_size=3),
                "isLocked": st.just(True),
                "classification": st.builds(lambda name: {"name": name.replace(": ", ":")}, st.text(min_size=1)),
                "measurements": st.dictionaries(st.text(), numbers, min_size=1, max_size=3),
                "metadata": st.dictionaries(st.text(), st.text(), min_size=1, max_size=3),
                "other": values,
            },
        ),
        st.dictionaries(st.sampled_from(["bbox", "foreign", "nucleusGeometry"]), values, max_size=2),
    ),
    max_size=4,
    unique_by=lambda own: own["id"],
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(documents)
def test_any_document_comes_back_as_it_was(document: list[dict[str, Any]]) -> None:
    assert json.loads(annotations_bytes(parsed(document)))["features"] == document


@settings(max_examples=30, deadline=None)
@given(documents)
def test_annotations_come_back_equal(document: list[dict[str, Any]]) -> None:
    items = parsed(document)
    assert parse_annotations(annotations_bytes(items)) == items


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: [f], lambda f: {"features": [f], "type": "FeatureCollection"}])
def test_one_feature_an_array_a_collection_and_gzip(tmp_path: Path, wrap: Any) -> None:
    text = json.dumps(wrap(QUPATH), indent=2).encode()
    (tmp_path / "a.geojson").write_bytes(b"\xef\xbb\xbf" + text)
    (tmp_path / "b.geojson.gz").write_bytes(gzip.compress(text[:50]) + gzip.compress(text[50:]))
    assert read_annotations(tmp_path / "a.geojson") == read_annotations(tmp_path / "b.geojson.gz") == parsed([QUPATH])


def test_forms_of_earlier_versions() -> None:
    old = {
        "type": "Feature",
        "id": "PathDetectionObject",
        "geometry": {"type": "Point", "coordinates": [1, 2]},
        "properties": {
            "classification": {"name": "Stroma", "colorRGB": -3670016},
            "measurements": [{"name": "a", "value": 1.5}, {"name": "b", "value": np.nan}, {"name": "c", "value": None}],
            "color": 255,
        },
    }  # fmt: skip
    first, second = parsed([old, old])
    assert (first.kind, first.class_color, first.color) == ("detection", (200, 0, 0), (0, 0, 255))
    assert first.measurements == {"a": 1.5}
    assert first.extra == {}
    assert str(uuid.UUID(first.id)) == first.id != second.id
    assert [first, second] == parsed([old, old]), "the same file gives the same ids"
    assert parsed(feature(object_type="tile"))[0].kind == "tile"
    assert parsed(feature(type="PathTileObject"))[0].kind == "annotation"
    assert parsed(feature(classification=["A", "B"]))[0].class_name == "A: B"


def test_ids_that_are_none_or_are_given_twice_are_replaced_and_kept() -> None:
    items = parsed([feature() | {"id": 17}, feature(), feature(), feature() | {"id": ID.upper()}])
    assert items[1].id == ID
    assert len({item.id.casefold() for item in items}) == 4
    assert all(uuid.UUID(item.id) for item in items)
    assert [item.extra.get("feature") for item in items] == [
        {"formerId": 17}, None, {"formerId": ID}, {"formerId": ID.upper()},
    ]  # fmt: skip


def test_a_crossing_ring_stays_as_drawn_and_its_area_is_mended() -> None:
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    [item] = parsed(feature(bow))
    assert not item.geometry.is_valid
    assert json.loads(annotations_bytes([item]))["features"][0]["geometry"] == bow
    assert item.area().is_valid
    assert item.area().area == 50
    twice = {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [[[50, 50], [150, 50], [150, 100], [50, 100]]]]}
    assert parsed(feature(twice))[0].area().area == 100 * 100.5 - 100 + 50 * 50
    line = parsed(feature({"type": "Polygon", "coordinates": [[[70, 30], [90, 40], [70, 30]]]}, name="scratch"))[0]
    with pytest.raises(AnnotationError, match=r"annotation 'scratch' of class \(none\) at x 70, y 30 covers nothing"):
        line.area()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Expecting '{'"),
        ("{", "Expecting value"),
        ("[" * 100_000, "nested too deeply"),
        ('{"type":"Feature","properties":{"a":' + "[" * 40 + "]" * 40 + "}}", "feature 1: nested too deeply"),
        ('{"type":"FeatureCollection","features":[1]}', "feature 1: is not GeoJSON"),
        ('{"type":"FeatureCollection","features":[]} 1', "Extra data"),
        ('{"type":"Feature","features":[]}', "expected the type FeatureCollection, found 'Feature'"),
        ('{1:2}', "Expecting"),
        ('[{"type":["Feature"]}]', "expected a geometry with a type"),
        ('[{"type":"Feature","properties":[]}]', "expected properties as an object"),
        ('[{"type":"Feature","properties":{"childObjects":{"a":1}}}]', "expected childObjects as a list, found"),
        ('[{"type":"Feature","properties":{"childObjects":[{"type":"Feature"},2]}}]', "feature 1, child 2: is"),
        ('[{"type":"Feature","properties":{"measurements":{"a":[]}}}]', "measurement 'a': expected a number"),
        ('[{"type":"Feature","properties":{"measurements":{"a":1' + "0" * 400 + "}}}]", "measurement 'a': expected"),
        ('[{"type":"Feature","properties":{"measurements":[3]}}]', "expected measurements as an object"),
        ('[{"type":"Feature","properties":{"classification":{"name":3}}}]', "expected a classification with a name"),
        ('[{"type":"Feature","properties":{"a":NaN}}]', "feature 1: nan is no number"),
        ('[{"type":"Feature"},{"type":"Point","coordinates":[NaN,1]}]', "feature 2: expected a position"),
        ('[{"type":"Point","coordinates":[1e999,1]}]', "expected a position"),
        ('[{"type":"Point","coordinates":[1]}]', "expected a position"),
        ('[{"type":"Point","coordinates":{"x":1}}]', "a Point: expected coordinates"),
        ('[{"type":"Polygon","coordinates":[3]}]', "a polygon's rings of at least 3"),
        ('[{"type":"Polygon","coordinates":[[[0,0],[1,1]]]}]', "a polygon's rings of at least 3"),
        ('[{"type":"MultiPolygon","coordinates":[{}]}]', "a polygon's rings"),
        ('[{"type":"Circle","coordinates":[[0,0]]}]', "expected a geometry with a type"),
        ('[{"type":"GeometryCollection"}]', "expected a list of geometries"),
        ('{"type":"GeometryCollection","geometries":[' * 50 + "]}" * 50, "not nested too deeply"),
        ("\xff", "codec can't decode"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_clear_line(text: str, problem: str) -> None:
    with pytest.raises(AnnotationError) as raised:
        parse_annotations(text.encode("latin-1"), "a.geojson")
    told = str(raised.value)
    assert problem in told
    assert told.startswith("a.geojson: ")
    assert "\n" not in told


def test_children_below_each_other_are_bounded() -> None:
    nest: dict[str, Any] = feature()
    for _ in range(40):
        nest = feature(childObjects=[nest])
    with pytest.raises(AnnotationError, match="32 below each other"):
        parsed(nest)


def test_a_gzip_is_unpacked_no_further_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geojson, "MOST_BYTES", 1 << 20)
    bomb = gzip.compress(b" " * (64 << 20))
    tracemalloc.start()
    with pytest.raises(AnnotationError, match="unpacks to more than"):
        parse_annotations(bomb)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    for broken in (bomb[:500], bomb[:20] + b"\xff" * 200):
        with pytest.raises(AnnotationError, match="cannot be read as GeoJSON"):
            parse_annotations(broken)


def test_too_many_objects_and_too_large_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geojson, "MOST_OBJECTS", 2)
    with pytest.raises(AnnotationError, match="feature 3: expected at most 2 objects"):
        parsed([feature()] * 3)
    monkeypatch.setattr(geojson, "MOST_BYTES", 100)
    (tmp_path / "a.geojson").write_bytes(b" " * 101)
    with pytest.raises(AnnotationError, match="expected at most 100"):
        read_annotations(tmp_path / "a.geojson")
    with pytest.raises(AnnotationError, match="No such file"):
        read_annotations(tmp_path / "b.geojson")


@pytest.mark.parametrize("name", ["tiles.geojson", "tiles.geojson.gz"])
def test_tile_objects_read_back_to_their_numbers(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    l0_yx = rng.integers(0, 1000, (2_000, 2)) * 512.5
    values = {
        "attention": rng.random(2_000, np.float32),
        'push \u00e4 "B"': rng.normal(size=2_000).astype(np.float32),
    }
    values["attention"][7] = np.nan
    region = Annotation(geometry=shapely.box(0, 0, 5, 5), class_name="Top")
    write_geojson(tmp_path / name, [*feature_lines([region]), *tile_lines(l0_yx, 512.5, values, "a")])
    found = read_annotations(tmp_path / name)
    assert found[0] == region
    assert {item.kind for item in found[1:]} == {"tile"}
    bounds = np.array([item.geometry.bounds for item in found[1:]])
    assert (bounds == np.hstack([l0_yx[:, ::-1], l0_yx[:, ::-1] + 512.5])).all()
    for own, told in values.items():
        read = np.array([item.measurements.get(own, np.nan) for item in found[1:]])
        assert np.array_equal(read.astype(np.float32), told, equal_nan=True)
    assert found[1].id == json.loads(next(tile_lines(l0_yx[:1], 512.5, {}, "a")))["id"]


def test_an_empty_list_is_an_empty_collection() -> None:
    assert json.loads(annotations_bytes([])) == {"type": "FeatureCollection", "features": []}
    assert parse_annotations(annotations_bytes([])) == []


@pytest.mark.slow
def test_tiles_of_a_large_slide_are_written_in_seconds_and_little_memory(tmp_path: Path) -> None:
    n = 350_000
    values = {str(name): np.random.default_rng(name).random(n, np.float32) for name in range(6)}
    l0_yx = np.stack(np.divmod(np.arange(n), 600), axis=1) * 512.0
    began = time.process_time()
    write_geojson(tmp_path / "a.geojson", tile_lines(l0_yx, 512.0, values, "a"))
    assert time.process_time() - began < 10
    tracemalloc.start()
    for _ in tile_lines(l0_yx[:40_000], 512.0, {name: own[:40_000] for name, own in values.items()}, "a"):
        pass
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()

"""Regions as one shape, and how much of each tile lies in them."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi.annotations.annotation import Annotation
from wsi.annotations.geojson import annotations_bytes
from wsi.annotations.regions import annotation_file, region_of, tile_shares
from wsi.errors import AnnotationError


def test_a_region_is_what_is_drawn_less_what_is_ignored(tmp_path: Path) -> None:
    items = [
        Annotation(geometry=shapely.box(0, 0, 10, 10), class_name="Tumor: Positive"),
        Annotation(geometry=shapely.box(5, 0, 15, 10), class_name="tumor"),
        Annotation(geometry=shapely.box(0, 0, 2, 2), class_name="Ignore*"),
        Annotation(geometry=shapely.box(0, 0, 100, 100), kind="tile"),
        Annotation(geometry=shapely.Point(3, 3), class_name="Tumor"),
        Annotation(
            geometry=shapely.Polygon([(20, 0), (30, 10), (30, 0), (20, 10)]),
            class_name="Necrosis",
            children=(Annotation(geometry=shapely.box(40, 0, 41, 1), class_name="Tumor"),),
        ),
    ]
    file = tmp_path / "a.geojson"
    file.write_bytes(annotations_bytes(items))
    assert region_of(file, ("Tumor",)).area == 150 - 4 + 1
    assert region_of(file).area == 150 - 4 + 1 + 50
    assert region_of(file, ("ignore*",)).area == 4
    with pytest.raises(AnnotationError, match=r"expected --annotation-class Stroma, found regions of: Ignore\*, Necro"):
        region_of(file, ("Stroma",))
    file.write_bytes(annotations_bytes([Annotation(geometry=shapely.Polygon([(1, 2), (3, 4), (5, 6)]))]))
    with pytest.raises(AnnotationError, match=r"a\.geojson: annotation of class \(none\) at x 1, y 2 covers nothing"):
        region_of(file)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([32.0, 45.5]))
def test_shares_are_areas(seed: int, side: float) -> None:
    rng = np.random.default_rng(seed)
    rings = [shapely.Polygon(rng.uniform(0, 400, (7, 2))) for _ in range(3)]
    region = shapely.union_all([shapely.make_valid(ring) for ring in rings])
    l0_yx = np.argwhere(np.ones((12, 9), bool)) * side
    l0_yx = l0_yx[rng.permutation(len(l0_yx))[:80]]
    by_hand = [shapely.intersection(region, shapely.box(x, y, x + side, y + side)).area / side**2 for y, x in l0_yx]
    np.testing.assert_allclose(tile_shares(region, l0_yx, side), by_hand, atol=1e-9)


def test_whole_and_half_tiles() -> None:
    region = shapely.difference(shapely.box(0, 0, 100, 45), shapely.box(20, 10, 30, 20))
    found = tile_shares(region, np.array([[0, 0], [10, 20], [40, 50], [50, 50], [10, 15]]), 10)
    assert found.tolist() == [1, 0, 0.5, 0, 0.5]


def test_the_file_of_a_slide_is_found_by_its_id(tmp_path: Path) -> None:
    assert annotation_file(tmp_path, "a") is None
    (tmp_path / "a.geojson.gz").write_bytes(b"")
    assert annotation_file(tmp_path, "a") == tmp_path / "a.geojson.gz"
    (tmp_path / "a.geojson").write_bytes(b"")
    assert annotation_file(tmp_path, "a") == tmp_path / "a.geojson"

"""Regions drawn by hand: GeoJSON and PNG, in the slide's frame, joined with the tissue."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr

from wsi.annotations.regions import read_regions
from wsi.errors import AnnotationError, RecipeMismatchError, RequestError, SlideError
from wsi.store.tile_store import TileStore
from wsi.tiling.options import TileOptions
from wsi.tiling.tiler import tile
from wsi.tissue.mask import fill_holes
from wsi.tissue.roi import roi_file, roi_hash, roi_mask
from wsi.units import YX

SLIDE, OVERVIEW, SCALE = YX(1500, 1900), YX(94, 119), 16.0

SQUARE = [[320, 160], [960, 160], [960, 800], [320, 800], [320, 160]]
HOLE = [[480, 320], [640, 320], [640, 480], [480, 480], [480, 320]]


def feature(geometry: dict[str, Any], classification: Any = None) -> dict[str, Any]:
    properties = {"objectType": "annotation"} | ({"classification": classification} if classification else {})
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def box(x0: int, y0: int, x1: int, y1: int) -> dict[str, Any]:
    return polygon([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])


def polygon(*rings: Sequence[Sequence[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def expected(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(OVERVIEW, np.uint8)
    for x0, y0, x1, y1 in boxes:
        mask[y0 // 16 : y1 // 16, x0 // 16 : x1 // 16] = 1
    return mask


@pytest.mark.parametrize(
    "wrap",
    [
        lambda g: g,
        feature,
        lambda g: {"type": "FeatureCollection", "features": [feature(g)]},
        lambda g: [feature(g)],
        lambda g: {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 2]}, g]},
    ],
    ids=["geometry", "feature", "collection", "list", "geometries"],
)
def test_every_form_of_geojson(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    mask = roi_mask(write(tmp_path / "a.geojson", wrap(polygon(SQUARE, HOLE))), SLIDE, OVERVIEW, SCALE)
    truth = expected((320, 160, 960, 800)) - expected((480, 320, 640, 480))
    assert (mask == truth).all()
    assert not mask[23:28, 33:38].any()
    assert fill_holes(mask)[23:28, 33:38].all()


def test_a_multipolygon_and_points_outside_the_slide(tmp_path: Path) -> None:
    far = [[1700, -5000], [10**12, -5000], [10**12, 10**12], [1700, 10**12], [1700, -5000]]
    file = write(tmp_path / "a.geojson", {"type": "MultiPolygon", "coordinates": [[SQUARE], [far]]})
    mask = roi_mask(file, SLIDE, OVERVIEW, SCALE)
    assert mask[20, 30]
    assert mask[:, 110:].all()
    assert not mask[60:, :100].any()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "cannot be read as GeoJSON"),
        ("[1, 2]", "is not GeoJSON"),
        ('{"a": 1}', "is not GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "found nothing"),
        ('{"type": "Point", "coordinates": [1, 2]}', "found only Point"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}', "at least 3 points"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], ["a", 1], [2, 2]]]}', "at least 3 points"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [NaN, 1], [2, 2]]]}', "at least 3 points"),
        ('{"type": "Polygon"}', "a Polygon: expected coordinates, found None"),
        ('{"type": "MultiPolygon", "coordinates": [7]}', "at least 3 points"),
        ('{"type": "Polygon", "coordinates": [[[9000, 9000], [9900, 9000], [9900, 9900]]]}', "cover nothing"),
    ],
)
def test_bad_geojson_is_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "a.geojson"
    file.write_text(text)
    with pytest.raises((SlideError, AnnotationError), match=problem) as raised:
        roi_mask(file, SLIDE, OVERVIEW, SCALE)
    assert "\n" not in str(raised.value)


def test_qupaths_own_coordinates_are_kept(tmp_path: Path) -> None:
    file = write(tmp_path / "a.geojson", feature(polygon([[0.5, 1.25], [10, 1.25], [10, 7.75], [0.5, 1.25]])))
    [region] = read_regions(file)
    assert region.geometry.exterior.coords[:] == [(0.5, 1.25), (10, 1.25), (10, 7.75), (0.5, 1.25)]


@pytest.mark.parametrize("shape", [(150, 190), (1500, 1900), (75, 95, 3)])
def test_a_png_of_any_size(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = np.zeros(shape, np.uint8)
    picture[: shape[0] // 2, : shape[1] // 4] = 7
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    mask = roi_mask(tmp_path / "a.png", SLIDE, OVERVIEW, SCALE)
    assert mask[:46, :29].all()
    assert not mask[48:].any()
    assert not mask[:, 31:].any()


def test_a_png_of_another_shape_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.ones((190, 150), np.uint8))
    with pytest.raises(SlideError, match="does not have the shape of the slide"):
        roi_mask(tmp_path / "a.png", SLIDE, OVERVIEW, SCALE)


def test_a_map_of_measurements_is_no_drawing(tmp_path: Path) -> None:
    tiles = feature(box(0, 0, 1900, 1500)) | {"properties": {"objectType": "tile"}}
    mask = roi_mask(write(tmp_path / "a.geojson", [tiles, feature(polygon(SQUARE))]), SLIDE, OVERVIEW, SCALE)
    assert (mask == expected((320, 160, 960, 800))).all()
    with pytest.raises(AnnotationError, match="found only tile"):
        read_regions(write(tmp_path / "b.geojson", [tiles]))


def test_a_drawing_in_gzip_and_below_another(tmp_path: Path) -> None:
    parent = feature(box(0, 0, 640, 640), "Tissue")
    parent["properties"]["childObjects"] = [feature(polygon(SQUARE), "Tumor")]
    (tmp_path / "rois").mkdir()
    file = tmp_path / "rois" / "049194_0.geojson.gz"
    file.write_bytes(gzip.compress(json.dumps(parent).encode()))
    mask = roi_mask(roi_file(file.parent, "049194_0"), SLIDE, OVERVIEW, SCALE, ("tumor",))
    assert (mask == expected((320, 160, 960, 800))).all()


def test_the_file_of_a_slide(tmp_path: Path) -> None:
    file = write(tmp_path / "049194_0.geojson", feature(polygon(SQUARE)))
    assert roi_file(tmp_path, "049194_0") == roi_file(file, "other") == file
    with pytest.raises(SlideError, match=r"holds no 049194_1\.geojson"):
        roi_file(tmp_path, "049194_1")
    with pytest.raises(RequestError, match="does not exist"):
        roi_file(tmp_path / "none", "a")
    with pytest.raises(RequestError, match="roi"):
        TileOptions(slides=(file,), out=tmp_path, roi=tmp_path / "none")


def test_a_mask_holds_the_pixels_whose_centres_are_inside(tmp_path: Path) -> None:
    # By hand, at one pixel per pixel: a triangle whose long side passes below the centres of its diagonal's pixels.
    triangle = write(
        tmp_path / "t.geojson", polygon([[0, 0], [4, 0.9], [4, 4.9], [0, 4.9]], [[1, 2], [3, 2], [3, 4], [1, 4]])
    )
    by_hand = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 0], [1, 1, 1, 1, 0]])
    assert roi_mask(triangle, YX(5, 5), YX(5, 5), 1.0).tolist() == by_hand.tolist()
    square = write(tmp_path / "s.geojson", box(160, 320, 1760, 1120))
    found = roi_mask(square, YX(2000, 2000), YX(125, 125), 16.0)
    assert (int(found.any(axis=0).sum()), int(found.any(axis=1).sum())) == (100, 50)
    assert found[20:70, 10:110].all()


@pytest.mark.parametrize("seed", range(6))
def test_masks_agree_with_matplotlib(tmp_path: Path, seed: int) -> None:
    paths = pytest.importorskip("matplotlib.path")
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
    ring = rng.uniform(200, 900, (40, 1)) * np.stack([np.cos(angles), np.sin(angles)], axis=1) + (700, 650)
    mask = roi_mask(write(tmp_path / "a.geojson", polygon(ring.tolist())), SLIDE, OVERVIEW, SCALE)
    y, x = np.mgrid[: OVERVIEW.y, : OVERVIEW.x]
    centres = (np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * SCALE
    assert (mask == paths.Path(ring, closed=False).contains_points(centres).reshape(OVERVIEW)).all()


CLASSES: dict[str, Callable[[str], Any]] = {
    "names": lambda name: {"name": name, "color": [1, 2, 3]},
    "old": lambda name: name,
    "list": lambda name: {"names": name.split(": ")},
}


@pytest.mark.parametrize("form", CLASSES)
def test_ignored_classes_are_cut_out_and_classes_are_chosen(tmp_path: Path, form: str) -> None:
    regions = [
        feature(box(320, 160, 960, 800), CLASSES[form]("Tumor: Positive")),
        feature(box(480, 320, 640, 480), CLASSES[form]("Ignore*")),
        feature(box(1120, 160, 1280, 320), CLASSES[form]("Necrosis")),
        feature(box(1440, 800, 1600, 960), CLASSES[form]("Other*")),
        feature(box(0, 800, 160, 960)),
    ]
    file = write(tmp_path / "a.geojson", {"type": "FeatureCollection", "features": regions})
    tumor = expected((320, 160, 960, 800)) - expected((480, 320, 640, 480))
    necrosis, plain = expected((1120, 160, 1280, 320)), expected((0, 800, 160, 960))
    assert (roi_mask(file, SLIDE, OVERVIEW, SCALE) == tumor + necrosis + plain).all()
    assert (roi_mask(file, SLIDE, OVERVIEW, SCALE, ("tumor",)) == tumor).all()
    assert (roi_mask(file, SLIDE, OVERVIEW, SCALE, ("Tumor: positive", "Necrosis")) == tumor + necrosis).all()
    assert (roi_mask(file, SLIDE, OVERVIEW, SCALE, ("Ignore*",)) == expected((480, 320, 640, 480))).all()
    with pytest.raises(AnnotationError, match=r"expected --roi-class Stroma, found regions of: Ignore\*, Necrosis"):
        roi_mask(file, SLIDE, OVERVIEW, SCALE, ("Stroma",))


def test_regions_of_ignored_classes_alone_are_no_regions(tmp_path: Path) -> None:
    file = write(tmp_path / "a.geojson", feature(polygon(SQUARE), {"name": "Ignore*"}))
    with pytest.raises(AnnotationError, match=r"whose class does not end in \*, found regions of: Ignore\*"):
        roi_mask(file, SLIDE, OVERVIEW, SCALE)
    cv2.imwrite(str(tmp_path / "a.png"), np.ones((150, 190), np.uint8))
    with pytest.raises(SlideError, match="--roi-class needs regions with classes"):
        roi_mask(tmp_path / "a.png", SLIDE, OVERVIEW, SCALE, ("Tumor",))


@pytest.mark.parametrize("empty", [[], [[]]])
def test_empty_parts_of_a_drawing_are_passed_over(tmp_path: Path, empty: list[Any]) -> None:
    parts = {"type": "MultiPolygon", "coordinates": [empty, [SQUARE]]}
    single = {"type": "Polygon", "coordinates": empty}
    file = write(tmp_path / "a.geojson", [feature(parts), feature(single)])
    assert (roi_mask(file, SLIDE, OVERVIEW, SCALE) == expected((320, 160, 960, 800))).all()
    with pytest.raises(AnnotationError, match="expected a Polygon or MultiPolygon, found only an empty Polygon"):
        read_regions(write(tmp_path / "b.geojson", feature(single)))


def test_a_drawing_of_many_points_is_drawn_at_once(tmp_path: Path) -> None:
    # A circle whose line runs back and forth: every edge crosses a row, and none may be counted twice.
    angles = np.linspace(0, 2 * np.pi, 200_000, endpoint=False)
    ring = 500 * np.stack([np.cos(angles), np.sin(angles)], axis=1) + (700, 700)
    ring[1::2] += np.random.default_rng(3).normal(0, 3, (100_000, 2))
    mask = roi_mask(write(tmp_path / "a.geojson", polygon(ring.tolist())), SLIDE, OVERVIEW, SCALE)
    assert abs(mask.sum() * SCALE**2 / (np.pi * 500**2) - 1) < 0.02
    assert mask[43, 43] == 1


def test_a_png_that_is_damaged_is_told_in_one_line_and_by_nobody_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, whole = cv2.imencode(".png", np.random.default_rng(0).integers(0, 2, (150, 190), np.uint8))
    data = whole.tobytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    bad = {"cut short": data[: len(data) // 2], "checksum": bytes(flipped), "short: export": data[:-12]}
    for problem, content in bad.items():
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(SlideError, match=problem):
            roi_mask(tmp_path / "a.png", SLIDE, OVERVIEW, SCALE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("content", "problem"), [(b"", "is empty"), (b"no picture", "cannot be read as a PNG")])
def test_a_png_that_is_none(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(SlideError, match=problem):
        roi_mask(tmp_path / "a.png", SLIDE, OVERVIEW, SCALE)
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((150, 190), np.uint8))
    with pytest.raises(SlideError, match="nothing is drawn"):
        roi_mask(tmp_path / "b.png", SLIDE, OVERVIEW, SCALE)


def test_a_store_inside_its_regions(
    tmp_path: Path, deflate_slide: Path, small_store: TileStore, tiled: Callable[..., TileStore]
) -> None:
    file = write(tmp_path / "r.geojson", feature(polygon([[300, 200], [700, 200], [700, 1400], [300, 1400]])))
    inside = tiled(deflate_slide, tmp_path / "and", roi=file)
    everything = tiled(deflate_slide, tmp_path / "replace", roi=file, roi_mode="replace")
    tissue, found, drawn = (s.tissue_mask()[0] for s in (small_store, inside, everything))
    assert (found == (tissue & drawn)).all()
    assert 0 < found.sum() < min(tissue.sum(), drawn.sum())
    assert 0 < inside.n_tiles < small_store.n_tiles
    assert inside.recipe["roi"] == roi_hash(file)
    assert str(tmp_path) not in json.dumps(inside.recipe)


def test_another_region_is_another_recipe(tmp_path: Path, deflate_slide: Path) -> None:
    folder = tmp_path / "rois"
    folder.mkdir()
    file = write(folder / "049194_0.geojson", feature(polygon(SQUARE)))
    options = TileOptions(slides=(deflate_slide,), out=tmp_path / "out", roi=folder, assume_mpp=0.5, workers=0)
    assert tile(options).exit_code == 0
    write(file, feature(polygon(HOLE)))
    with pytest.raises(RecipeMismatchError, match="roi: found"):
        tile(options)


def drawn_label(store: Path, name: str) -> Path:
    """Draw a label over the right half of a store, in two levels."""
    group = zarr.open_group(store / "labels" / name, mode="w")
    label = np.zeros((300, 380), np.uint16)
    label[:, 190:] = 7
    for level in range(2):
        group.create_array(str(level), data=label[:: 2**level, :: 2**level])
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"datasets": [{"path": "0"}, {"path": "1"}]}]}
    return store / "labels" / name


def test_a_label_of_a_store_says_where_to_look(
    tmp_path: Path, deflate_slide: Path, small_store: TileStore, tiled: Callable[..., TileStore]
) -> None:
    folder = tmp_path / "drawn"
    label = drawn_label(folder / f"{small_store.image_id}.zarr", "roi")
    mask = roi_mask(label, SLIDE, OVERVIEW, SCALE)
    assert not mask[:, :59].any()
    assert mask[:, 60:].all()
    stores = [
        tiled(deflate_slide, tmp_path / str(i), roi=roi) for i, roi in enumerate((folder, label, label.parent.parent))
    ]
    right = small_store.tiles_yx[:, 1] >= 4
    for store in stores:
        assert store.tiles_yx.tolist() == small_store.tiles_yx[right].tolist()
        assert store.recipe["roi"] == roi_hash(label)


def test_a_store_with_several_labels_and_no_roi_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    drawn_label(store, "one")
    assert roi_file(tmp_path, "a") == store / "labels" / "one"
    drawn_label(store, "two")
    with pytest.raises(SlideError, match=r"found 2 \(one, two\)"):
        roi_file(tmp_path, "a")
    (store / "labels" / "bad").mkdir()
    with pytest.raises(SlideError, match="OME-Zarr label"):
        roi_mask(store / "labels" / "bad", SLIDE, OVERVIEW, SCALE)

"""Masks that a person drew: QuPath's GeoJSON, a PNG or a label, as a mask in the overview's frame.

GeoJSON coordinates are level-0 pixels of the slide, (x, y), as QuPath exports them (RFC 7946 for the geometry, not for
its degrees). Rings after the first are holes. A PNG or an OME-Zarr label covers the whole slide, whatever its size;
what is not 0 is used.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.errors import RequestError, SlideError
from wsi.regular import read_regular
from wsi.roi_label import is_label, label_hash, label_of, read_label
from wsi.units import YX

Mask = NDArray[np.uint8]
"""uint8 (h, w), 1 = use, in the overview's frame."""
Ring = NDArray[np.float64]
"""float64 (n, 2), (x, y) level-0 pixels."""

ENDINGS = (".geojson", ".json", ".png")
MODES = ("and", "replace")
_MAX_ASPECT_ERROR = 0.02
_SUBPIXEL_BITS = 4


def roi_file(roi: Path, image_id: str) -> Path:
    """Return what holds a slide's regions: the file or OME-Zarr label itself, or ``<image_id>`` with a known ending.

    Raises
    ------
    RequestError
        The path does not exist, or is a file of another kind.
    SlideError
        The folder holds nothing for this slide.
    """
    if is_label(roi):
        return roi
    if roi.suffix == ".zarr" and roi.is_dir():
        return label_of(roi)
    if roi.is_dir():
        for ending in ENDINGS:
            if (roi / f"{image_id}{ending}").is_file():
                return roi / f"{image_id}{ending}"
        if (roi / f"{image_id}.zarr").is_dir():
            return label_of(roi / f"{image_id}.zarr")
        raise SlideError(
            f"--roi {roi}: holds no {image_id}.geojson, {image_id}.png or {image_id}.zarr: draw one, or leave it out"
        )
    if not roi.is_file():
        raise RequestError(f"--roi {roi} does not exist: expected a GeoJSON, a PNG, or a folder of them")
    if roi.suffix.lower() not in ENDINGS:
        raise RequestError(f"--roi {roi}: expected a file that ends in {', '.join(ENDINGS)}, or a folder of them")
    return roi


def roi_hash(file: Path) -> str:
    """Return the sha256 of the file's bytes, or of the label's."""
    if file.is_dir():
        return label_hash(file)
    return hashlib.sha256(_bytes(file)).hexdigest()


def roi_mask(file: Path, slide_shape: YX, shape: YX, l0_per_o: float) -> Mask:
    """Draw the regions of a file.

    Parameters
    ----------
    file
        GeoJSON, PNG, or the folder of an OME-Zarr label.
    slide_shape
        Level-0 pixels of the slide.
    shape
        Overview pixels.
    l0_per_o
        Level-0 pixels per overview pixel.

    Returns
    -------
    uint8 (h, w), 1 inside.

    Raises
    ------
    SlideError
        The file cannot be used; the message says what was found.
    """
    if file.is_dir():
        return _sampled(read_label(file, max(shape)), file, slide_shape, shape, l0_per_o)
    if file.suffix.lower() == ".png":
        return _png_mask(file, slide_shape, shape, l0_per_o)
    polygons = read_polygons(file)
    mask = np.zeros(shape, np.uint8)
    for rings in polygons:
        # Whole numbers are pixel centres for OpenCV, pixel corners for the overview.
        drawn = [np.rint((ring / l0_per_o - 0.5) * (1 << _SUBPIXEL_BITS)) for ring in rings]
        reach = 1 << 30  # far outside: cut, so that it fits into 32 bits
        drawn = [np.clip(ring, -reach, reach).astype(np.int32) for ring in drawn]
        cv2.fillPoly(mask, drawn, 1, shift=_SUBPIXEL_BITS)
    if not mask.any():
        low, high = (
            np.min([r.min(axis=0) for p in polygons for r in p], axis=0),
            np.max([r.max(axis=0) for p in polygons for r in p], axis=0),
        )
        raise SlideError(
            f"{file}: its regions (x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f}) cover nothing of "
            f"the slide of {slide_shape.x} x {slide_shape.y}: expected level-0 pixels, (x, y)"
        )
    return mask


def _png_mask(file: Path, slide_shape: YX, shape: YX, l0_per_o: float) -> Mask:
    picture = cv2.imdecode(np.frombuffer(_bytes(file), np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise SlideError(f"{file}: cannot be read as a PNG")
    used = picture if picture.ndim == 2 else picture[..., : 3 if picture.shape[2] >= 3 else 1].max(axis=2)
    return _sampled(used, file, slide_shape, shape, l0_per_o)


def _sampled(used: NDArray[Any], file: Path, slide_shape: YX, shape: YX, l0_per_o: float) -> Mask:
    """Sample a picture of the whole slide at the centre of each overview pixel, by nearest neighbour."""
    height, width = used.shape
    found, wanted = width / height, slide_shape.x / slide_shape.y
    slack = _MAX_ASPECT_ERROR + 1 / min(used.shape)
    if abs(found / wanted - 1) > slack:
        raise SlideError(
            f"{file}: {width} x {height} does not have the shape of the slide ({slide_shape.x} x {slide_shape.y}): "
            "expected a mask of the whole slide"
        )
    y = np.minimum((np.arange(shape.y) + 0.5) * l0_per_o * height / slide_shape.y, height - 1).astype(int)
    x = np.minimum((np.arange(shape.x) + 0.5) * l0_per_o * width / slide_shape.x, width - 1).astype(int)
    return (used[np.ix_(y, x)] != 0).astype(np.uint8)


def read_polygons(file: Path) -> list[list[Ring]]:
    """Return the polygons of a GeoJSON, each as its outer ring and its holes.

    Raises
    ------
    SlideError
        Not JSON, not GeoJSON, or without any area.
    """
    try:
        document = json.loads(_bytes(file).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        told = "nested too deeply" if isinstance(error, RecursionError) else error
        raise SlideError(f"{file}: cannot be read as GeoJSON ({told})") from None
    polygons: list[list[Ring]] = []
    other: set[str] = set()
    for geometry in _geometries(document, file):
        kind, coordinates = geometry.get("type"), geometry.get("coordinates")
        if kind in {"Polygon", "MultiPolygon"} and coordinates == []:
            other.add(f"empty {kind}s")
        elif kind == "Polygon":
            polygons.append(_rings(coordinates, file))
        elif kind == "MultiPolygon" and isinstance(coordinates, list):
            polygons += [_rings(part, file) for part in coordinates]
        else:
            other.add(str(kind))
    if not polygons:
        found = f"only {', '.join(sorted(other))}" if other else "nothing"
        raise SlideError(f"{file}: expected a Polygon or MultiPolygon, found {found}")
    return polygons


def _geometries(node: Any, file: Path) -> Iterator[dict[str, Any]]:
    """Yield the single geometries of a FeatureCollection, Feature, list of features or GeometryCollection."""
    if isinstance(node, list):
        for part in node:
            yield from _geometries(part, file)
    elif not isinstance(node, dict) or "type" not in node:
        raise SlideError(f"{file}: is not GeoJSON: expected objects with a type, found {str(node)[:40]!r}")
    elif node["type"] == "FeatureCollection":
        yield from _geometries(node.get("features") or [], file)
    elif node["type"] == "GeometryCollection":
        yield from _geometries(node.get("geometries") or [], file)
    elif node["type"] == "Feature":
        if node.get("geometry") is not None:
            yield from _geometries(node["geometry"], file)
    else:
        yield node


def _rings(coordinates: Any, file: Path) -> list[Ring]:
    try:
        rings = [np.asarray([point[:2] for point in ring], np.float64) for ring in coordinates]
    except (TypeError, ValueError, IndexError, KeyError):
        rings = []
    for ring in rings:
        if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3 or not math.isfinite(float(np.abs(ring).sum())):
            rings = []
            break
    if not rings:
        found = str(coordinates)
        raise SlideError(
            f"{file}: expected a polygon's rings of at least 3 points [x, y] each, found "
            f"{found if len(found) <= 60 else found[:57] + '...'}: export it again"
        )
    return rings


def _bytes(file: Path) -> bytes:
    try:
        return read_regular(file)
    except OSError as error:
        raise SlideError(f"{file}: cannot be read: {error.strerror or error}") from None

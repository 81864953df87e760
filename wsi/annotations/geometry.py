"""GeoJSON's geometries (RFC 7946, not its degrees) as shapely's, checked point by point."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shapely
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from wsi.arrays import Floats
from wsi.errors import one_line

_FARTHEST = 1e15
"""Level-0 pixels from a slide's corner that a point may lie."""
DEEPEST = 32
"""Collections, children and JSON values within each other."""


def geometry_of(value: Any, depth: int = 0) -> BaseGeometry:
    """Return a geometry, empty for none; shapes that cross themselves stay so.

    Raises
    ------
    ValueError
        It is none, or its points are not numbers; what was found is told.
    """
    if value is None:
        return shapely.GeometryCollection()
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "GeometryCollection":
        parts = value.get("geometries")
        if depth >= DEEPEST or not isinstance(parts, list):
            raise ValueError("a GeometryCollection: expected a list of geometries, not nested too deeply")
        return shapely.GeometryCollection([geometry_of(part, depth + 1) for part in parts])
    if not isinstance(kind, str) or kind not in _MAKERS:
        raise ValueError(f"is not GeoJSON: expected a geometry with a type, found {one_line(value, 60)!r}")
    coordinates = value.get("coordinates")
    if not isinstance(coordinates, list):
        raise ValueError(f"a {kind}: expected coordinates, found {one_line(coordinates, 60)}")
    return _MAKERS[kind](coordinates)


def geometry_json(geometry: BaseGeometry) -> dict[str, Any] | None:
    """Return a geometry as GeoJSON values; None for an empty collection, an object without a place."""
    if isinstance(geometry, shapely.GeometryCollection) and geometry.is_empty:
        return None
    return _plain(mapping(geometry))


def _plain(value: Any) -> Any:
    """Return coordinates as lists, whole numbers without a point."""
    if isinstance(value, dict):
        return {name: _plain(own) for name, own in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(own) for own in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _points(value: Any, least: int, what: str) -> Floats:
    """Return float64 (n, 2), or (n, 3) where the file has heights."""
    try:
        points = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.empty((0, 0))
    fits = points.ndim == 2 and points.shape[1] in {2, 3} and len(points) >= least
    if not fits or not (np.abs(points) < _FARTHEST).all():  # NaN, too, is not near
        raise ValueError(f"expected {what} of at least {least} points [x, y], found {one_line(value, 60)}")
    return points


def _ring(value: Any) -> Floats:
    points = _points(value, 3, "a polygon's rings")
    open_ring = len(points) == 3 and (points[0] == points[-1]).all()
    return np.concatenate([points, points[:1]]) if open_ring else points  # a sliver, which shapely refuses


def _point(value: Any) -> shapely.Point:
    return shapely.Point(_points([value], 1, "a position")[0]) if value else shapely.Point()


def _line(value: Any) -> shapely.LineString:
    return shapely.LineString(_points(value, 2, "a line")) if value else shapely.LineString()


def _polygon(value: Any) -> shapely.Polygon:
    if not isinstance(value, list):
        raise ValueError(f"expected a polygon's rings of at least 3 points [x, y], found {one_line(value, 60)}")
    rings = [_ring(ring) for ring in value if ring != []]
    return shapely.Polygon(rings[0], rings[1:]) if rings else shapely.Polygon()


def _several(make: Callable[[Any], Any], whole: Callable[[Sequence[Any]], Any]) -> Callable[[Any], Any]:
    """Return what makes a geometry of many; empty parts are passed over."""
    return lambda value: whole([part for part in map(make, value) if not part.is_empty])


_MAKERS: dict[str, Callable[[Any], BaseGeometry]] = {
    "Point": _point,
    "MultiPoint": _several(_point, shapely.MultiPoint),
    "LineString": _line,
    "MultiLineString": _several(_line, shapely.MultiLineString),
    "Polygon": _polygon,
    "MultiPolygon": _several(_polygon, shapely.MultiPolygon),
}

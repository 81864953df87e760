"""Which drawings count as a region, and how much of each tile lies in it.

Classes that QuPath ignores, whose names end in ``*``, are no regions and are cut out of those that they overlap, unless
they are asked for by name. Of QuPath's objects the tiles and the root are no regions: nobody drew them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsi.annotations.annotation import Annotation, flat
from wsi.annotations.geojson import ENDINGS, read_annotations
from wsi.arrays import Floats
from wsi.errors import AnnotationError, one_line

_NO_REGIONS = ("tile", "root")
"""Kinds of QuPath's objects that nobody drew: a map of measurements, the whole slide."""


def annotation_file(folder: Path, image_id: str) -> Path | None:
    """Return a slide's file in a folder of annotations, ``<image_id>.geojson`` or ``.geojson.gz``; None without one."""
    return next((file for ending in ENDINGS if (file := folder / f"{image_id}{ending}").is_file()), None)


def read_regions(file: Path) -> list[Annotation]:
    """Return what was drawn and covers something.

    Raises
    ------
    AnnotationError
        Not JSON, not GeoJSON, or without any area.
    """
    items = list(flat(read_annotations(file)))
    regions = [item for item in items if item.kind not in _NO_REGIONS and item.polygons]
    if not regions:
        told = {item.kind if item.kind in _NO_REGIONS else _shape(item) for item in items}
        found = f"only {one_line(', '.join(sorted(told)), 200)}" if told else "nothing"
        raise AnnotationError(f"{file}: expected a Polygon or MultiPolygon, found {found}")
    return regions


def _shape(item: Annotation) -> str:
    return f"an empty {item.geometry.geom_type}" if item.geometry.is_empty else str(item.geometry.geom_type)


def chosen(
    regions: Iterable[Annotation], classes: Sequence[str], file: Path, option: str
) -> tuple[list[Annotation], list[Annotation]]:
    """Return the regions that are used, and those that are cut out of them.

    Parameters
    ----------
    classes
        Only regions of these classes; empty for all but those that QuPath ignores.
    option
        Which option named the classes, for the message.

    Raises
    ------
    AnnotationError
        None is used; the message names the classes that there are.
    """
    regions = list(regions)
    used = [item for item in regions if (item.is_one_of(classes) if classes else not item.ignored)]
    if not used:
        found = one_line(", ".join(sorted({item.class_name or "no class" for item in regions})), 200)
        wanted = f"{option} {', '.join(classes)}" if classes else "a region whose class does not end in *"
        raise AnnotationError(f"{file}: expected {wanted}, found regions of: {found}")
    return used, [item for item in regions if item.ignored and not item.is_one_of(classes)]


def region_of(file: Path, classes: Sequence[str] = (), option: str = "--annotation-class") -> BaseGeometry:
    """Return the regions of a file as one valid shape, (x, y) in level-0 pixels; parameters and errors as in `chosen`.

    Rings that cross themselves are taken by the even-odd rule.
    """
    used, ignored = chosen(read_regions(file), classes, file, option)
    return shapely.difference(_union(used, file), _union(ignored, file))


def areas_by_class(file: Path, classes: Sequence[str] = ()) -> tuple[dict[str, BaseGeometry], BaseGeometry]:
    """Return each class's regions as one valid shape, and those of ignored classes, which are cut out of the others.

    Regions without a class belong to none. A region of which a part is asked for (``Tumor`` of ``Tumor: Positive``)
    goes by the name that was asked for.

    Raises
    ------
    AnnotationError
        The file cannot be read, or a region covers nothing.
    """
    items = [item for item in flat(read_annotations(file)) if item.kind not in _NO_REGIONS and item.polygons]
    ignored = _union([item for item in items if item.ignored and not item.is_one_of(classes)], file)
    named: dict[str, list[Annotation]] = {}
    for item in items:
        if name := _wanted_name(item, classes):
            named.setdefault(name, []).append(item)
    return {name: shapely.difference(_union(own, file), ignored) for name, own in sorted(named.items())}, ignored


def _wanted_name(item: Annotation, classes: Sequence[str]) -> str | None:
    if classes:
        return next((name.strip() for name in classes if item.is_one_of([name])), None)
    return None if item.ignored else item.class_name


def _union(items: Sequence[Annotation], file: Path) -> BaseGeometry:
    try:
        return shapely.union_all([item.area() for item in items])
    except AnnotationError as error:
        raise AnnotationError(f"{file}: {error}") from None


def tile_shares(region: BaseGeometry, l0_yx: NDArray[Any], l0_side: float) -> Floats:
    """Return how much of each tile's area lies in a region, (N,) from 0 to 1, exactly.

    Parameters
    ----------
    region
        A valid shape.
    l0_yx
        (N, 2), upper left corners.
    l0_side
        Side of a tile.
    """
    y, x = np.asarray(l0_yx, np.float64).reshape(-1, 2).T
    boxes = shapely.box(x, y, x + l0_side, y + l0_side)
    shapely.prepare(region)
    inside = shapely.contains_properly(region, boxes)
    border = np.flatnonzero(~inside & shapely.intersects(region, boxes))
    shares = inside.astype(np.float64)
    for top in np.unique(y[border]):  # of a region of many points, a row of tiles sees few
        row = border[y[border] == top]
        strip = shapely.intersection(region, shapely.box(x[row].min(), top, x[row].max() + l0_side, top + l0_side))
        shares[row] = shapely.area(shapely.intersection(strip, boxes[row])) / l0_side**2
    return shares

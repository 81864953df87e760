"""QuPath's GeoJSON: annotations read from it, and written so that QuPath, our viewer and we ourselves read them again.

Read are a FeatureCollection, an array of features, one feature or a bare geometry, as text or gzip; measurements as an
object or in the array form of QuPath 0.3; ids, kinds and colours of earlier versions. What is not known is kept in
`Annotation.extra` and written again. Coordinates are level-0 pixels of the slide, (x, y).

Sources: RFC 7946; the type adapters of QuPath 0.2 to 0.6 (`PathObjectTypeAdapters`, `ROITypeAdapters`).
"""

import gzip
import io
import json
import math
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wsi.annotations.annotation import BETWEEN, KINDS, Annotation, RGBColor, flat, new_id
from wsi.annotations.features import features
from wsi.annotations.geometry import DEEPEST, geometry_json, geometry_of
from wsi.errors import AnnotationError, one_line
from wsi.files.atomic import replacing
from wsi.files.documents import read_document
from wsi.files.replace import Mark

__all__ = [
    "MOST_BYTES", "NAMESPACE", "Annotation", "annotations_bytes", "feature_lines", "flat", "new_id",
    "parse_annotations", "read_annotations", "write_geojson",
]  # fmt: skip

ENDINGS = (".geojson", ".geojson.gz", ".json", ".json.gz")
MOST_BYTES = 256 << 20
"""Of a file of annotations, unpacked: some five million points."""
MOST_OBJECTS = 1_000_000
NAMESPACE = uuid.UUID("6f0b3c1e-7c1d-5a0e-9d55-6c1f2f6a9b10")
"""Of the ids that are made of what an object says: the same file gives the same ids."""
_GZIP = b"\x1f\x8b"
_LEGACY = {f"Path{kind.capitalize()}Object": kind for kind in KINDS} | {"TMACoreObject": "tmaCore"}
"""What QuPath 0.2 wrote as the id of every object: its kind."""
_FORMER_ID = "formerId"
"""Where an id that QuPath would not take, or that two objects shared, is kept."""


def read_annotations(path: Path) -> list[Annotation]:
    """Return the annotations of a ``.geojson`` or ``.geojson.gz``; children stand below their parents (`flat`).

    Raises
    ------
    AnnotationError
        There is no such file, or it cannot be read: why, and at which feature, in one line.
    """
    return parse_annotations(read_document(path, AnnotationError, MOST_BYTES), str(path))


def parse_annotations(data: bytes, where: str = "the annotations") -> list[Annotation]:
    """Return the annotations that a file's bytes hold, gzip or not; raises as `read_annotations`, naming ``where``."""
    reader = _Reader(where)
    try:
        text = _unpacked(data).decode("utf-8-sig")
        return [
            reader.item(value, f"feature {number}", f"{number} {raw}", 0)
            for number, (raw, value) in enumerate(features(text), 1)
        ]
    except RecursionError:
        raise AnnotationError(f"{where}: cannot be read as GeoJSON (nested too deeply)") from None
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise AnnotationError(f"{where}: cannot be read as GeoJSON ({one_line(error, 300)})") from None


def annotations_bytes(items: Iterable[Annotation]) -> bytes:
    """Return annotations as a FeatureCollection, a line for each, ASCII."""
    return b"".join(_collection(feature_lines(items)))


def feature_lines(items: Iterable[Annotation]) -> Iterator[bytes]:
    """Yield each annotation as a feature of GeoJSON, for `write_geojson`."""
    for item in items:
        yield json.dumps(_feature(item), allow_nan=False, separators=(",", ":")).encode()


def write_geojson(path: Path, lines: Iterable[bytes], ours: Mark | None = None) -> None:
    """Write features as a FeatureCollection, whole or not at all; gzip where the name ends in ``.gz``.

    Parameters
    ----------
    lines
        Features as `feature_lines` and `wsi.annotations.tile_objects.tile_lines` give them; held one at a time.
    ours
        As in `wsi.files.atomic.replacing`.
    """
    with replacing(path, ours) as temporary, temporary.open("wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                packed.writelines(_collection(lines))
        else:
            file.writelines(_collection(lines))


def _collection(lines: Iterable[bytes]) -> Iterator[bytes]:
    between = b'{"type":"FeatureCollection","features":[\n'
    for line in lines:
        yield between
        yield line
        between = b",\n"
    yield b"\n]}\n" if between == b",\n" else between + b"]}\n"


def _unpacked(data: bytes) -> bytes:
    """Return the text's bytes; of a gzip no more than `MOST_BYTES` are ever unpacked."""
    if not data.startswith(_GZIP):
        return data
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
        text = packed.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
    return text


class _Reader:
    """Makes annotations of features, and sees that no id is given twice."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._ids: set[str] = set()

    def item(self, value: Any, place: str, seed: str, depth: int) -> Annotation:
        """Return a feature or bare geometry as an annotation; ``seed`` is what a missing id is made of."""
        try:
            if not isinstance(value, dict) or "type" not in value:
                raise ValueError(f"is not GeoJSON: expected objects with a type, found {one_line(value, 40)!r}")
            feature = dict(value) if value["type"] == "Feature" else {"geometry": value}
            fields, children = _read_feature(feature)
            if depth > DEEPEST or len(self._ids) >= MOST_OBJECTS:
                raise ValueError(f"expected at most {MOST_OBJECTS:,} objects, {DEEPEST} below each other")
        except ValueError as error:
            raise AnnotationError(f"{self._where}: {place}: {one_line(error, 300)}") from None
        fields["id"] = own = self._id(feature.get("id"), seed, fields["extra"])
        below = [
            self.item(child, f"{place}, child {i}", f"{own} {i}", depth + 1) for i, child in enumerate(children, 1)
        ]
        return Annotation(**fields, children=tuple(below))

    def _id(self, id_: Any, seed: str, extra: dict[str, Any]) -> str:
        """Return an object's own id where that is a UUID that no other has, else one made of what it says."""
        own = _uuid(id_)
        if own is None or own.casefold() in self._ids:
            if id_ is not None and not (isinstance(id_, str) and id_ in _LEGACY):
                extra["feature"] = {_FORMER_ID: id_, **extra.get("feature", {})}
            own = str(uuid.uuid5(NAMESPACE, seed))
        self._ids.add(own.casefold())
        return own


def _uuid(value: Any) -> str | None:
    try:
        return value if isinstance(value, str) and str(uuid.UUID(value)) == value.casefold() else None
    except ValueError:
        return None


def _read_feature(feature: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return the fields of a feature's annotation, and its children as JSON values; else `ValueError`."""
    properties = feature.get("properties")
    if properties is not None and not isinstance(properties, dict):
        raise ValueError(f"expected properties as an object, found {one_line(properties, 60)}")
    left = dict(properties or {})
    children = left.pop("childObjects", None) or []
    if not isinstance(children, list):
        raise ValueError(f"expected childObjects as a list, found {one_line(children, 60)}")
    geometry = feature.get("geometry")
    class_name, class_color, class_extra = _classification(left.pop("classification", None))
    metadata, metadata_extra = _metadata(left)
    fields = {
        "geometry": geometry_of(geometry),
        "kind": _kind(left, feature.get("id")),
        "name": _taken(left, "name", str),
        "class_name": class_name,
        "class_color": class_color,
        "color": _color(left),
        "locked": bool(_taken(left, "isLocked", bool)),
        "measurements": _measurements(left.pop("measurements", None)),
        "metadata": metadata,
    }
    extra = {
        "feature": _without(feature, "type", "id", "geometry", "properties"),
        "geometry": _without(geometry or {}, "type", "coordinates", "geometries"),
        "properties": left,
        "classification": class_extra,
        "metadata": metadata_extra,
    }
    fields["extra"] = {part: members for part, members in extra.items() if members}
    _check_plain(fields["extra"])
    return fields, children


def _without(members: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in members.items() if name not in names}


def _taken(members: dict[str, Any], name: str, kind: type) -> Any:
    """Take a member out where it is of a kind; another, which QuPath would not understand either, stays."""
    if name in members and (members[name] is None or isinstance(members[name], kind)):
        return members.pop(name)
    return None


def _kind(members: dict[str, Any], id_: Any) -> str:
    """Return an object's kind, by the name that each version gave it."""
    found: str | None = None
    for name in ("objectType", "object_type"):
        found = found or _taken(members, name, str)
    if members.get("type") in KINDS:
        found = found or _taken(members, "type", str)
    legacy = _LEGACY.get(id_) if isinstance(id_, str) else None
    return _LEGACY.get(found or "", found) or legacy or "annotation"


def _color(members: dict[str, Any], *names: str) -> RGBColor | None:
    """Take a colour out of its members: three numbers, or one that packs them; other forms stay."""
    for name in names or ("color", "colorRGB"):
        value = members.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**32:
            value = [value >> 16 & 255, value >> 8 & 255, value & 255]
        if isinstance(value, list) and len(value) == 3 and all(type(own) is int and 0 <= own <= 255 for own in value):
            members.pop(name)
            return (value[0], value[1], value[2])
    return None


def _classification(value: Any) -> tuple[str | None, RGBColor | None, dict[str, Any]]:
    """Return a class's name, its colour, and what else is said of it."""
    members = dict(value) if isinstance(value, dict) else {"name": value}
    color = _color(members)
    names = members.pop("names", None) or members.pop("name", None) or []
    names = names if isinstance(names, list) else [names]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected a classification with a name, found {one_line(value, 60)}")
    return BETWEEN.join(names) or None, color, {name: own for name, own in members.items() if own is not None}


def _measurements(value: Any) -> dict[str, float]:
    """Return measurements by name, those without a value left out (QuPath writes NaN for them)."""
    if isinstance(value, list):  # before QuPath 0.4
        named = [own if isinstance(own, dict) and isinstance(own.get("name"), str) else None for own in value]
        value = None if None in named else {own["name"]: own.get("value") for own in named if own}
    elif value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("expected measurements as an object of numbers")
    numbers = {name: _number(own, name) for name, own in value.items() if own is not None}
    return {name: own for name, own in numbers.items() if not math.isnan(own)}


def _number(value: Any, name: str) -> float:
    if isinstance(value, (int, float)) or value in ("NaN", "Infinity", "-Infinity"):  # Gson's words for them
        try:
            return float(value)
        except OverflowError:
            pass
    raise ValueError(f"measurement {name!r}: expected a number, found {one_line(value, 60)!r}")


def _metadata(members: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what is told as text, and what is not."""
    found = _taken(members, "metadata", dict) or {}
    told = {name: value for name, value in found.items() if isinstance(value, str)}
    return told, _without(found, *told)


def _check_plain(value: Any, depth: int = 0) -> None:
    """Raise `ValueError` where JSON values could not be written again: NaN, or nested too deeply."""
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number")
    for own in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_plain(own, depth + 1)


def _feature(item: Annotation) -> dict[str, Any]:
    """Return an annotation as JSON values, in QuPath's order."""
    extra, geometry = item.extra, geometry_json(item.geometry)
    properties: dict[str, Any] = {
        "objectType": item.kind,
        "name": item.name,
        "color": item.color and list(item.color),
        "classification": _class_json(item),
        "isLocked": item.locked or None,
        "measurements": {name: _json_number(value) for name, value in item.measurements.items()},
        "metadata": {**item.metadata, **extra.get("metadata", {})},
        "childObjects": [_feature(child) for child in item.children],
    }
    return {
        "type": "Feature",
        "id": item.id,
        "geometry": geometry and geometry | dict(extra.get("geometry", {})),
        **extra.get("feature", {}),
        "properties": {name: value for name, value in properties.items() if value not in (None, {}, [])}
        | dict(extra.get("properties", {})),
    }


def _class_json(item: Annotation) -> dict[str, Any] | None:
    extra = dict(item.extra.get("classification", {}))
    if item.class_name:
        names = item.class_name.split(BETWEEN)
        extra = ({"names": names} if len(names) > 1 else {"name": item.class_name}) | extra
    return (extra | {"color": list(item.class_color)} if item.class_color else extra) or None


def _json_number(value: float) -> float | int | str | None:
    if not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)

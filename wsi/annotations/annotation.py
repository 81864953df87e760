"""One thing that was drawn on a slide: its shape, its class, and what is told of it."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from wsi.errors import AnnotationError

RGBColor = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
IGNORED = "*"
"""QuPath's mark at the end of a class that is no region."""
KINDS = ("annotation", "detection", "tile", "cell", "tmaCore", "root")
"""QuPath's kinds of objects."""
BETWEEN = ": "
"""What stands between the parts of a derived class (``Tumor: Positive``)."""


def new_id() -> str:
    """Return an id as QuPath wants it, a UUID."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """An object of QuPath's. Shapes are as they were drawn: `area` mends those that cross themselves."""

    geometry: BaseGeometry
    """(x, y) in level-0 pixels of the slide; empty where the object has no place."""
    id: str = field(default_factory=new_id)
    """A UUID."""
    kind: str = "annotation"
    """One of `KINDS`, or what the file said."""
    name: str | None = None
    class_name: str | None = None
    """The parts of a derived class are joined as QuPath shows them: ``Tumor: Positive``."""
    class_color: RGBColor | None = None
    color: RGBColor | None = None
    """Its own, in place of its class's."""
    locked: bool = False
    measurements: Mapping[str, float] = field(default_factory=dict)
    """Never NaN: QuPath says NaN where it has no value."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    children: tuple["Annotation", ...] = ()
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON members that are not ours, by where they stood: feature, geometry, properties, classification, metadata."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class and, of a derived one, its parts behind it; none where it has no class."""
        names = [name.strip() for name in (self.class_name or "").split(":") if name.strip()]
        return (BETWEEN.join(names), *names) if len(names) > 1 else tuple(names)

    @property
    def ignored(self) -> bool:
        """Whether QuPath leaves such a class out."""
        return any(name.endswith(IGNORED) for name in self.classes)

    def is_one_of(self, names: Sequence[str]) -> bool:
        """Tell whether one of the names is its class or a part of it, whatever the case."""
        own = {name.casefold() for name in self.classes}
        return any(name.strip().casefold() in own for name in names)

    @property
    def polygons(self) -> list[shapely.Polygon]:
        """The polygons of the shape as they were drawn, valid or not; none of a point or line."""
        return [part for part in _parts(self.geometry) if isinstance(part, shapely.Polygon) and not part.is_empty]

    def area(self) -> BaseGeometry:
        """Return the polygons as one valid shape; a ring that crosses itself is taken by the even-odd rule.

        Raises
        ------
        AnnotationError
            They cover nothing; the message says where.
        """
        mended = shapely.union_all([part if part.is_valid else shapely.make_valid(part) for part in self.polygons])
        whole = shapely.union_all([part for part in _parts(mended) if isinstance(part, shapely.Polygon)])
        if not whole.area:
            x, y, *_ = self.geometry.bounds or (float("nan"), float("nan"))
            raise AnnotationError(f"{self.told} at x {x:.0f}, y {y:.0f} covers nothing: draw it again")
        return whole

    @property
    def told(self) -> str:
        """Say in a few words which one it is."""
        return " ".join(
            [self.kind, *([repr(self.name)] if self.name else []), f"of class {self.class_name or '(none)'}"]
        )


def flat(items: Iterable[Annotation]) -> Iterator[Annotation]:
    """Yield every object and what lies below it."""
    for item in items:
        yield item
        yield from flat(item.children)


def _parts(geometry: BaseGeometry) -> Iterator[BaseGeometry]:
    if hasattr(geometry, "geoms"):  # shapely's own mark of a collection
        for part in geometry.geoms:
            yield from _parts(part)
    else:
        yield geometry

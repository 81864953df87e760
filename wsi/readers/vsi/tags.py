"""The tags of an Olympus VSI: a tree of volumes behind the TIFF header, and what it says of each picture (stack).

Source: the notes in Bio-Formats' CellSensReader, checked on a file of cellSens 2.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsi.errors import UnreadableSlideError, told_as
from wsi.files.regular import read_regular
from wsi.units import YX

_START = 8
"""Behind the TIFF header."""
_HEADER, _FIELD, _VERSION = struct.Struct("<hhiqI"), struct.Struct("<IiIi"), 21321
_SECOND_TAG, _EXTENDED, _INLINE = 0x08000000, 0x10000000, 0x40000000
_VOLUMES = frozenset({0, 1, 2})
"""Extended types that hold fields of their own."""
_INT_RECT, _DOUBLE_2, _TEXTS = 259, 260, {13: "utf-16-le", 8192: "utf-16-le"}
_STACK, _BOUNDARY, _HAS_FILE = 2001, 2053, 20005
_SCALE, _UNIT, _NAME, _STACK_TYPE, _MAGNIFICATION = 2019, 2020, 2030, 2074, 120060
_MICROMETRES = re.compile(r"^10\^-6m")
_MOST_BYTES, _DEEPEST, _MOST_FIELDS = 1 << 30, 32, 1 << 20


@dataclass(frozen=True, slots=True)
class Field:
    """One value."""

    path: tuple[tuple[int, int], ...]
    """Tags of the volumes around it, each with where it stands in the file."""
    tag: int
    kind: int
    data: bytes
    """Of a value that is written in the field itself, its four bytes."""

    @property
    def text(self) -> str:
        """The value as text, "" where it is none."""
        encoding = _TEXTS.get(self.kind)
        return self.data.decode(encoding, "replace").replace("\0", " ").strip() if encoding else ""

    def doubles(self) -> tuple[float, ...]:
        """Return the value as doubles."""
        return struct.unpack(f"<{len(self.data) // 8}d", self.data[: len(self.data) // 8 * 8])

    def ints(self) -> tuple[int, ...]:
        """Return the value as 32-bit integers."""
        return struct.unpack(f"<{len(self.data) // 4}i", self.data[: len(self.data) // 4 * 4])


@dataclass(frozen=True, slots=True)
class Stack:
    """What a VSI says of one picture whose pixels lie in an ETS file."""

    name: str
    shape: YX
    kind: int
    """0: the slide; others are overviews, macro images, masks."""
    mpp_yx: tuple[float, float] | None
    objective_power: float | None


def read_fields(path: Path) -> list[Field]:
    """Return all values of a VSI.

    Raises
    ------
    UnreadableSlideError
        It is no VSI, or broken.
    """
    with told_as(UnreadableSlideError, "broken VSI"):
        data = read_regular(path, _MOST_BYTES)
        if data[:4] != b"II*\0" or len(data) < _START + _HEADER.size:
            raise UnreadableSlideError("no VSI file: expected the header of a TIFF")
        return list(_fields(data, _START, ()))


def _fields(data: bytes, position: int, path: tuple[tuple[int, int], ...]) -> Iterator[Field]:
    _, version, _, first, flags = _HEADER.unpack_from(data, position)
    if version != _VERSION or len(path) > _DEEPEST:
        raise ValueError(f"expected a volume at byte {position}")
    place = position + first
    for _ in range(min(flags & 0xFFFFFFF, _MOST_FIELDS)):
        bits, tag, following, size = _FIELD.unpack_from(data, place)
        start = place + _FIELD.size + (4 if bits & _SECOND_TAG else 0)
        kind = bits & 0xFFFFFF
        if bits & _EXTENDED and kind in _VOLUMES:
            yield from _fields(data, start, (*path, (tag, place)))
        elif bits & _INLINE:
            yield Field(path, tag, kind, struct.pack("<i", size))
        else:
            yield Field(path, tag, kind, data[start : start + max(0, size)])
        if following <= place - position:  # 0: the last; none goes back
            return
        place = position + following


def stacks(fields: list[Field]) -> tuple[Stack, ...]:
    """Return the pictures whose pixels lie in files of their own, in the file's order.

    Raises
    ------
    UnreadableSlideError
        The tags say nothing that can be.
    """
    by_stack: dict[int, list[Field]] = {}
    for field in fields:
        place = next((at for tag, at in field.path if tag == _STACK), None)
        if place is not None:
            by_stack.setdefault(place, []).append(field)
    with told_as(UnreadableSlideError, "broken VSI"):
        return tuple(stack for own in by_stack.values() if (stack := _stack(own)))


def _stack(fields: list[Field]) -> Stack | None:
    first = {field.tag: field for field in reversed(fields)}
    names = [field.text for field in fields if field.tag == _NAME and field.text]
    boundary, external = first.get(_BOUNDARY), first.get(_HAS_FILE)
    if boundary is None or boundary.kind != _INT_RECT or external is None or not any(external.data):
        return None
    _, _, width, height = boundary.ints()
    if min(width, height) < 1:
        raise ValueError(f"a picture of {width} x {height} px")
    scale = next((own for own in fields if own.tag == _SCALE and own.kind == _DOUBLE_2), None)
    unit, power, kind = (first.get(tag) for tag in (_UNIT, _MAGNIFICATION, _STACK_TYPE))
    in_um = unit is None or _MICROMETRES.match(unit.text.replace(" ", "")) is not None
    x, y = scale.doubles() if scale and in_um else (0.0, 0.0)
    return Stack(
        name=" ".join(names[0].split()) if names else "",
        shape=YX(height, width),
        kind=kind.ints()[0] if kind and len(kind.data) >= 4 else 0,
        mpp_yx=(y, x) if 0 < x < 1e6 and 0 < y < 1e6 else None,
        objective_power=power.doubles()[0] if power and len(power.data) == 8 else None,
    )

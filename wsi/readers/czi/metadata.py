"""What a CZI's XML says that reading needs: scale, objective, significant bits, names of scenes."""

import struct
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

_HEADER, _METADATA_HEADER = 32, 256
_MOST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """The metadata, as far as they are needed."""

    text: str
    """The whole XML, "" where there is none."""
    mpp_yx: tuple[float, float] | None
    objective_power: float | None
    bits: int | None
    """Of a sample, those that carry the picture."""
    names: Mapping[int, str]
    """Of scenes."""


def read_facts(file: BinaryIO, position: int) -> Facts:
    """Read the metadata segment; a file without one tells nothing. Raises anything on broken ones."""
    text = _text(file, position)
    root = ET.fromstring(text) if text else ET.Element("ImageDocument")
    information, scale = root.find("Metadata/Information"), root.find("Metadata/Scaling/Items")
    sides = [_number(scale, f"Distance[@Id='{side}']/Value") for side in "YX"]
    scenes = [] if information is None else information.findall("Image/Dimensions/S/Scenes/Scene")
    bits = _number(information, "Image/ComponentBitCount")
    return Facts(
        text=text,
        mpp_yx=(sides[0] * 1e6, sides[1] * 1e6) if sides[0] and sides[1] else None,
        objective_power=_objective(information),
        bits=int(bits) if bits else None,
        names={
            int(scene.get("Index", "")): " ".join(scene.get("Name", "").split())
            for scene in scenes
            if scene.get("Index", "").isdecimal()
        },
    )


def _text(file: BinaryIO, position: int) -> str:
    if not position:
        return ""
    file.seek(position)
    head = file.read(_HEADER + _METADATA_HEADER)
    if head[:16].rstrip(b"\0") != b"ZISRAWMETADATA":
        raise ValueError("its metadata are not where they should be")
    (size,) = struct.unpack("<i", head[_HEADER : _HEADER + 4])
    data = file.read(min(max(0, size), _MOST_BYTES))
    return data.decode("utf-8").strip("\0 \r\n\ufeff")


def _objective(information: ET.Element | None) -> float | None:
    """Return the nominal magnification of the objective that the scan names, else of the first."""
    if information is None:
        return None
    reference = information.find("Image/ObjectiveSettings/ObjectiveRef")
    objectives = information.findall("Instrument/Objectives/Objective")
    wanted = reference.get("Id") if reference is not None else None
    for objective in sorted(objectives, key=lambda own: own.get("Id") != wanted):
        if power := _number(objective, "NominalMagnification"):
            return power
    return None


def _number(element: ET.Element | None, path: str) -> float | None:
    """Return a positive number below an element, None where there is none."""
    text = element.findtext(path) if element is not None else None
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < 1e9 else None

"""An ICC profile without its words: the tags that tell colours stay, bit by bit; names, dates and serials go.

Of the header stay what decides colours: class, colour spaces, version, intent, illuminant. Maker, model, creator,
platform, date, attributes and the profile's hash are blank. Description and copyright, which a profile must have, are
empty. Little CMS must make the same of the result, or there is no result.

Source: ICC.1:2022, and ICC.1:2001-04 for version 2.
"""

import io
import struct

import numpy as np

from wsi.arrays import RGB
from wsi.errors import SlideError

_TAGS = (
    *(b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC", b"kTRC", b"wtpt", b"bkpt", b"chad", b"chrm", b"gamt"),
    *(b"A2B0", b"A2B1", b"A2B2", b"B2A0", b"B2A1", b"B2A2", b"D2B0", b"D2B1", b"D2B2", b"D2B3"),
    *(b"B2D0", b"B2D1", b"B2D2", b"B2D3", b"lumi"),
)
"""Tags that tell colours."""
_KINDS = frozenset({b"XYZ ", b"curv", b"para", b"sf32", b"mft1", b"mft2", b"mAB ", b"mBA ", b"mpet", b"chrm"})
"""Types of a tag that hold numbers alone."""
_HEADER = 128
_KEPT = ((8, 24), (36, 40), (64, 80))
"""Of the header: version, class, colour space, connection space; signature; rendering intent, illuminant."""
_MOST_TAGS = 200
_STEPS = 9
"""Of each colour, on the grid that is compared."""


def neutral_profile(profile: bytes) -> bytes:
    """Return the profile with what tells its colours and nothing else; nothing for no profile.

    Raises
    ------
    SlideError
        It cannot be parsed, or its colours cannot be kept without its words.
    """
    if not profile:
        return b""
    try:
        header = bytearray(_HEADER)
        for start, stop in _KEPT:
            header[start:stop] = profile[start:stop]
        made = _assembled(header, [*_texts(profile[8] >= 4), *_colours(profile)])
    except (struct.error, IndexError, ValueError) as error:
        raise SlideError(f"its ICC profile cannot be parsed ({error})") from None
    if not _alike(profile, made):
        raise SlideError("the colours of its ICC profile cannot be kept without its texts")
    return made


def _colours(profile: bytes) -> list[tuple[bytes, bytes]]:
    """Return name and data of each tag that tells colours, in the profile's order."""
    (count,) = struct.unpack_from(">I", profile, _HEADER)
    if count > _MOST_TAGS:
        raise ValueError(f"{count} tags")
    found = []
    for i in range(count):
        name, offset, size = struct.unpack_from(">4sII", profile, _HEADER + 4 + 12 * i)
        data = profile[offset : offset + size]
        if len(data) != size:
            raise ValueError("a tag lies outside")
        if name in _TAGS and data[:4] in _KINDS:
            found.append((name, data[:4] + bytes(4) + data[8:]))
    return found


def _texts(version4: bool) -> list[tuple[bytes, bytes]]:
    """Return description and copyright without words, as the version wants them."""
    if version4:
        empty = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 0, 28)
        return [(b"desc", empty), (b"cprt", empty)]
    description = b"desc" + bytes(4) + struct.pack(">I", 1) + bytes(1 + 8 + 3 + 67)
    return [(b"desc", description), (b"cprt", b"text" + bytes(5))]


def _assembled(header: bytearray, tags: list[tuple[bytes, bytes]]) -> bytes:
    """Return the profile of these tags; equal data are stored once, as makers do."""
    table, body, places = b"", b"", dict[bytes, int]()
    start = _HEADER + 4 + 12 * len(tags)
    for name, data in tags:
        if data not in places:
            places[data] = start + len(body)
            body += data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, places[data], len(data))
    header[:4] = struct.pack(">I", start + len(body))
    return bytes(header) + struct.pack(">I", len(tags)) + table + body


def _alike(one: bytes, other: bytes) -> bool:
    """Tell whether Little CMS makes the same sRGB and the same Lab of both, by every rendering intent."""
    steps = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return all(
        np.array_equal(_converted(one, grid, intent, space), _converted(other, grid, intent, space))
        for intent in range(4)
        for space in ("sRGB", "LAB")
    )


def _converted(profile: bytes, grid: RGB, intent: int, space: str) -> RGB:
    from PIL import Image, ImageCms

    mode = "RGB" if space == "sRGB" else space
    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile(space)  # type: ignore[arg-type]
        transform = ImageCms.buildTransform(source, target, "RGB", mode, intent)  # type: ignore[arg-type]
        picture = ImageCms.applyTransform(Image.fromarray(grid, "RGB"), transform)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SlideError(f"its ICC profile cannot be applied ({reason})") from None
    return np.asarray(picture, np.uint8)

"""Small Hamamatsu NDPI files: one JPEG a level, in restart intervals whose places a tag lists.

An NDPI is a classic TIFF with offsets of 64 bits: behind the 12 bytes of each tag's entry the directory has the next
directory's offset in 8, and then for each tag the high 4 bytes of its value or offset.
"""

import io
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from making import RGB
from PIL import Image

SHORT, LONG, RATIONAL, ASCII, SLONG, FLOAT = 3, 4, 5, 2, 9, 11
_FORMS = {SHORT: "H", LONG: "I", SLONG: "i", FLOAT: "f"}
Tag = tuple[int, int, Sequence[float]]


@dataclass
class NdpiPage:
    """One directory and its JPEG."""

    pixels: RGB
    interval: int | None = None
    """Width of a restart interval in pixels; None: the JPEG has none."""
    subsampling: str = "4:4:4"
    lens: float = 20.0
    focal_plane: int = 0
    listed: bool = True
    """Whether the places of the intervals are listed."""
    zero_size: bool = False
    """Whether the JPEG's frame says 0 x 0, as it does where a side is too long for it."""
    mpp: float = 0.5
    jpeg: bytes = b""
    """In place of what is made of the pixels."""
    tags: list[Tag] = field(default_factory=list)

    def encoded(self) -> bytes:
        if self.jpeg:
            return self.jpeg
        unit = 8 if self.subsampling == "4:4:4" else 16
        buffer = io.BytesIO()
        blocks = 0 if self.interval is None else self.interval // unit
        Image.fromarray(self.pixels).save(
            buffer, "jpeg", quality=90, subsampling=self.subsampling, restart_marker_blocks=blocks
        )
        return buffer.getvalue()


def scan_start(jpeg: bytes) -> int:
    """Return where the data of a JPEG's scan start."""
    place = jpeg.index(b"\xff\xda")
    return place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")


def interval_starts(jpeg: bytes) -> list[int]:
    """Return where each restart interval starts, by looking for the markers."""
    start = scan_start(jpeg)
    return [start, *(found.end() for found in re.compile(rb"\xff[\xd0-\xd7]").finditer(jpeg, start))]


def write_ndpi(path: Path, pages: Sequence[NdpiPage]) -> Path:
    """Write directories in their order, each behind its JPEG."""
    data = bytearray(b"II*\0" + struct.pack("<Q", 0))
    link = 4
    for page in pages:
        jpeg = page.encoded()
        starts = interval_starts(jpeg)
        if page.zero_size:
            frame = jpeg.index(b"\xff\xc0")
            jpeg = jpeg[: frame + 5] + bytes(4) + jpeg[frame + 9 :]
        place = len(data)
        data += jpeg
        height, width = page.pixels.shape[:2]
        tags: list[Tag] = [
            (256, LONG, [width]), (257, LONG, [height]), (258, SHORT, [8, 8, 8]), (259, SHORT, [7]),
            (262, SHORT, [6]), (271, ASCII, list(b"Hamamatsu\0")), (273, LONG, [place]), (277, SHORT, [3]),
            (278, LONG, [height]), (279, LONG, [len(jpeg)]), (282, RATIONAL, [round(1e8 / page.mpp), 10_000]),
            (283, RATIONAL, [round(1e8 / page.mpp), 10_000]), (296, SHORT, [3]), (65420, LONG, [1]),
            (65421, FLOAT, [page.lens]), (65422, SLONG, [-100]), (65423, SLONG, [100]),
            (65424, SLONG, [page.focal_plane]), *page.tags,
        ]  # fmt: skip
        if page.listed and len(starts) > 1:
            tags.append((65426, LONG, starts))
        link = _directory(data, link, sorted(tags))
    path.write_bytes(data)
    return path


def _directory(data: bytearray, link: int, tags: Sequence[Tag]) -> int:
    """Append a directory and what does not fit into it; return where the next one's offset belongs."""
    entries, high = bytearray(), bytearray()
    for code, kind, values in tags:
        if kind == ASCII:
            raw, count = bytes(int(v) for v in values), len(values)
        elif kind == RATIONAL:
            raw, count = struct.pack("<2I", *map(int, values)), 1
        else:
            raw, count = struct.pack(f"<{len(values)}{_FORMS[kind]}", *values), len(values)
        if len(raw) > 4:
            place, raw = len(data), raw + bytes(len(raw) % 2)
            data += raw
            raw = struct.pack("<I", place)
        entries += struct.pack("<HHI", code, kind, count) + raw.ljust(4, b"\0")
        high += bytes(4)
    data += bytes(len(data) % 2)
    data[link : link + 8] = struct.pack("<Q", len(data))
    data += struct.pack("<H", len(tags)) + entries
    link = len(data)
    data += bytes(8) + high
    return link


def halved(pixels: RGB) -> RGB:
    return np.asarray(cv2.resize(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 2), interpolation=cv2.INTER_AREA))


def joined(jpegs: Sequence[bytes]) -> bytes:
    """Return JPEGs of one height and equal tables, each without restarts, beside each other as the intervals of one.

    Its frame says 0 x 0: the picture may be wider than a JPEG can say.
    """
    head = jpegs[0][: scan_start(jpegs[0])]
    frame, scan = head.index(b"\xff\xc0"), head.index(b"\xff\xda")
    width = int.from_bytes(head[frame + 7 : frame + 9], "big")
    interval = b"\xff\xdd\0\4" + struct.pack(">H", width // 8)
    head = head[: frame + 5] + bytes(4) + head[frame + 9 : scan] + interval + head[scan:]
    parts = [jpeg[scan_start(jpeg) : -2] + bytes((0xFF, 0xD0 + i % 8)) for i, jpeg in enumerate(jpegs)]
    return head + b"".join(parts)[:-2] + b"\xff\xd9"

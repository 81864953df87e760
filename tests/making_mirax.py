"""Small MIRAX slides: photos that may overlap, cut into JPEG images, packed into data files behind an index.

A coarser level's images are 2 x 2 of the finer one's, made smaller and put beside each other, wherever these lie.
"""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from making import RGB
from PIL import Image

from wsi.units import YX

SLIDE_ID = "0123456789ABCDEF0123456789ABCDEF"


@dataclass
class MiraxSlide:
    """What is written."""

    photos: YX = field(default=YX(3, 4))
    divisions: int = 2
    """Images along a side of a photo."""
    image: YX = field(default=YX(48, 64))
    overlap: YX = field(default=YX(0, 0))
    """Of neighbouring photos, in pixels."""
    shifts: Mapping[tuple[int, int], tuple[int, int]] | None = None
    """How far photos lie from where the overlap puts them; None: their positions are not told."""
    absent: Sequence[tuple[int, int]] = ()
    """Photos that were not taken."""
    levels: int = 3
    packed: bool = False
    """Whether positions are told as newer scanners do it."""
    image_format: str = "JPEG"
    joined: int = 0
    """Level 0's own factor of joining."""
    sections: Mapping[str, str] = field(default_factory=dict)
    """Fields of Slidedat.ini that are something else."""

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Return where a photo lies, in level-0 pixels."""
        dy, dx = (self.shifts or {}).get((row, column), (0, 0))
        step = [side * self.divisions - overlap for side, overlap in zip(self.image, self.overlap, strict=True)]
        return row * step[0] + dy, column * step[1] + dx


def encoded(pixels: RGB) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "jpeg", quality=90, subsampling="4:4:4")
    return buffer.getvalue()


def cut(slide: MiraxSlide, pixels: RGB) -> dict[tuple[int, int], RGB]:
    """Return the images of level 0 by row and column; each photo has a brightness of its own."""
    images = {}
    for row in range(slide.photos.y):
        for column in range(slide.photos.x):
            if (row, column) in slide.absent:
                continue
            y, x = slide.corner(row, column)
            for i in range(slide.divisions):
                for j in range(slide.divisions):
                    top, left = y + i * slide.image.y, x + j * slide.image.x
                    part = pixels[top : top + slide.image.y, left : left + slide.image.x].astype(int)
                    shade = np.clip(part - 9 * ((row * slide.photos.x + column) % 5), 0, 255).astype(np.uint8)
                    images[row * slide.divisions + i, column * slide.divisions + j] = shade
    return images


def coarser(images: Mapping[tuple[int, int], RGB], size: YX, step: int) -> dict[tuple[int, int], RGB]:
    """Return the next level's images, by the row and column of their first image of level 0."""
    found: dict[tuple[int, int], RGB] = {}
    for (row, column), pixels in images.items():
        key = (row // (2 * step) * 2 * step, column // (2 * step) * 2 * step)
        whole = found.setdefault(key, np.full((*size, 3), 255, np.uint8))
        y, x = (row - key[0]) // step * size.y // 2, (column - key[1]) // step * size.x // 2
        whole[y : y + size.y // 2, x : x + size.x // 2] = cv2.resize(
            pixels, (size.x // 2, size.y // 2), interpolation=cv2.INTER_AREA
        )
    return found


def write_mirax(path: Path, slide: MiraxSlide, pixels: RGB) -> Path:
    """Write ``path`` and the folder beside it; ``pixels`` must reach under every photo."""
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(encoded(pixels[::8, ::8]))  # scanners put a small picture there
    data = [bytearray(b"two data files"), bytearray(b"so that their numbers count")]
    images, records, step = cut(slide, pixels), [], 1
    across = slide.photos.x * slide.divisions
    for level in range(slide.levels):
        rows = []
        for (row, column), picture in sorted(images.items()):
            jpeg, number = encoded(picture), (row + column) % 2
            rows.append((row * across + column, len(data[number]), len(jpeg), number))
            data[number] += jpeg
        records.append(rows)
        if level + 1 < slide.levels:
            images, step = coarser(images, slide.image, step), 2 * step
    positions = None
    if slide.shifts is not None:
        told = [
            (0, 0) if (row, column) in slide.absent else slide.corner(row, column)
            for row in range(slide.photos.y)
            for column in range(slide.photos.x)
        ]
        raw = b"".join(struct.pack("<Bii", 0, x, y) for y, x in told)
        raw = zlib.compress(raw) if slide.packed else raw
        positions = (len(data[0]), len(raw), 0)
        data[0] += raw
    for number, content in enumerate(data):
        (folder / f"Data{number:04}.dat").write_bytes(content)
    (folder / "Index.dat").write_bytes(_index(records, positions))
    (folder / "Slidedat.ini").write_text(_ini(slide, positions is not None), "utf-8-sig")
    return path


def _index(records: Sequence[Sequence[tuple[int, ...]]], positions: tuple[int, int, int] | None) -> bytes:
    out = bytearray(b"01.02" + SLIDE_ID.encode() + bytes(8))
    root = len(out) - 8

    def add(*numbers: int) -> int:
        place = len(out)
        out.extend(struct.pack(f"<{len(numbers)}i", *numbers))
        return place

    table = add(*[0] * len(records))
    others = add(0, 0)
    struct.pack_into("<2i", out, root, table, others)
    for level, rows in enumerate(records):
        half = len(rows) // 2  # two pages, one behind the other: OpenSlide reads on without looking where the next is
        second = len(out) + 8 + 16 * half
        first = add(half, second, *(number for row in rows[:half] for number in row))
        add(len(rows) - half, 0, *(number for row in rows[half:] for number in row))
        struct.pack_into("<i", out, table + 4 * level, add(0, first))
    if positions:
        page = add(1, 0, 0, 0, *positions)
        struct.pack_into("<i", out, others + 4, add(0, page))
    return bytes(out)


def _ini(slide: MiraxSlide, told: bool) -> str:
    images = YX(slide.photos.y * slide.divisions, slide.photos.x * slide.divisions)
    name = "StitchingIntensityLayer" if slide.packed else "VIMSLIDE_POSITION_BUFFER"
    lines = [
        "[GENERAL]", "SLIDE_VERSION=01.02", f"SLIDE_ID={SLIDE_ID}", f"IMAGENUMBER_X={images.x}",
        f"IMAGENUMBER_Y={images.y}", "OBJECTIVE_MAGNIFICATION=20", f"CameraImageDivisionsPerSide={slide.divisions}",
        "[HIERARCHICAL]", "HIER_COUNT=1", f"NONHIER_COUNT={2 if told else 0}", "INDEXFILE=Index.dat",
        "HIER_0_NAME=Slide zoom level", f"HIER_0_COUNT={slide.levels}",
        *(f"HIER_0_VAL_{i}_SECTION=LAYER_0_LEVEL_{i}_SECTION" for i in range(slide.levels)),
        *(["NONHIER_0_NAME=Something else", "NONHIER_0_COUNT=1", "NONHIER_0_VAL_0=default"] if told else []),
        *([f"NONHIER_1_NAME={name}", "NONHIER_1_COUNT=1", "NONHIER_1_VAL_0=default"] if told else []),
        "[DATAFILE]", "FILE_COUNT=2", "FILE_0=Data0000.dat", "FILE_1=Data0001.dat",
    ]  # fmt: skip
    for level in range(slide.levels):
        fields = {
            "IMAGE_CONCAT_FACTOR": str(1 if level else slide.joined),
            "OVERLAP_X": str(slide.overlap.x / 2**level),
            "OVERLAP_Y": str(slide.overlap.y / 2**level),
            "MICROMETER_PER_PIXEL_X": str(0.25 * 2**level),
            "MICROMETER_PER_PIXEL_Y": str(0.25 * 2**level),
            "IMAGE_FILL_COLOR_BGR": str(0xF0E8DC),
            "DIGITIZER_WIDTH": str(slide.image.x),
            "DIGITIZER_HEIGHT": str(slide.image.y),
            "IMAGE_FORMAT": slide.image_format,
        } | dict(slide.sections)
        lines += [f"[LAYER_0_LEVEL_{level}_SECTION]", *(f"{key}={value}" for key, value in fields.items())]
    return "\n".join(lines) + "\n"

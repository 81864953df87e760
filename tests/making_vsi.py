"""Small Olympus VSI slides with known content, written byte by byte: a tree of tags, and ETS files beside it."""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from making import RGB
from numpy.typing import NDArray

RAW, JPEG, JPEG_2000, PNG = 0, 2, 3, 8
SIDE = 64
Samples = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass
class Picture:
    """One stack: its levels, each half the one above, and what the tags say of it."""

    levels: Sequence[Samples]
    name: str = "20x"
    compression: int = JPEG
    kind: int = 0
    mpp: float = 0.25
    power: float = 20
    unit: str = "10^-6m^1"
    blue_first: bool = False
    planes: tuple[int, ...] = ()
    """A coordinate for each further dimension."""
    absent: frozenset[tuple[int, int, int]] = frozenset()
    """Level, row and column of tiles that are not stored."""


def write_vsi(path: Path, pictures: Sequence[Picture]) -> Path:
    """Write the .vsi, and one ETS file for each picture."""
    for number, picture in enumerate(pictures):
        folder = path.with_name(f"_{path.stem}_") / f"stack{1 + 10000 * number if number else 1}"
        folder.mkdir(parents=True)
        write_ets(folder / "frame_t.ets", picture)
    tree = _volume([_sub(2000, _volume([_sub(2001, _stack(picture)) for picture in pictures]))])
    thumbnail = io.BytesIO()
    tifffile.imwrite(thumbnail, np.full((32, 32, 3), 255, np.uint8), photometric="rgb", metadata=None)
    path.write_bytes(_moved(thumbnail.getvalue(), tree))
    return path


def _moved(tiff: bytes, tree: bytes) -> bytes:
    """Return a TIFF of one page with the tree between its header and its first directory."""
    shift = len(tree) + len(tree) % 2
    data = bytearray(tiff)
    (at,) = struct.unpack_from("<I", data, 4)
    struct.pack_into("<I", data, 4, at + shift)
    (count,) = struct.unpack_from("<H", data, at)
    for i in range(count):
        tag, kind, n, value = struct.unpack_from("<HHII", data, at + 2 + 12 * i)
        if tag == 273 or n * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}[kind] > 4:
            struct.pack_into("<I", data, at + 10 + 12 * i, value + shift)
    return bytes(data[:8]) + tree.ljust(shift, b"\0") + bytes(data[8:])


def _stack(picture: Picture) -> bytes:
    height, width = picture.levels[0].shape[:2]
    external = _volume(
        [_value(2053, 259, struct.pack("<4i", 0, 0, width, height)), _inline(20004, 5, 13), _inline(20005, 12, 1)]
    )
    properties = _volume(
        [
            _value(2030, 8192, f"{picture.name}\0".encode("utf-16-le")),
            _value(2019, 260, struct.pack("<2d", picture.mpp, picture.mpp)),
            _value(2020, 13, picture.unit.encode("utf-16-le")),
            _inline(2074, 5, picture.kind),
            _set(2043, _volume([_value(120060, 10, struct.pack("<d", picture.power))])),
        ]
    )
    return _volume([_sub(2002, _volume([_set(2018, external)])), _set(2005, properties)])


def _volume(fields: Sequence[tuple[int, int, int, bytes]]) -> bytes:
    out, place = struct.pack("<hhiqi4x", 24, 21321, 1, 24, len(fields)), 24
    for number, (bits, tag, size, data) in enumerate(fields):
        place += 16 + len(data)
        out += struct.pack("<IiIi", bits, tag, 0 if number == len(fields) - 1 else place, size) + data
    return out


def _value(tag: int, kind: int, data: bytes) -> tuple[int, int, int, bytes]:
    return kind, tag, len(data), data


def _inline(tag: int, kind: int, value: int) -> tuple[int, int, int, bytes]:
    return kind | 0x40000000, tag, value, b""


def _set(tag: int, data: bytes) -> tuple[int, int, int, bytes]:
    return 0x90000001, tag, 0, data


def _sub(tag: int, data: bytes) -> tuple[int, int, int, bytes]:
    return 0x98000000, tag, len(data), struct.pack("<i", 0) + data


def encode(tile: Samples, compression: int) -> bytes:
    if compression == JPEG:
        return bytes(imagecodecs.jpeg8_encode(tile, level=95, subsampling="422" if tile.ndim == 3 else None))
    if compression == JPEG_2000:
        return bytes(imagecodecs.jpeg2k_encode(tile, codecformat="jp2", reversible=True, mct=tile.ndim == 3))
    return tile.tobytes()


def write_ets(path: Path, picture: Picture) -> None:
    """Write tiles behind the two headers, then their index."""
    first = picture.levels[0]
    samples, kind = (3 if first.ndim == 3 else 1), (2 if first.itemsize == 1 else 4)
    n_dimensions = 3 + len(picture.planes)
    entries, tiles = b"", b""
    for number, level in enumerate(picture.levels):
        padded = np.pad(level, [(0, -side % SIDE) for side in level.shape[:2]] + [(0, 0)] * (level.ndim - 2), "edge")
        for row in range(padded.shape[0] // SIDE):
            for column in range(padded.shape[1] // SIDE):
                if (number, row, column) in picture.absent:
                    continue
                tile = padded[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
                payload = encode(
                    np.ascontiguousarray(tile[..., ::-1] if picture.blue_first else tile), picture.compression
                )
                at = struct.pack(f"<{n_dimensions}i", column, row, *picture.planes, number)
                entries += struct.pack("<i", 0) + at + struct.pack("<qii", 288 + len(tiles), len(payload), 0)
                tiles += payload
    count = len(entries) // (20 + 4 * n_dimensions)
    head = struct.pack("<4siiiqi4xqi4x", b"SIS\0", 64, 2, n_dimensions, 64, 228, 288 + len(tiles), count)
    more = struct.pack("<4siiiiiiiii", b"ETS\0", 0x30001, kind, samples, 4, picture.compression, 90, SIDE, SIDE, 1)
    more = more.ljust(108, b"\0") + b"\xff" * 40 + struct.pack("<ii", picture.blue_first, 1)
    path.write_bytes(head.ljust(64, b"\0") + more.ljust(224, b"\0") + tiles + entries)


def halves(pixels: RGB, count: int = 3) -> list[RGB]:
    """Return a picture and every other pixel of it, again and again."""
    return [np.ascontiguousarray(pixels[:: 2**i, :: 2**i]) for i in range(count)]

"""Small Zeiss CZI files with known content, written byte by byte: also what Zeiss's own writer cannot write."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
from making import RGB
from numpy.typing import NDArray

RAW, JPEG, JPEG_XR, ZSTD, ZSTD_PACKED = 0, 1, 4, 5, 6
Samples = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass
class Block:
    """One subblock: stored samples, (h, w, 3) RGB or (h, w) grey, and where it lies."""

    pixels: Samples
    y: int
    x: int
    factor: int = 1
    """How many pixels of the slide one that is stored stands for."""
    compression: int = RAW
    mosaic: int | None = None
    scene: int | None = None
    planes: Mapping[str, int] = field(default_factory=lambda: {"C": 0})
    size: tuple[int, int] | None = None
    """Pixels of the slide that it covers, where these are not its stored ones times the factor."""


def encode(pixels: Samples, compression: int) -> bytes:
    if compression == JPEG_XR:
        return bytes(imagecodecs.jpegxr_encode(pixels, level=1.0))  # without loss
    if compression == JPEG:
        return bytes(imagecodecs.jpeg8_encode(pixels, level=95))
    stored = np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels).tobytes()
    if compression == ZSTD:
        return bytes(imagecodecs.zstd_encode(stored, 3))
    if compression == ZSTD_PACKED:
        apart = np.frombuffer(stored, np.uint8).reshape(-1, pixels.itemsize).T.tobytes()
        return bytes((3, 1, pixels.itemsize - 1)) + bytes(imagecodecs.zstd_encode(apart, 3))
    return stored


def write_czi(path: Path, blocks: Sequence[Block], xml: str = "", coder: Callable[..., bytes] = encode) -> Path:
    """Write header, subblocks, metadata and directory."""
    parts: list[bytes] = []
    entries = []
    position = 544

    def add(kind: bytes, data: bytes) -> int:
        nonlocal position
        start, allocated = position, -(-len(data) // 32) * 32
        parts.append(struct.pack("<16sqq", kind, allocated, len(data)) + data.ljust(allocated, b"\0"))
        position += 32 + allocated
        return start

    for block in blocks:
        entry = _entry(block, position)
        payload = coder(block.pixels, block.compression)
        before = (struct.pack("<iiq", 0, 0, len(payload)) + entry).ljust(256, b"\0")
        assert add(b"ZISRAWSUBBLOCK", before + payload) == struct.unpack_from("<q", entry, 6)[0]
        entries.append(entry)
    text = xml.encode()
    metadata = add(b"ZISRAWMETADATA", struct.pack("<ii", len(text), 0).ljust(256, b"\0") + text) if xml else 0
    directory = add(b"ZISRAWDIRECTORY", struct.pack("<i", len(entries)).ljust(128, b"\0") + b"".join(entries))
    guid = bytes(range(16))
    head = struct.pack("<iiii16s16siqqiq", 1, 0, 0, 0, guid, guid, 0, directory, metadata, 0, 0).ljust(512, b"\0")
    path.write_bytes(struct.pack("<16sqq", b"ZISRAWFILE", 512, 512) + head + b"".join(parts))
    return path


def _entry(block: Block, position: int) -> bytes:
    height, width = block.pixels.shape[:2]
    down, across = block.size or (height * block.factor, width * block.factor)
    sides = {"X": (block.x, across, width), "Y": (block.y, down, height)}
    sides |= {name: (start, 1, 1) for name, start in block.planes.items()}
    sides |= {name: (at, 1, 1) for name, at in (("M", block.mosaic), ("S", block.scene)) if at is not None}
    pixel_type = {(2, 1): 0, (2, 2): 1, (3, 1): 3, (3, 2): 4}[block.pixels.ndim, block.pixels.itemsize]
    head = struct.pack("<2siqiiB5xi", b"DV", pixel_type, position, 0, block.compression, block.factor > 1, len(sides))
    return head + b"".join(
        struct.pack("<4siifi", name.encode(), start, size, 0.0, stored) for name, (start, size, stored) in sides.items()
    )


def metadata(mpp: float = 0.25, power: float = 20, bits: int = 8, names: Sequence[str] = ()) -> str:
    """Return such XML as ZEN writes, as far as it matters."""
    scenes = "".join(f'<Scene Index="{i}" Name="{name}"/>' for i, name in enumerate(names))
    distances = "".join(f'<Distance Id="{side}"><Value>{mpp / 1e6!r}</Value></Distance>' for side in "XY")
    return (
        f"<ImageDocument><Metadata><Information><Image><ComponentBitCount>{bits}</ComponentBitCount>"
        f'<ObjectiveSettings><ObjectiveRef Id="Objective:2"/></ObjectiveSettings><Dimensions><S><Scenes>{scenes}'
        '</Scenes></S></Dimensions></Image><Instrument><Objectives><Objective Id="Objective:1"><NominalMagnification>'
        '5</NominalMagnification></Objective><Objective Id="Objective:2"><NominalMagnification>'
        f"{power}</NominalMagnification></Objective></Objectives></Instrument></Information><Scaling><Items>{distances}"
        "</Items></Scaling></Metadata></ImageDocument>"
    )


def tiled(
    pixels: Samples, side: int = 128, at: tuple[int, int] = (0, 0), factor: int = 1, **options: object
) -> list[Block]:
    """Cut a picture into subblocks that form a grid; the slide's pixel ``at`` is its corner."""
    return [
        Block(
            pixels[y : y + side, x : x + side],
            at[0] + y * factor,
            at[1] + x * factor,
            factor,
            **options,  # type: ignore[arg-type]
        )
        for y in range(0, pixels.shape[0], side)
        for x in range(0, pixels.shape[1], side)
    ]


def overlapping(pixels: RGB, side: int = 120, pitch: int = 97, **options: object) -> tuple[list[Block], RGB]:
    """Cut a picture into frames that overlap, each a little lighter or darker; return them and what shows."""
    blocks: list[Block] = []
    shown = np.full_like(pixels, 255)
    for y in range(0, pixels.shape[0], pitch):
        for x in range(0, pixels.shape[1], pitch):
            frame = np.clip(pixels[y : y + side, x : x + side].astype(int) + len(blocks) % 7 * 4 - 12, 0, 255)
            blocks.append(Block(frame.astype(np.uint8), y, x, mosaic=len(blocks), **options))  # type: ignore[arg-type]
            shown[y : y + side, x : x + side] = frame
    return blocks, shown

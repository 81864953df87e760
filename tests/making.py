"""Small slides with known content, made by the tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from wsi.units import YX

SEED = 20240817

RGB = NDArray[np.uint8]


def picture(height: int = 1500, width: int = 1900, seed: int = SEED) -> RGB:
    """Return a grey-white slide with two pieces of purple, textured "tissue", uint8 (h, w, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    tissue = ((y - 0.35 * height) / (0.25 * height)) ** 2 + ((x - 0.3 * width) / (0.2 * width)) ** 2 < 1
    tissue |= ((y - 0.7 * height) / (0.15 * height)) ** 2 + ((x - 0.75 * width) / (0.12 * width)) ** 2 < 1
    out = np.full((height, width, 3), (236, 238, 237), np.uint8)
    texture = rng.integers(-30, 30, (height, width, 1)) + (25 * np.sin(x / 7) * np.cos(y / 5))[..., None]
    stained = np.clip(np.array([150, 80, 160]) + texture, 0, 255).astype(np.uint8)
    out[tissue] = stained[tissue]
    return out


def write_deflate(path: Path, pixels: RGB, tile_px: int = 128, **options: object) -> Path:
    """Write a single-level TIFF in the STRIP AI form."""
    kwargs = {"resolution": (1 / 25.4, 1 / 25.4), "resolutionunit": "MILLIMETER"} | options
    tifffile.imwrite(
        path, pixels, photometric="rgb", compression="adobe_deflate", tile=(tile_px, tile_px), metadata=None, **kwargs
    )
    return path


def write_pyramid(path: Path, pixels: RGB, mpp: float = 0.5, levels: int = 3, **options: object) -> Path:
    """Write a pyramidal TIFF with 256-px JPEG tiles and a true resolution tag."""
    settings = {
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"outcolorspace": "ycbcr", "level": 90},
        "tile": (256, 256),
        "metadata": None,
    } | options
    with tifffile.TiffWriter(path) as tiff:
        for level in range(levels):
            per_cm = 1e4 / (mpp * 2**level)
            shrunk = pixels[:: 2**level, :: 2**level]
            tiff.write(
                shrunk,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                **settings,
            )
    return path


def write_own_levels(path: Path, pixels: RGB, shapes: Sequence[YX], side: int = 64) -> Path:
    """Write an Aperio slide of 0.5 um/px with levels of those sizes, each averaged, in JPEG tiles."""
    jpeg: dict[str, Any] = {
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"outcolorspace": "ycbcr", "level": 90},
    }
    with tifffile.TiffWriter(path) as tiff:
        for number, shape in enumerate(shapes):
            factor = round(pixels.shape[1] / shape.x)
            whole = pixels[: shape.y * factor, : shape.x * factor]
            shown = cv2.resize(np.ascontiguousarray(whole), shape[::-1], interpolation=cv2.INTER_AREA)
            about = f"Aperio Image Library\r\n{shape.x}x{shape.y}|AppMag = 20|MPP = 0.5"
            tiff.write(shown, tile=(side, side), description=about, metadata=None, **jpeg)
            if not number:  # as the second page Aperio writes a thumbnail
                tiff.write(shown[::32, ::32], description="Aperio Image Library", metadata=None, **jpeg)
    return path


def spoil_tile(path: Path, index: int) -> None:
    """Zero one tile's bytes."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * count)


def write_ome_zarr(path: Path) -> Path:
    """Write an OME-Zarr 0.5 slide as another program would."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = group.create_array("0", shape=(3, 600, 700), chunks=(3, 256, 256), dtype="uint8")
    array[:] = picture(600, 700).transpose(2, 0, 1)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    return path

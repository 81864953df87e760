"""Masks that a person drew: QuPath's GeoJSON, a PNG or a label, as a mask in the overview's frame.

GeoJSON coordinates are level-0 pixels of the slide, (x, y), as QuPath exports them (RFC 7946 for the geometry, not for
its degrees). Rings after the first are holes. Classes that QuPath ignores, whose names end in ``*``, are no regions and
are cut out of those that they overlap, unless they are asked for by name. A PNG or an OME-Zarr label covers the whole
slide, whatever its size; what is not 0 is used. A pixel of the mask is inside where its centre is.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from shapely import total_bounds

from wsi.annotations.annotation import Annotation
from wsi.annotations.geojson import ENDINGS as GEOJSON
from wsi.annotations.geojson import MOST_BYTES
from wsi.annotations.regions import chosen, read_regions
from wsi.arrays import Floats, Ints, Mask
from wsi.errors import RequestError, SlideError
from wsi.files.documents import read_document
from wsi.tissue.roi_label import is_label, label_hash, label_of, read_label
from wsi.units import YX

Ring = Floats
"""float64 (n, 2), (x, y) level-0 pixels."""

ENDINGS = (*GEOJSON, ".png")
MODES = ("and", "replace")
_MAX_ASPECT_ERROR = 0.02
_MOST_PICTURE = 1 << 30
"""Bytes of a PNG's picture; OpenCV's own bound is eight times as much."""
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""By a PNG's type of colour."""
_CROSSINGS = 4_000_000
"""Crossings of edges and pixel rows that are held at once."""


def roi_file(roi: Path, image_id: str) -> Path:
    """Return what holds a slide's regions: the file or OME-Zarr label itself, or ``<image_id>`` with a known ending.

    Raises
    ------
    RequestError
        The path does not exist, or is a file of another kind.
    SlideError
        The folder holds nothing for this slide.
    """
    if is_label(roi):
        return roi
    if roi.suffix == ".zarr" and roi.is_dir():
        return label_of(roi)
    if roi.is_dir():
        for ending in ENDINGS:
            if (roi / f"{image_id}{ending}").is_file():
                return roi / f"{image_id}{ending}"
        if (roi / f"{image_id}.zarr").is_dir():
            return label_of(roi / f"{image_id}.zarr")
        raise SlideError(
            f"--roi {roi}: holds no {image_id}.geojson, {image_id}.png or {image_id}.zarr: draw one, or leave it out"
        )
    if not roi.is_file():
        raise RequestError(f"--roi {roi} does not exist: expected a GeoJSON, a PNG, or a folder of them")
    if not roi.name.lower().endswith(ENDINGS):
        raise RequestError(f"--roi {roi}: expected a file that ends in {', '.join(ENDINGS)}, or a folder of them")
    return roi


def roi_hash(file: Path) -> str:
    """Return the sha256 of the file's bytes, or of the label's."""
    if file.is_dir():
        return label_hash(file)
    return hashlib.sha256(_bytes(file)).hexdigest()


def roi_mask(file: Path, slide_shape: YX, shape: YX, l0_per_o: float, classes: Sequence[str] = ()) -> Mask:
    """Draw the regions of a file.

    Parameters
    ----------
    file
        GeoJSON, PNG, or the folder of an OME-Zarr label.
    slide_shape
        Level-0 pixels of the slide.
    shape
        Overview pixels.
    l0_per_o
        Level-0 pixels per overview pixel.
    classes
        Of a GeoJSON, only regions of these classes; empty for all but those that QuPath ignores.

    Returns
    -------
    uint8 (h, w), 1 inside.

    Raises
    ------
    SlideError
        The file cannot be used; the message says what was found.
    AnnotationError
        The same, of a GeoJSON.
    """
    if file.is_dir() or file.suffix.lower() == ".png":
        if classes:
            raise SlideError(f"{file}: --roi-class needs regions with classes: expected a GeoJSON")
        picture = read_label(file, max(shape)) if file.is_dir() else _read_png(file)
        mask = _sampled(picture, file, slide_shape, shape, l0_per_o)
        if not mask.any():
            raise SlideError(f"{file}: nothing is drawn in it: expected values that are not 0 inside the regions")
        return mask
    used, ignored = chosen(read_regions(file), classes, file, "--roi-class")
    mask = np.zeros(shape, np.uint8)
    for rings in chain.from_iterable(map(_rings, used)):
        _fill(mask, rings, l0_per_o, 1)
    if not mask.any():
        x0, y0, x1, y1 = total_bounds([region.geometry for region in used])
        raise SlideError(
            f"{file}: its regions (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}) cover nothing of "
            f"the slide of {slide_shape.x} x {slide_shape.y}: expected level-0 pixels, (x, y)"
        )
    for rings in chain.from_iterable(map(_rings, ignored)):
        _fill(mask, rings, l0_per_o, 0)
    return mask


def _fill(mask: Mask, l0_rings: Sequence[Ring], l0_per_o: float, value: int) -> None:
    """Set the pixels whose centres lie inside, by the even-odd rule over all rings; of edges, the left and upper count.

    Every edge is crossed with the rows' centre lines, and pixels right of a crossing change sides: linear in points.
    """
    h, w = mask.shape
    # In pixels, less half: whole numbers are centres.
    rings = [ring / l0_per_o - 0.5 for ring in l0_rings]
    x0, y0 = (math.ceil(min(max(min(ring[:, i].min() for ring in rings), 0), side)) for i, side in ((0, w), (1, h)))
    x1, y1 = (math.ceil(min(max(max(ring[:, i].max() for ring in rings), 0), side)) for i, side in ((0, w), (1, h)))
    if x1 <= x0 or y1 <= y0:
        return
    flips = np.zeros((y1 - y0) * (x1 - x0 + 1), np.int64)
    for ring in rings:
        for rows, columns in _crossings(ring - (x0, y0), y1 - y0, x1 - x0):
            flips += np.bincount(rows * (x1 - x0 + 1) + columns, minlength=flips.size)
    odd = np.cumsum(flips.reshape(y1 - y0, -1), axis=1)[:, :-1] % 2 == 1
    mask[y0:y1, x0:x1][odd] = value


def _crossings(ring: Ring, height: int, width: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield rows, and the first columns at or right of where the ring crosses their centre lines, in bounded parts."""
    start, end = ring, np.roll(ring, -1, axis=0)
    first = np.clip(np.ceil(np.minimum(start[:, 1], end[:, 1])), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(start[:, 1], end[:, 1])), 0, height).astype(np.int64)
    count = last - first
    part = np.cumsum(count) // _CROSSINGS
    for number in range(int(part[-1]) + 1):
        edges = np.flatnonzero((part == number) & (count > 0))
        if not edges.size:
            continue
        edge = np.repeat(edges, count[edges])
        rows = np.arange(edge.size) - np.repeat(np.cumsum(count[edges]) - count[edges], count[edges]) + first[edge]
        slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
        x = start[edge, 0] + (rows - start[edge, 1]) * slope
        yield rows, np.clip(np.ceil(x), 0, width).astype(np.int64)


def _read_png(file: Path) -> NDArray[Any]:
    data = _bytes(file)
    if not data:
        raise SlideError(f"{file}: is empty (0 bytes): export it again")
    _check_png(file, data)
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # more pixels than OpenCV allows
        picture = None
    if picture is None:
        raise SlideError(f"{file}: cannot be read as a PNG")
    return picture if picture.ndim == 2 else picture[..., : 3 if picture.shape[2] >= 3 else 1].max(axis=2)


def _check_png(file: Path, data: bytes) -> None:
    """Raise `SlideError` unless it is a PNG whose picture may be held in memory."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 26:
        raise SlideError(f"{file}: cannot be read as a PNG")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    size = width * height * _CHANNELS.get(colour, 4) * (bits + 7) // 8
    if not 0 < size <= _MOST_PICTURE:
        raise SlideError(f"{file}: a PNG of {width} x {height}: expected a picture of at most {_MOST_PICTURE:,} bytes")
    # Looked at here: libpng and OpenCV would say it on the screen, and of no file.
    position, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[position : position + 8].ljust(8, b"\0"))
        stop = position + 12 + length
        if stop > len(data):
            raise SlideError(f"{file}: a PNG that is cut short: export it again")
        if zlib.crc32(data[position + 4 : stop - 4]) != int.from_bytes(data[stop - 4 : stop], "big"):
            raise SlideError(f"{file}: a damaged PNG: the checksum of a part of it does not fit: export it again")
        position = stop


def _sampled(used: NDArray[Any], file: Path, slide_shape: YX, shape: YX, l0_per_o: float) -> Mask:
    """Sample a picture of the whole slide at the centre of each overview pixel, by nearest neighbour."""
    height, width = used.shape
    found, wanted = width / height, slide_shape.x / slide_shape.y
    slack = _MAX_ASPECT_ERROR + 1 / min(used.shape)
    if abs(found / wanted - 1) > slack:
        raise SlideError(
            f"{file}: {width} x {height} does not have the shape of the slide ({slide_shape.x} x {slide_shape.y}): "
            "expected a mask of the whole slide"
        )
    y = np.minimum((np.arange(shape.y) + 0.5) * l0_per_o * height / slide_shape.y, height - 1).astype(int)
    x = np.minimum((np.arange(shape.x) + 0.5) * l0_per_o * width / slide_shape.x, width - 1).astype(int)
    return (used[np.ix_(y, x)] != 0).astype(np.uint8)


def _rings(region: Annotation) -> list[list[Ring]]:
    """Return each polygon's rings, the outer one first."""
    return [[np.array(ring.coords)[:, :2] for ring in (part.exterior, *part.interiors)] for part in region.polygons]


def _bytes(file: Path) -> bytes:
    return read_document(file, SlideError, MOST_BYTES)

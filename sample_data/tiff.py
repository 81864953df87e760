"""Write a painted slide as a tiled TIFF, a band of blocks at a time: memory does not grow with the slide's height.

Two forms: STRIP AI's (one level, 128-px tiles, Adobe deflate, a resolution tag that says nothing) and a JPEG pyramid
(256-px tiles, every level a quarter of the one before, true um/px) that OpenSlide opens as a generic tiled TIFF.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile

from sample_data.paint import Painter
from sample_data.spec import MPP, SlideSpec
from sample_data.texture import BLOCK_PX
from wsi.arrays import RGB

DEFLATE_TILE_PX = 128
JPEG_TILE_PX = 256
PLACEHOLDER_DPI = 25.4
"""STRIP AI's resolution tag: one pixel per millimetre, which is not true."""

_DEFLATE_LEVEL = 1
_JPEG_QUALITY = 85
_SHRINK = 4
_SMALLEST_LEVEL_PX = 512
_CLASSIC_LIMIT_BYTES = 3_500_000_000

_Encode = Callable[[RGB], bytes]
_Rows = list[list[bytes]]
"""Rows of compressed tiles."""


def write_slide(path: Path, painter: Painter, spec: SlideSpec, threads: int = 1) -> None:
    """Write the slide to ``path``, ``threads`` blocks at a time; the bytes do not depend on their number."""
    bigtiff = spec.bigtiff or spec.height_px * spec.width_px * 3 > _CLASSIC_LIMIT_BYTES
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as file, ThreadPoolExecutor(threads) as pool:
        if spec.kind == "deflate":
            _write_deflate(file, painter, spec, pool)
        else:
            _write_pyramid(file, painter, spec, pool)


def _write_deflate(file: tifffile.TiffWriter, painter: Painter, spec: SlideSpec, pool: ThreadPoolExecutor) -> None:
    rows = (tiles for tiles, _ in _bands(painter, spec, pool, _deflate, DEFLATE_TILE_PX))
    dpi = {"resolution": (PLACEHOLDER_DPI, PLACEHOLDER_DPI), "resolutionunit": "INCH"}
    _write_level(file, rows, (spec.height_px, spec.width_px), DEFLATE_TILE_PX, compression="adobe_deflate", **dpi)


def _write_pyramid(file: tifffile.TiffWriter, painter: Painter, spec: SlideSpec, pool: ThreadPoolExecutor) -> None:
    shapes = _level_shapes(spec.height_px, spec.width_px)
    coarser = _Coarser(shapes[1:], painter.background)
    for level, shape in enumerate(shapes):
        rows = coarser.rows_of(level - 1) if level else coarser.fed_by(_bands(painter, spec, pool, _jpeg, JPEG_TILE_PX))
        per_cm = 10_000 / (MPP * spec.width_px / shape[1])
        more = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER", "subfiletype": 1 if level else 0}
        _write_level(file, rows, shape, JPEG_TILE_PX, compression="jpeg", **more)


def _write_level(
    file: tifffile.TiffWriter, bands: Iterable[_Rows], shape: tuple[int, int], tile_px: int, **tags: Any
) -> None:
    """Write a level's tiles row by row, leaving out rows that lie wholly below the image."""
    rows = islice(chain.from_iterable(bands), -(-shape[0] // tile_px))
    file.write(
        chain.from_iterable(rows),
        shape=(*shape, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(tile_px, tile_px),
        metadata=None,
        **tags,
    )


def _deflate(tile: RGB) -> bytes:
    return bytes(imagecodecs.deflate_encode(tile.tobytes(), level=_DEFLATE_LEVEL))


def _jpeg(tile: RGB) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(tile, level=_JPEG_QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling=(2, 2))
    )


def _level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    shapes = [(height, width)]
    while max(shapes[-1]) > _SMALLEST_LEVEL_PX:
        shapes.append((shapes[-1][0] // _SHRINK, shapes[-1][1] // _SHRINK))
    return shapes


_Band = tuple[_Rows, list[RGB | None]]


def _bands(
    painter: Painter, spec: SlideSpec, pool: ThreadPoolExecutor, encode: _Encode, tile_px: int
) -> Iterator[_Band]:
    """Yield each band of blocks, top to bottom: its rows of compressed tiles, and its blocks' pixels.

    Pixels are None where a block is background alone; such a block's tiles are compressed once for the whole slide.
    """
    blank = encode(np.broadcast_to(painter.background, (tile_px, tile_px, 3)).copy())
    per_block, columns = BLOCK_PX // tile_px, -(-spec.width_px // tile_px)

    def paint(l0_yx: tuple[int, int]) -> tuple[_Rows, RGB | None]:
        block = painter.block(*l0_yx)
        if block is None:
            return [[blank] * per_block] * per_block, None
        return _tile_rows(block, encode, tile_px), block

    for l0_y in range(0, spec.height_px, BLOCK_PX):
        painted = list(pool.map(paint, ((l0_y, l0_x) for l0_x in range(0, spec.width_px, BLOCK_PX))))
        rows = [[tile for tiles, _ in painted for tile in tiles[row]][:columns] for row in range(per_block)]
        yield rows, [block for _, block in painted]


def _tile_rows(pixels: RGB, encode: _Encode, tile_px: int) -> _Rows:
    height, width = pixels.shape[:2]
    return [
        [encode(np.ascontiguousarray(pixels[y : y + tile_px, x : x + tile_px])) for x in range(0, width, tile_px)]
        for y in range(0, height, tile_px)
    ]


class _Coarser:
    """Makes the coarser levels while the finest is being written; keeps only their compressed tiles."""

    def __init__(self, shapes: list[tuple[int, int]], background: RGB) -> None:
        self._shapes = shapes
        self._background = background
        self._strips: list[list[RGB]] = [[] for _ in shapes]
        self._rows: list[_Rows] = [[] for _ in shapes]

    def fed_by(self, bands: Iterable[_Band]) -> Iterator[_Rows]:
        """Pass the finest level's rows of tiles on, taking the pixels for the levels below."""
        for rows, blocks in bands:
            if self._shapes:
                self._take(0, np.concatenate([self._shrunk(block) for block in blocks], axis=1))
            yield rows

    def rows_of(self, level: int) -> Iterator[_Rows]:
        """Yield a coarser level's rows of tiles, once the finer ones are written; 0 is the first below the finest."""
        self._flush(level)
        yield self._rows[level]

    def _shrunk(self, block: RGB | None) -> RGB:
        side = BLOCK_PX // _SHRINK
        if block is None:
            return np.broadcast_to(self._background, (side, side, 3))
        return np.asarray(cv2.resize(block, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def _take(self, level: int, strip: RGB) -> None:
        """Add a strip of pixels; when there are enough for a row of tiles, compress them and feed the next level."""
        self._strips[level].append(strip)
        if sum(part.shape[0] for part in self._strips[level]) >= JPEG_TILE_PX:
            self._flush(level)

    def _flush(self, level: int) -> None:
        if not self._strips[level]:
            return
        pixels = np.concatenate(self._strips[level], axis=0)
        self._strips[level] = []
        width = -(-self._shapes[level][1] // JPEG_TILE_PX) * JPEG_TILE_PX
        row = self._padded(pixels, JPEG_TILE_PX, width)
        self._rows[level] += _tile_rows(row[:, :width], _jpeg, JPEG_TILE_PX)
        if level + 1 < len(self._shapes):
            even = self._padded(
                pixels, -(-pixels.shape[0] // _SHRINK) * _SHRINK, -(-pixels.shape[1] // _SHRINK) * _SHRINK
            )
            size = (even.shape[1] // _SHRINK, even.shape[0] // _SHRINK)
            self._take(level + 1, np.asarray(cv2.resize(even, size, interpolation=cv2.INTER_AREA), dtype=np.uint8))

    def _padded(self, pixels: RGB, height: int, width: int) -> RGB:
        """Return the pixels, extended with background to at least the given size."""
        wider = np.empty((max(height, pixels.shape[0]), max(width, pixels.shape[1]), 3), dtype=np.uint8)
        wider[:] = self._background
        wider[: pixels.shape[0], : pixels.shape[1]] = pixels
        return wider

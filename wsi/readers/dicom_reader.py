"""DICOM slides, those that OpenSlide refuses too: pydicom parses, imagecodecs decodes, each frame once.

A slide is a series: the instances of one series in one folder, one resolution each. Label, overview and thumbnail
instances are never read as the slide.
"""

import os
import weakref
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi.errors import UnreadableSlideError
from wsi.readers.colour import grey_to_rgb, ycbcr_to_rgb
from wsi.readers.dicom_layout import JPEG, JPEG_2000, JPEG_LS, DicomInstance, read_instance, series_of
from wsi.readers.jpeg_checks import check_jpeg, jpeg2000_size
from wsi.readers.mosaic import Mosaic, TileGrid
from wsi.slide import RGB, Level, MppClaim, level_downsample
from wsi.units import Box


class DicomReader(Mosaic):
    """A DICOM slide, its frames decoded straight from the files."""

    reader = "dicom"
    format = "dicom"
    chosen_because = "DICOM whole-slide image whose frames decode directly"

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.path = path
        self._instances = _series(path)
        super().__init__(path.name, [TileGrid(i.shape, i.tile) for i in self._instances], threads)
        first = self._instances[0]
        self.levels = tuple(Level(i.shape, _downsample(first, i), i.tile) for i in self._instances)
        claims = ((first.mpp_yx, "DICOM PixelSpacing"), (first.volume_mpp_yx, "DICOM imaged volume"))
        self.mpp_claims = tuple(MppClaim(mpp_yx, source) for mpp_yx, source in claims if mpp_yx and min(mpp_yx) > 0)
        self.objective_power = first.objective_power
        self._descriptors = [os.open(i.path, os.O_RDONLY) for i in self._instances]
        self._closed = weakref.finalize(self, _close_all, self._descriptors)
        self.missing = self._find_missing()
        self.notes = first.notes + ((self.missing,) if self.missing else ())
        self.notes += self._hole_notes()
        self._probe([i for i, frame in enumerate(self._instances[0].frames) if frame is not None])

    def _find_missing(self) -> str:
        for descriptor, instance in zip(self._descriptors, self._instances, strict=True):
            size = os.fstat(descriptor).st_size
            past = sum(not span or span[-1][0] + span[-1][1] > size for span in instance.spans)
            if past:
                return f"{past} of {len(instance.spans)} frames lie past the end of {instance.path.name} ({size} bytes)"
        return ""

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """See `wsi.slide.Slide.read`."""
        return self._read_stored(level, box, damaged)

    def _written(self, level: int) -> NDArray[np.bool_]:
        frames = self._instances[level].frames
        return np.array([frame is not None for frame in frames], bool).reshape(self._grids[level].grid)

    def _position(self, level: int, index: int) -> int:
        frame = self._instances[level].frames[index]
        span = self._instances[level].spans[frame] if frame is not None else ()
        return span[0][0] if span else 0

    def _decode(self, level: int, index: int) -> RGB | None:
        instance = self._instances[level]
        frame = instance.frames[index]
        if frame is None:
            return None
        size = os.fstat(self._descriptors[level]).st_size
        pieces = []
        for offset, length in instance.spans[frame]:
            if offset + length > size:
                raise EOFError(f"expected {length} bytes at {offset}, the file has {size}")
            pieces.append(os.pread(self._descriptors[level], length, offset))
        return _to_rgb(_samples(b"".join(pieces), instance), instance)

    def close(self) -> None:
        """See `wsi.slide.Slide.close`."""
        self._closed()


def open_with_dicom(path: Path, threads: int = 1) -> DicomReader:
    """Open a DICOM slide, or raise `UnreadableSlideError` with the reason."""
    return DicomReader(path, threads)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _series(path: Path) -> tuple[DicomInstance, ...]:
    """Return the instances of the file's series that lie in its folder, largest first."""
    series, kind = series_of(path)
    beside = [other for other in sorted(path.parent.glob("*.dcm")) if other != path] if series else []
    files = [other for other in beside if _belongs(other, series)]
    if kind in {"", "VOLUME"}:
        files.insert(0, path)
    if not files:
        raise UnreadableSlideError(f"a {kind.lower()} image, and no slide of its series lies beside it")
    instances = sorted((read_instance(file) for file in files), key=lambda i: -i.shape.y * i.shape.x)
    first = instances[0]
    others = {i.shape: i for i in reversed(instances[1:]) if i.shape != first.shape}
    same = [
        i for i in reversed(others.values()) if abs(i.shape.y * first.shape.x / (i.shape.x * first.shape.y) - 1) < 0.05
    ]
    return (first, *same)


def _belongs(path: Path, series: str) -> bool:
    try:
        return series_of(path) == (series, "VOLUME")
    except UnreadableSlideError:
        return False


def _downsample(first: DicomInstance, instance: DicomInstance) -> float:
    ratio = ((first.shape.y / instance.shape.y) * (first.shape.x / instance.shape.x)) ** 0.5
    return level_downsample(instance.shape, first.shape, ratio)


def _samples(payload: bytes, instance: DicomInstance) -> NDArray[np.uint8]:
    """Decode one frame to uint8 (rows, columns, samples)."""
    tile, syntax = instance.tile, instance.transfer_syntax
    if syntax in JPEG:
        check_jpeg(payload, tile)
        # Marked data say their colours themselves, and rightly; unmarked ones have only DICOM's word for it.
        marked = b"JFIF\0" in payload[:64] or b"Adobe" in payload[:4096]
        inside = None if marked or instance.samples == 1 else ("RGB" if instance.photometric == "RGB" else "YCBCR")
        pixels = imagecodecs.jpeg8_decode(payload, colorspace=inside, outcolorspace="RGB" if inside else None)
    elif syntax in JPEG_LS:
        check_jpeg(payload.rstrip(b"\0"), tile)
        pixels = imagecodecs.jpegls_decode(payload)
    elif syntax in JPEG_2000:
        declared = jpeg2000_size(payload)
        if declared is None or declared.y > tile.y or declared.x > tile.x:
            raise ValueError(f"expected {tile.x} x {tile.y} px, found {declared}")
        pixels = imagecodecs.jpeg2k_decode(payload)
    else:
        pixels = np.frombuffer(payload, np.uint8)
        shape = (instance.samples, *tile) if instance.planar else (*tile, instance.samples)
        pixels = np.moveaxis(pixels.reshape(shape), 0, -1) if instance.planar else pixels.reshape(shape)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.shape != (*tile, instance.samples) or pixels.dtype != np.uint8:
        raise ValueError(f"expected a frame of {(*tile, instance.samples)}, found {pixels.shape} {pixels.dtype}")
    return pixels


def _to_rgb(samples: NDArray[np.uint8], instance: DicomInstance) -> RGB:
    if instance.samples == 1:
        return grey_to_rgb(samples, inverted=False)
    decoded_to_rgb = instance.transfer_syntax in JPEG or instance.photometric in {"RGB", "YBR_ICT", "YBR_RCT"}
    return samples if decoded_to_rgb else ycbcr_to_rgb(samples)

"""DICOM slides, those that OpenSlide refuses too: pydicom parses, imagecodecs decodes, each frame once.

A slide is a series: the instances of one series in one folder, one resolution each; the folder may stand for it. A
resolution may be several files: a concatenation.
Label, overview and thumbnail instances are never read as the slide.
"""

import os
import weakref
from itertools import chain
from pathlib import Path

import imagecodecs
import numpy as np

from wsi.arrays import RGB, Bools
from wsi.pixels.colour import DICOM_SPACES, grey_to_rgb, jpeg2000_space, jpeg_codec_spaces, ycbcr_to_rgb
from wsi.pixels.jpeg import check_jpeg
from wsi.pixels.jpeg2000 import check_jpeg2000
from wsi.pixels.jpeg_file import TRANSFORM
from wsi.readers.dicom.concatenation import joined
from wsi.readers.dicom.layout import JPEG, JPEG_2000, JPEG_LS, RLE, DicomInstance, read_instance, series_files
from wsi.readers.mosaic import Mosaic
from wsi.readers.protocol import Level, MppClaim, Opening, level_downsample
from wsi.readers.scenes import refuse_scene
from wsi.readers.tiles import JpegForm, TileGrid, Tiles
from wsi.units import Box


class DicomReader(Mosaic):
    """A DICOM slide, its frames decoded straight from the files."""

    reader = "dicom"
    format = "dicom"
    chosen_because = "DICOM whole-slide image whose frames decode directly"

    def __init__(self, path: Path, threads: int = 1, *, srgb: bool = False) -> None:
        self.path = path
        self._instances = _series(path)
        super().__init__(path.name, [TileGrid(i.shape, i.tile) for i in self._instances], threads)
        first = self._instances[0]
        self._profiled(first.icc, srgb=srgb)
        self.levels = tuple(Level(i.shape, _downsample(first, i), i.tile) for i in self._instances)
        claims = ((first.mpp_yx, "DICOM PixelSpacing"), (first.volume_mpp_yx, "DICOM imaged volume"))
        self.mpp_claims = tuple(MppClaim(mpp_yx, source) for mpp_yx, source in claims if mpp_yx and min(mpp_yx) > 0)
        self.objective_power = first.objective_power
        self._descriptors = [[os.open(path, os.O_RDONLY) for path in i.paths] for i in self._instances]
        self._closed = weakref.finalize(self, _close_all, self._descriptors)
        self.missing = self._find_missing()
        self.notes = first.notes + ((self.missing,) if self.missing else ())
        self.notes += self._hole_notes()
        self._probe([i for i, frame in enumerate(self._instances[0].frames) if frame is not None])

    def _find_missing(self) -> str:
        for descriptors, instance in zip(self._descriptors, self._instances, strict=True):
            sizes = [os.fstat(descriptor).st_size for descriptor in descriptors]
            past = [span for span in instance.spans if not span or span[-1][1] + span[-1][2] > sizes[span[-1][0]]]
            if past:
                file = past[0][-1][0] if past[0] else 0
                where = f"{instance.paths[file].name} ({sizes[file]} bytes)"
                return f"{len(past)} of {len(instance.spans)} frames lie past the end of {where}"
        return ""

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """See `wsi.readers.protocol.Slide.read`."""
        return self._read_stored(level, box, damaged)

    def _written(self, level: int) -> Bools:
        frames = self._instances[level].frames
        return np.array([frame is not None for frame in frames], bool).reshape(self._grids[level].grid)

    def _position(self, level: int, index: int) -> int:
        frame = self._instances[level].frames[index]
        span = self._instances[level].spans[frame] if frame is not None else ()
        return (span[0][0] << 48) + span[0][1] if span else 0

    def tiles(self, level: int) -> Tiles | None:
        """See `wsi.readers.protocol.Slide.tiles`; frames that are no colour JPEG come as quickly by `read`."""
        instance = self._instances[level]
        tag = DICOM_SPACES[instance.photometric]
        if instance.transfer_syntax not in JPEG or tag not in TRANSFORM:
            return None
        return self._tiles_of(level, self._payload, JpegForm(None, tag))

    def _payload(self, level: int, index: int) -> bytes:
        """Return a frame's compressed bytes, empty where none lies at that place; `EOFError` where the file is cut."""
        instance = self._instances[level]
        frame = instance.frames[index]
        if frame is None:
            return b""
        found = [(self._descriptors[level][file], *piece) for file, *piece in instance.spans[frame]]
        return b"".join(self._bytes_at(one, os.fstat(one).st_size, offset, count) for one, offset, count in found)

    def _decode(self, level: int, index: int) -> RGB | None:
        instance = self._instances[level]
        if instance.frames[index] is None:
            return None
        return self._coloured(_rgb(self._payload(level, index), instance))

    def close(self) -> None:
        """See `wsi.readers.protocol.Slide.close`."""
        self._closed()


def open_with_dicom(path: Path, opening: Opening) -> DicomReader:
    """Open a DICOM slide, or raise `UnreadableSlideError` with the reason."""
    refuse_scene(opening.scene)
    return DicomReader(path, opening.threads, srgb=opening.srgb)


def _close_all(descriptors: list[list[int]]) -> None:
    for descriptor in chain.from_iterable(descriptors):
        os.close(descriptor)


def _series(path: Path) -> tuple[DicomInstance, ...]:
    """Return the instances of the file's series that lie in its folder, largest first."""
    whole, parts = list[DicomInstance](), dict[str, list[DicomInstance]]()
    for found in map(read_instance, series_files(path)):
        (parts.setdefault(found.part.uid, []) if found.part else whole).append(found)
    instances = sorted([*whole, *map(joined, parts.values())], key=lambda i: -i.shape.y * i.shape.x)
    first = instances[0]
    others = {i.shape: i for i in reversed(instances[1:]) if i.shape != first.shape}
    same = [
        i for i in reversed(others.values()) if abs(i.shape.y * first.shape.x / (i.shape.x * first.shape.y) - 1) < 0.05
    ]
    return (first, *same)


def _downsample(first: DicomInstance, instance: DicomInstance) -> float:
    ratio = ((first.shape.y / instance.shape.y) * (first.shape.x / instance.shape.x)) ** 0.5
    return level_downsample(instance.shape, first.shape, ratio)


def _rgb(payload: bytes, instance: DicomInstance) -> RGB:
    """Decode one frame to uint8 (rows, columns, 3)."""
    tile, syntax, tag = instance.tile, instance.transfer_syntax, DICOM_SPACES[instance.photometric]
    inside = tag
    if syntax in JPEG:
        coded, wanted = jpeg_codec_spaces(check_jpeg(payload, tile), tag)
        pixels, inside = imagecodecs.jpeg8_decode(payload, colorspace=coded, outcolorspace=wanted), "RGB"
    elif syntax in JPEG_LS:
        check_jpeg(payload, tile)
        pixels = imagecodecs.jpegls_decode(payload)
    elif syntax in JPEG_2000:
        header = check_jpeg2000(payload, tile)
        pixels, inside = imagecodecs.jpeg2k_decode(payload), jpeg2000_space(header, tag)
    else:
        planar = instance.planar or syntax in RLE  # which stores each sample on its own, whatever is said
        size = tile.y * tile.x * instance.samples
        raw = imagecodecs.dicomrle_decode(payload, "uint8", out=size) if syntax in RLE else payload
        pixels = np.frombuffer(raw, np.uint8)
        shape = (instance.samples, *tile) if planar else (*tile, instance.samples)
        pixels = np.moveaxis(pixels.reshape(shape), 0, -1) if planar else pixels.reshape(shape)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.shape != (*tile, instance.samples) or pixels.dtype != np.uint8:
        raise ValueError(f"expected a frame of {(*tile, instance.samples)}, found {pixels.shape} {pixels.dtype}")
    if instance.samples == 1:
        return grey_to_rgb(pixels, inverted=tag == "MINISWHITE")
    return ycbcr_to_rgb(pixels) if inside == "YCBCR" else pixels

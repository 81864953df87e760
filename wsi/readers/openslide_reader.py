"""Slides through OpenSlide: every vendor format that is not plain TIFF (MRXS, NDPI, SCN, VMS, DICOM, BIF, ...)."""

import os
from pathlib import Path

import numpy as np
import openslide
from openslide import OpenSlide, OpenSlideError
from tifffile import TiffFile

from wsi.arrays import RGB
from wsi.errors import DamagedSlideError, NotASlideError, UnreadableSlideError, says_damage
from wsi.pixels.icc import checked_profile, to_srgb
from wsi.readers.protocol import Level, MppClaim, Opening, Scene, Slide, level_downsample
from wsi.readers.scenes import refuse_scene, scene_notes, tiff_scenes
from wsi.readers.tiff.directories import lost_directory
from wsi.readers.tiff.metadata import positive
from wsi.readers.tiles import DAMAGED_RGB
from wsi.units import YX, Box

_GENERIC = "generic-tiff"
_PROBE_PX = 256
"""Side of the blocks in which a failed read is tried again, to find what is damaged."""


class OpenSlideReader(Slide):
    """A slide read by OpenSlide. Transparent pixels are laid on the slide's stated background, white by default."""

    reader = "openslide"

    def __init__(self, path: Path, *, srgb: bool = False) -> None:
        self.path = path
        self._handle = _open(path)
        self._process = os.getpid()
        properties = self._handle.properties
        self.format = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.chosen_because = f"OpenSlide knows the format {self.format}"
        self.levels = tuple(self._level(i) for i in range(self._handle.level_count))
        self.objective_power = positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
        self.mpp_claims = _mpp_claims(self._handle, self.format)
        self.scenes, self.scene = _scenes(path) if self.format == _GENERIC else (), 0
        if self.scenes and self.scenes[0].index:
            raise UnreadableSlideError("OpenSlide reads the first picture alone, and that is not the slide")
        self.notes = scene_notes(self.scenes, self.scenes[0]) if self.scenes else ()
        self.missing = ""
        profile = self._handle.color_profile
        self.icc = checked_profile(profile.tobytes()) if profile else b""
        self._colours = to_srgb(self.icc) if srgb and self.icc else None
        background = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        self.background = np.array([int(background[i : i + 2], 16) for i in (0, 2, 4)], np.float32)
        self._probe()

    def _level(self, index: int) -> Level:
        width, height = self._handle.level_dimensions[index]
        tile = [self._handle.properties.get(f"openslide.level[{index}].tile-{side}") for side in ("height", "width")]
        tile_yx = YX(int(tile[0]), int(tile[1])) if tile[0] and tile[1] else None
        first_width, first_height = self._handle.level_dimensions[0]
        ratio = self._handle.level_downsamples[index]
        downsample = level_downsample((height, width), (first_height, first_width), ratio)
        return Level(YX(height, width), downsample, tile_yx)

    def _probe(self) -> None:
        """Refuse a slide of which not one of nine spots can be read: good metadata, no pixels."""
        height, width = self.levels[0].shape
        errors = []
        for i in range(9):
            y, x = (height - 1) * (2 * (i // 3) + 1) // 6, (width - 1) * (2 * (i % 3) + 1) // 6
            try:
                self._read_handle(0, Box(y, x, min(y + 16, height), min(x + 16, width)))
            except OpenSlideError as error:
                errors.append(str(error))
            else:
                return
        raise UnreadableSlideError(f"opens, but no pixel can be read: {errors[0]}")

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """See `wsi.readers.protocol.Slide.read`."""
        inside = box.clipped(self.levels[level].shape)
        out = np.full((*box.shape, 3), 255, np.uint8)
        if inside.shape.y and inside.shape.x:
            view = out[inside.y0 - box.y0 : inside.y1 - box.y0, inside.x0 - box.x0 : inside.x1 - box.x0]
            self._read_into(view, level, inside, damaged)
        return out

    def _read_into(self, out: RGB, level: int, box: Box, damaged: list[Box] | None) -> None:
        try:
            out[:] = self._read_handle(level, box)
        except OpenSlideError as error:
            if damaged is None:
                raise DamagedSlideError(f"{self.path.name}: level {level}, {box}: {error}") from None
            if max(box.shape) <= _PROBE_PX:
                damaged.append(box)
                out[:] = DAMAGED_RGB
                return
            for part in _quarters(box):
                view = out[part.y0 - box.y0 : part.y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0]
                self._read_into(view, level, part, damaged)

    def _read_handle(self, level: int, box: Box) -> RGB:
        # The true factor, 2.0005 and not 2: else far corners are read up to some pixels beside their place.
        downsample = self._handle.level_downsamples[level]
        location = (round(box.x0 * downsample), round(box.y0 * downsample))
        if self._process != os.getpid():  # a fork shares the parent's file positions
            self._handle, self._process = _open(self.path), os.getpid()
        try:
            rgba = np.asarray(self._handle.read_region(location, level, (box.shape.x, box.shape.y)))
        except OpenSlideError:
            # After one failed read a handle fails every later one, good regions too.
            self._handle.close()
            self._handle = _open(self.path)
            raise
        alpha = rgba[..., 3]
        if alpha.min() == 255:
            return self.coloured(rgba[..., :3])
        share = alpha[..., None].astype(np.float32) / 255
        blended: RGB = np.rint(rgba[..., :3] * share + self.background * (1 - share)).astype(np.uint8)
        return self.coloured(blended)

    def coloured(self, pixels: RGB) -> RGB:
        """Return decoded pixels, uint8 (h, w, 3), in the colours that are asked for."""
        return self._colours(pixels) if self._colours else pixels

    def tiles(self, level: int) -> None:
        """See `wsi.readers.protocol.Slide.tiles`; OpenSlide gives none."""

    def close(self) -> None:
        """See `wsi.readers.protocol.Slide.close`."""
        self._handle.close()


def open_with_openslide(path: Path, opening: Opening) -> OpenSlideReader:
    """Open a slide with OpenSlide, or raise `UnreadableSlideError` with OpenSlide's reason."""
    refuse_scene(opening.scene)
    return OpenSlideReader(path, srgb=opening.srgb)


def _scenes(path: Path) -> tuple[Scene, ...]:
    """Return the scenes of a TIFF; OpenSlide reads the first."""
    try:
        with TiffFile(path) as tiff:
            return tuple(each.scene for each in tiff_scenes(tiff))
    except NotASlideError:
        raise
    except Exception as error:  # OpenSlide reads what tifffile cannot parse
        if not says_damage(error):
            raise
        return ()


def _open(path: Path) -> OpenSlide:
    lost_directory(path, check_tiles=True)  # OpenSlide ends the process where a broken file asks for too much memory
    try:
        return OpenSlide(path)
    except OpenSlideError as error:
        reason = " ".join(str(error).replace(f"{path.parent}/", "").split())
        raise UnreadableSlideError(reason) from None


def _quarters(box: Box) -> list[Box]:
    middle_y, middle_x = (box.y0 + box.y1 + 1) // 2, (box.x0 + box.x1 + 1) // 2
    rows, columns = ((box.y0, middle_y), (middle_y, box.y1)), ((box.x0, middle_x), (middle_x, box.x1))
    parts = (Box(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in columns)
    return [part for part in parts if part.shape.y and part.shape.x]


def _mpp_claims(handle: OpenSlide, vendor: str) -> tuple[MppClaim, ...]:
    x = positive(handle.properties.get(openslide.PROPERTY_NAME_MPP_X))
    y = positive(handle.properties.get(openslide.PROPERTY_NAME_MPP_Y))
    if x is None or y is None:
        return ()
    from_tag = vendor == _GENERIC
    return (MppClaim((y, x), "TIFF resolution" if from_tag else f"{vendor} mpp"),)

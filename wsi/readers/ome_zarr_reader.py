"""OME-Zarr 0.4 and 0.5 as a slide, through zarr-python: RGB pictures of any of our stores or of other writers'.

Takes the axes c, y, x in any order beside t and z, of which the first plane is read; three uint8 channels are red,
green and blue. Source: https://ngff.openmicroscopy.org/0.4 and /0.5.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from wsi.arrays import RGB, Bools
from wsi.errors import UnreadableSlideError, told_as
from wsi.readers.mosaic import Mosaic
from wsi.readers.protocol import Level, MppClaim, Opening, Scene
from wsi.readers.scenes import choose_scene, is_beside, refuse_scene, scene_notes
from wsi.readers.tiles import MAX_TILE_BYTES, TileGrid
from wsi.units import YX, Box

_UM = {"micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6, "nanometer": 1e-3, "um": 1.0, "µm": 1.0}
_RGB_COLOURS = ("FF0000", "00FF00", "0000FF")


class OmeZarrReader(Mosaic):
    """An OME-Zarr picture as a slide."""

    reader = "ome-zarr"

    def __init__(self, path: Path, threads: int = 1, scene: int | None = None) -> None:
        self.path = path
        pictures = _image_groups(path)
        self.scenes = _scenes(pictures)
        chosen = choose_scene(self.scenes, scene) if self.scenes else None
        if chosen is None:
            refuse_scene(scene)
        self.scene = chosen.index if chosen else next(iter(pictures))
        group, ome, version = pictures[self.scene]
        self.format = f"ome-zarr {version}"
        self.chosen_because = f"OME-Zarr {version}"
        axes, scales, arrays = _open_levels(group, ome)
        self._axes = "".join(axis["name"] for axis in axes)
        self._arrays = arrays
        y, x, c = (self._axes.index(name) for name in "yxc")
        shapes = [YX(array.shape[y], array.shape[x]) for array in arrays]
        tiles = [YX(array.chunks[y], array.chunks[x]) for array in arrays]
        self._check(c, tiles, ome)
        self.levels = tuple(
            Level(shape, math.sqrt(scale[y] * scale[x] / (scales[0][y] * scales[0][x])), tile)
            for shape, tile, scale in zip(shapes, tiles, scales, strict=True)
        )
        units = [_UM.get(str(axes[i].get("unit", ""))) for i in (y, x)]
        self.mpp_claims: tuple[MppClaim, ...] = ()
        if units[0] and units[1]:
            self.mpp_claims = (MppClaim((scales[0][y] * units[0], scales[0][x] * units[1]), "OME-Zarr scale"),)
        self.objective_power: float | None = None
        self.missing = ""
        planes = any(arrays[0].shape[i] > 1 for i, name in enumerate(self._axes) if name in "tz")
        self.notes: tuple[str, ...] = ("only the first plane (t = 0, z = 0) is read",) if planes else ()
        if chosen:
            self.notes += scene_notes(self.scenes, chosen)
        super().__init__(path.name, [TileGrid(*pair) for pair in zip(shapes, tiles, strict=True)], threads)
        self._probe(range(self._grids[0].grid.y * self._grids[0].grid.x))

    def _check(self, c: int, tiles: list[YX], ome: dict[str, Any]) -> None:
        for array, tile in zip(self._arrays, tiles, strict=True):
            if array.dtype != np.uint8 or array.shape[c] != 3 or min(array.shape) < 1:
                raise UnreadableSlideError(f"{array.dtype} {array.shape} as {self._axes}: expected uint8 RGB")
            if math.prod(array.chunks) > MAX_TILE_BYTES or min(tile) < 1:
                raise UnreadableSlideError(f"chunks of {array.chunks} are too large")
        colours = [str(channel.get("color", "")).upper() for channel in ome.get("omero", {}).get("channels", ())]
        if colours and tuple(colours) != _RGB_COLOURS:
            raise UnreadableSlideError(f"channels shown as {', '.join(colours)}: expected red, green, blue")

    def read(self, level: int, box: Box, damaged: list[Box] | None = None) -> RGB:
        """See `wsi.readers.protocol.Slide.read`."""
        return self._read_stored(level, box, damaged)

    def tiles(self, level: int) -> None:
        """See `wsi.readers.protocol.Slide.tiles`; chunks come as quickly by `read`."""

    def _written(self, level: int) -> Bools:  # an absent chunk is its fill value
        return np.ones(self._grids[level].grid, bool)

    def _position(self, level: int, index: int) -> int:  # chunks are files, or lie in them in any order
        return index

    def _decode(self, level: int, index: int) -> RGB | None:
        place = self._grids[level].place(index).clipped(self._grids[level].stored)
        where = {"y": slice(place.y0, place.y1), "x": slice(place.x0, place.x1), "c": slice(None)}
        pixels = np.asarray(self._arrays[level][tuple(where.get(name, 0) for name in self._axes)])
        left = [name for name in self._axes if name in where]
        return np.ascontiguousarray(pixels.transpose([left.index(name) for name in "yxc"]))

    def close(self) -> None:
        """See `wsi.readers.protocol.Slide.close`; nothing stays open between reads."""


def open_with_ome_zarr(path: Path, opening: Opening) -> OmeZarrReader:
    """Open an OME-Zarr folder, or raise `UnreadableSlideError` with the reason."""
    return OmeZarrReader(path, opening.threads, opening.scene)


_Picture = tuple[Any, dict[str, Any], str]
"""A zarr group, its OME metadata and their version."""


def _image_groups(path: Path) -> dict[int, _Picture]:
    """Return the pictures of a folder by number; bioformats2raw puts them into the groups "0", "1", ..."""
    import zarr

    import wsi.zarr_jpeg  # noqa: F401  registers the codec of our own stores' JPEG chunks

    with told_as(UnreadableSlideError, "not a zarr group"):
        root = zarr.open_group(str(path), mode="r")
        if picture := _picture(root):
            return {0: picture}
        groups = {int(name): root[name] for name in root.group_keys() if name.isdecimal()}
        pictures = {index: picture for index in sorted(groups) if (picture := _picture(groups[index]))}
    if not pictures:
        raise UnreadableSlideError("a zarr group without OME multiscales")
    return pictures


def _picture(group: Any) -> _Picture | None:
    attributes = dict(group.attrs)
    ome: Any = attributes.get("ome", attributes)
    if not ome.get("multiscales"):
        return None
    version = ome.get("version") or ome["multiscales"][0].get("version")
    if version not in {"0.4", "0.5"}:
        raise UnreadableSlideError(f"OME-Zarr {version}: expected 0.4 or 0.5")
    return group, ome, str(version)


def _scenes(pictures: dict[int, _Picture]) -> tuple[Scene, ...]:
    """Return the scenes among several pictures, by their names; of a single picture nothing is asked here."""
    found = []
    for index, (group, ome, _) in pictures.items() if len(pictures) > 1 else ():
        axes, _, arrays = _open_levels(group, ome)
        names = [axis["name"] for axis in axes]
        shape = YX(*(arrays[0].shape[names.index(name)] for name in "yx"))
        found.append(Scene(index, " ".join(str(ome["multiscales"][0].get("name") or "").split()), shape))
    return tuple(scene for scene in found if not is_beside(scene.name)) or tuple(found)


def _open_levels(group: Any, ome: dict[str, Any]) -> tuple[list[dict[str, Any]], list[list[float]], list[Any]]:
    """Return axes, scale of each level, and arrays, largest first."""
    with told_as(UnreadableSlideError, "broken OME-Zarr metadata"):
        multiscale = ome["multiscales"][0]
        axes = list(multiscale["axes"])
        names = "".join(axis["name"] for axis in axes)
        overall = _scale(multiscale, len(axes))
        scales = []
        arrays = []
        for dataset in multiscale["datasets"]:
            scales.append([a * b for a, b in zip(_scale(dataset, len(axes)), overall, strict=True)])
            arrays.append(group[dataset["path"]])
        if not arrays or any(len(array.shape) != len(axes) for array in arrays) or not all(map(min, scales)):
            raise ValueError("axes, scales and arrays do not fit together")
    if not set("cyx") <= set(names) <= set("tczyx") or len(set(names)) != len(names):
        raise UnreadableSlideError(f"axes {names}: expected c, y and x, with or without t and z")
    return axes, scales, arrays


def _scale(holder: dict[str, Any], n_axes: int) -> list[float]:
    for transformation in holder.get("coordinateTransformations", ()):
        if transformation.get("type") == "scale":
            return [float(value) for value in transformation["scale"]]
    return [1.0] * n_axes

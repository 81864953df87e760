"""The bag: one HDF5 file per slide, the features of its tiles in the store's tile order.

    features   (N, D) float16, contiguous (so that it can be memory-mapped)   attributes: name, encoder
    coords     (N, 2) int64, (x, y) level-0 pixels of the slide               attributes: as TRIDENT writes them
    root       format, image_id, mpp, recipe, recipe_hash, provenance, content_sha256

CLAM, TRIDENT, Patho-Bench and torchmil open it. Theirs are read, too (see `features.bag_forms`).
In the file (x, y); everywhere in this software (y, x): the exchange happens here and nowhere else.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from features.bag_forms import features_dataset, header_facts, um_coords_message, xy_rows
from wsi.atomic import replacing
from wsi.errors import BagError, RequestError
from wsi.recipe import Recipe, canonical, recipe_hash
from wsi.regular import irregular, open_regular

FORMAT = "gigamil-bag/1"
_MARK_WITHIN = 1 << 20
"""Bytes from either end of a file among which HDF5 keeps the root's attributes."""
POWERS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
"""Nominal objective powers; the exact um/px stands beside them, at the root."""

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BagHeader:
    """What is known of a bag without reading its rows."""

    path: Path
    image_id: str
    n_tiles: int
    dim: int
    encoder: str
    """Name of the encoder; empty where the file does not tell."""
    recipe: Recipe
    """Empty in a file of another tool."""
    recipe_hash: str
    provenance: dict[str, Any]
    tile_px_l0: float
    """Level-0 pixels per tile side; 0.0 where the file does not tell and the coordinates do not show it."""
    level0_shape_yx: tuple[int, int] | None
    """Level-0 pixels of the slide."""
    mpp: float | None
    """um/px at which the tiles were taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BagFacts:
    """What is written beside the rows."""

    image_id: str
    encoder: str
    recipe: Recipe
    provenance: dict[str, Any]
    """JSON values; no path, host or time, so that one recipe gives one file."""
    tile_px: int
    """Pixels per tile side, as the encoder's tiles were cut."""
    l0_px_per_px: float
    """Level-0 pixels of the slide per tile pixel."""
    level0_shape_yx: tuple[int, int]
    mpp: float
    """um/px of the tiles."""


def write_bag(path: Path, blocks: Sequence[Floats], coords_l0_yx: Ints, facts: BagFacts) -> None:
    """Write a bag, whole or not at all.

    Parameters
    ----------
    path
        The bag; an existing one is replaced.
    blocks
        (n_i, D) arrays of any float type whose rows, one after the other, are the tiles; at least one, which may have
        no rows. They are written one at a time, so they may be memory-mapped.
    coords_l0_yx
        (N, 2) top-left corners, (y, x) level-0 pixels.
    facts
        What is written beside them.

    Raises
    ------
    BagError
        A value is NaN, infinite, or too large for float16 (the message names the tile); the numbers of rows differ; or
        the disk is full.
    """
    n_tiles, dim = sum(len(block) for block in blocks), blocks[0].shape[1]
    if coords_l0_yx.shape != (n_tiles, 2):
        raise BagError(f"{path.name}: expected one (y, x) per tile: {n_tiles} tiles, coordinates {coords_l0_yx.shape}")
    try:
        with replacing(path, is_our_bag) as temporary, _Sink(temporary, "w+") as sink:
            with h5py.File(sink, "w") as file:
                _write(file, path.name, blocks, (n_tiles, dim), coords_l0_yx, facts)
            if sink.error is not None:
                raise sink.error
    except OSError as error:
        raise BagError(f"{path} cannot be written ({error.strerror or error}): make room and run it again") from None


def is_our_bag(path: Path) -> bool:
    """Tell whether a file is a bag that this package wrote; what is empty or cut short is nobody's, and counts, too."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            for start in {0, max(0, size - _MARK_WITHIN)}:
                file.seek(start)
                if FORMAT.partition("/")[0].encode() in file.read(_MARK_WITHIN):
                    return True
    except OSError:
        return False
    return size == 0 or _is_cut_short(path)


def _is_cut_short(path: Path) -> bool:
    try:
        with h5py.File(path, "r", locking=False):
            return False
    except OSError as error:
        return "truncated file" in str(error)


class _Sink(io.FileIO):
    """A file that HDF5 writes to, and that keeps the first error until HDF5 has done.

    HDF5 does not survive an error while it closes a file: it leaks the file, and complains again at the program's end.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.error is None:
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


def _write(
    file: Any, name: str, blocks: Sequence[Floats], shape: tuple[int, int], coords_l0_yx: Ints, facts: BagFacts
) -> None:
    coords_xy = np.ascontiguousarray(coords_l0_yx[:, ::-1], dtype=np.int64)
    digest = hashlib.sha256()
    features = file.create_dataset("features", shape=shape, dtype=np.float16)
    row = 0
    for block in blocks:
        half = _half(name, block, row, coords_l0_yx)
        if len(half):
            features[row : row + len(half)] = half
        digest.update(half.data)
        row += len(half)
    coords = file.create_dataset("coords", data=coords_xy)
    digest.update(coords_xy.data)
    features.attrs.update({"name": facts.image_id, "encoder": facts.encoder})
    coords.attrs.update(_trident_attributes(facts))
    file.attrs.update(_root_attributes(facts, digest.hexdigest()))


def nominal_power(mpp: float) -> float:
    """Return the nominal objective power nearest to ``mpp`` um/px (0.5 is 20x), as a ratio."""
    return min(POWERS, key=lambda power: abs(np.log(power * mpp / 10)))


def _half(name: str, block: Floats, first_row: int, coords_l0_yx: Ints) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore", invalid="ignore"):
        half = np.ascontiguousarray(block, dtype=np.float16)
    check_finite(name, half, first_row, coords_l0_yx, block)
    return half


def check_finite(
    name: str, rows: Floats, first_row: int = 0, coords_l0_yx: Ints | None = None, original: Floats | None = None
) -> None:
    """Raise `BagError` naming the first tile of ``rows`` (n, D) that holds a NaN or an infinite value."""
    finite = np.isfinite(rows)
    if finite.all():
        return
    row, column = (int(v) for v in np.argwhere(~finite)[0])
    value = (rows if original is None else original)[row, column]
    where = "" if coords_l0_yx is None else " at level-0 (y, x) = ({}, {})".format(*coords_l0_yx[first_row + row])
    what = "NaN" if np.isnan(value) else f"{value:g}, beyond float16's 65504" if np.isfinite(value) else "infinite"
    raise BagError(
        f"{name}: feature {column} of tile {first_row + row}{where} is {what}: "
        "look at that tile and at the encoder's weights, or extract with --precision fp32"
    )


def _trident_attributes(facts: BagFacts) -> dict[str, Any]:
    height, width = facts.level0_shape_yx
    return {
        "patch_size": facts.tile_px,
        "patch_size_level0": round(facts.tile_px * facts.l0_px_per_px),
        "level0_magnification": _whole(nominal_power(facts.mpp / facts.l0_px_per_px)),
        "target_magnification": _whole(nominal_power(facts.mpp)),
        "overlap": 0,
        "name": facts.image_id,
        "savetodir": "",
        "level0_width": width,
        "level0_height": height,
    }


def _whole(power: float) -> int | float:
    return int(power) if power == int(power) else power


def _root_attributes(facts: BagFacts, content_sha256: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "image_id": facts.image_id,
        "mpp": facts.mpp,
        "tile_px_l0": facts.tile_px * facts.l0_px_per_px,
        "recipe": canonical(facts.recipe),
        "recipe_hash": recipe_hash(facts.recipe),
        "provenance": canonical(facts.provenance),
        "content_sha256": content_sha256,
    }


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if kind := irregular(path):
        raise BagError(f"{path} is {kind}: expected a bag of features (.h5)")
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError:
        raise BagError(f"{path}: expected a bag of features (.h5), found no file: run gigamil extract") from None
    except OSError as error:
        first_line = str(error).splitlines()[0]
        raise BagError(f"{path}: expected a whole HDF5 file, cannot read it ({first_line}): extract it again") from None


def read_header(path: Path) -> BagHeader:
    """Read what a bag says of itself.

    Raises
    ------
    BagError
        The file is missing, truncated, no bag, or has other numbers of features and coordinates.
    """
    with _open(path) as file:
        dataset = features_dataset(file, path)
        n_tiles, dim = dataset.shape[-2:]
        facts = header_facts(file, path, n_tiles)
        try:
            recipe, provenance = (json.loads(file.attrs.get(key, "{}")) for key in ("recipe", "provenance"))
        except (json.JSONDecodeError, TypeError):
            raise BagError(f"{path}: its recipe is not JSON: extract it again") from None
        return BagHeader(
            path=path,
            n_tiles=n_tiles,
            dim=dim,
            recipe=recipe,
            recipe_hash=str(file.attrs.get("recipe_hash", "")),
            provenance=provenance,
            **facts,
        )


def read_features(path: Path) -> Floats:
    """Read the features: (N, D), the file's float type.

    Raises
    ------
    BagError
        As `read_header`; or a value is NaN or infinite (the message names the tile).
    """
    with _open(path) as file:
        dataset = features_dataset(file, path)
        rows: Floats = np.asarray(dataset[()]).reshape(dataset.shape[-2:])
    check_finite(path.name, rows)
    return rows


def read_coords(path: Path, l0_mpp: float | None = None) -> Ints:
    """Read the tiles' top-left corners: (N, 2) int64, (y, x) level-0 pixels.

    ``l0_mpp`` (um/px of the slide's level 0) is needed for files in micrometres (STAMP's), and only for them.

    Raises
    ------
    BagError
        No usable ``coords``; or they are in micrometres and ``l0_mpp`` is not given.
    """
    with _open(path) as file:
        xy = xy_rows(file, path)
        if str(file.attrs.get("unit", "")) == "um":
            if l0_mpp is None:
                raise BagError(um_coords_message(path))
            xy = np.asarray(xy, dtype=np.float64) / l0_mpp
    return np.ascontiguousarray(np.rint(xy[:, ::-1]).astype(np.int64))


def feature_rows(path: Path) -> Floats:
    """Return the features (N, D) memory-mapped where the file holds them contiguously, else read.

    A memory map reads only the rows that are touched: a bag larger than the memory can be used.
    """
    with _open(path) as file:
        dataset = features_dataset(file, path)
        shape, dtype, offset = dataset.shape[-2:], dataset.dtype, dataset.id.get_offset()
        if offset is None or not dtype.isnative or 0 in shape:
            rows: Floats = np.asarray(dataset[()]).reshape(shape)
            return rows
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def is_intact(path: Path) -> bool:
    """Tell whether a bag of ours opens and its rows and coordinates are those that were written (sha256)."""
    try:
        with _open(path) as file:
            digest = hashlib.sha256(np.ascontiguousarray(file["features"][()]).data)
            digest.update(np.ascontiguousarray(file["coords"][()]).data)
            return bool(file.attrs.get("content_sha256") == digest.hexdigest())
    except (BagError, KeyError):
        return False


def find_bags(paths: Sequence[Path]) -> list[Path]:
    """List the bags among files and folders (searched one level deep for ``*.h5``), sorted by stem.

    Raises
    ------
    RequestError
        A path does not exist, none holds a bag, or two bags have the same stem.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise RequestError(f"{path}: expected a bag (.h5) or a folder of bags, found nothing")
        inside = [bag for bag in path.glob("*.h5") if not bag.name.startswith(".")] if path.is_dir() else [path]
        for bag in inside:
            other = found.setdefault(bag.stem, bag)
            if other.resolve() != bag.resolve():
                raise RequestError(f"two bags are named {bag.stem}: {other} and {bag}; give one of them")
    if not found:
        raise RequestError(f"no bag (*.h5) in {', '.join(map(str, paths)) or 'an empty list'}: run gigamil extract")
    return [found[stem] for stem in sorted(found)]

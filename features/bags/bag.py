"""The bag: one HDF5 file per slide, the features of its tiles in the store's tile order.

    features   (N, D) float16 (or float32), contiguous (so that it can be memory-mapped)   attributes: name, encoder
    coords     (N, 2) int64, (x, y) level-0 pixels of the slide               attributes: as TRIDENT writes them
    moments    (2, D) float64: each feature's sum, and its squared differences from the bag's mean    attribute: sha256
    root       format, image_id, mpp, recipe, recipe_hash, provenance, content_sha256, finite

CLAM, TRIDENT, Patho-Bench and torchmil open it. Theirs are read, too (see `features.bags.forms`).
In the file (x, y); everywhere in this software (y, x): the exchange happens here and nowhere else.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.bags.content import Content, Empty, RowsPlace, content_of, place_of, stored_rows
from features.bags.forms import OpenBag, header_facts, is_in_um, open_bag, um_coords_message, xy_rows
from features.bags.hdf5 import Attributes, dataset_of, file_of, read_hdf5, writing_hdf5
from features.bags.moments import Gathering, Moments, packed, seal, unpacked
from wsi.arrays import Features, Ints
from wsi.errors import BagError, RequestError
from wsi.files.hdf5 import open_hdf5
from wsi.files.regular import open_regular
from wsi.recipe import Recipe, canonical, recipe_hash

FORMAT = "gigamil-bag/1"
PACK_FORMAT = "gigamil-bags/1"
"""Of a file that holds many bags, each in a group of its name (`features.bags.pack`)."""
MOMENTS = "moments"
"""Dataset of a bag of ours: older bags are without."""
_MARK_WITHIN = 1 << 20
"""Bytes from either end of a file among which HDF5 keeps the root's attributes."""
POWERS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
"""Nominal objective powers; the exact um/px stands beside them, at the root."""


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
    """um/px at which the tiles were taken; of TRIDENT's bags by the nominal objective power."""
    tile_px: float | None = None
    """Pixels per tile side at that um/px, where the file tells it."""
    content_sha256: str = ""
    """Of features and coordinates, as written; empty in a file of another tool."""
    moments: Moments | None = field(default=None, compare=False, repr=False)
    """Of the features; None where the file does not carry them (another tool's, or an older version's)."""
    place: RowsPlace | None = field(default=None, compare=False, repr=False)
    """Where the features lie; None of a bag that is not in a file yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BagFacts:
    """What is written beside the rows."""

    image_id: str
    encoder: str
    recipe: Recipe
    provenance: dict[str, Any]
    """JSON values; no path, host or time, so that one recipe gives one file."""
    tile_px: int | None
    """Pixels per tile side, as the encoder's tiles were cut; None where it is not known, as of other tools' bags."""
    l0_px_per_px: float | None
    """Level-0 pixels of the slide per tile pixel; None where it is not known."""
    level0_shape_yx: tuple[int, int] | None
    mpp: float | None
    """um/px of the tiles; None where it is not known."""


def write_bag(
    path: Path, blocks: Sequence[Features], coords_l0_yx: Ints, facts: BagFacts, dtype: str = "float16"
) -> None:
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
    dtype
        Of the features in the file: ``float16`` or ``float32``.

    Raises
    ------
    BagError
        A value is NaN, infinite, or too large for the type (the message names the tile); the numbers of rows differ; or
        the disk is full.
    """
    n_tiles, dim = sum(len(block) for block in blocks), blocks[0].shape[1]
    if coords_l0_yx.shape != (n_tiles, 2):
        raise BagError(f"{path.name}: expected one (y, x) per tile: {n_tiles} tiles, coordinates {coords_l0_yx.shape}")
    with writing_hdf5(path, is_our_bag) as file:
        _write(file, path.name, blocks, (n_tiles, dim, dtype), coords_l0_yx, facts)


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
        with open_hdf5(path):
            return False
    except OSError as error:
        return "truncated file" in str(error)


def _write(
    file: Any, name: str, blocks: Sequence[Features], form: tuple[int, int, str], coords_l0_yx: Ints, facts: BagFacts
) -> None:
    *shape, dtype = form
    coords_xy = np.ascontiguousarray(coords_l0_yx[:, ::-1], dtype=np.int64)
    digest, gathering = hashlib.sha256(), Gathering(shape[1])
    features = file.create_dataset("features", shape=tuple(shape), dtype=dtype)
    row = 0
    for block in blocks:
        stored = stored_rows(name, block, row, coords_l0_yx, dtype)
        if len(stored):
            features[row : row + len(stored)] = stored
        digest.update(stored.data)
        gathering.add(stored)
        row += len(stored)
    coords = file.create_dataset("coords", data=coords_xy)
    digest.update(coords_xy.data)
    features.attrs.update({"name": facts.image_id, "encoder": facts.encoder})
    coords.attrs.update(_trident_attributes(facts))
    file.attrs.update(_root_attributes(facts, digest.hexdigest()))
    table = packed(gathering.moments())
    moments = file.create_dataset(MOMENTS, data=table, dtype="<f8")
    moments.attrs["sha256"] = seal(table, digest.hexdigest())


def nominal_power(mpp: float) -> float:
    """Return the nominal objective power nearest to ``mpp`` um/px (0.5 is 20x), as a ratio."""
    return min(POWERS, key=lambda power: abs(np.log(power * mpp / 10)))


def _trident_attributes(facts: BagFacts) -> dict[str, Any]:
    """Return the attributes of ``coords``; what is not known is left out."""
    tile_px, scale, mpp = facts.tile_px, facts.l0_px_per_px, facts.mpp
    height, width = facts.level0_shape_yx or (None, None)
    told = {
        "patch_size": tile_px,
        "patch_size_level0": round(tile_px * scale) if tile_px and scale else None,
        "level0_magnification": _whole(nominal_power(mpp / scale)) if mpp and scale else None,
        "target_magnification": _whole(nominal_power(mpp)) if mpp else None,
        "overlap": 0,
        "name": facts.image_id,
        "savetodir": "",
        "level0_width": width,
        "level0_height": height,
    }
    return {name: value for name, value in told.items() if value is not None}


def _whole(power: float) -> int | float:
    return int(power) if power == int(power) else power


def _root_attributes(facts: BagFacts, content_sha256: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "image_id": facts.image_id,
        **({"mpp": facts.mpp} if facts.mpp else {}),
        **({"tile_px_l0": facts.tile_px * facts.l0_px_per_px} if facts.tile_px and facts.l0_px_per_px else {}),
        "recipe": canonical(facts.recipe),
        "recipe_hash": recipe_hash(facts.recipe),
        "provenance": canonical(facts.provenance),
        "content_sha256": content_sha256,
        "finite": True,
    }


def read_header(path: Path) -> BagHeader:
    """Read what a bag says of itself.

    Raises
    ------
    BagError
        The file is missing, truncated, no bag, has other numbers of features and coordinates, or values of attributes
        that cannot be.
    OSError
        The storage fails.
    """
    return read_hdf5(path, lambda file: _header(open_bag(file, path)))


def _header(bag: OpenBag) -> BagHeader:
    n_tiles, dim = bag.shape
    facts = header_facts(bag)
    moments = _moments(bag, facts["content_sha256"])
    return BagHeader(path=bag.path, n_tiles=n_tiles, dim=dim, **facts, moments=moments, place=place_of(bag))


def _moments(bag: OpenBag, content_sha256: str) -> Moments | None:
    """Return the moments that a bag of ours carries, checked against the hash that says whose they are."""
    if MOMENTS not in bag.file or Attributes(bag.file, bag.path).text("format") != FORMAT:
        return None
    n_tiles, dim = bag.shape
    held = dataset_of(bag.file, MOMENTS, bag.path)
    if held is not None and held.shape == (2, dim) and held.dtype == np.float64:
        table = np.asarray(held[()])
        if Attributes(held, bag.path).text("sha256") == seal(table, content_sha256):
            return unpacked(n_tiles, table)
    raise BagError(f"{bag.path}: its moments are not those that were written (sha256): extract it again")


def read_features(path: Path) -> Features:
    """Read the features into memory: as `feature_rows`."""
    return np.array(feature_rows(path))


def read_coords(path: Path, l0_mpp: float | None = None) -> Ints:
    """Read the tiles' top-left corners: (N, 2) int64, (y, x) level-0 pixels.

    ``l0_mpp`` (um/px of the slide's level 0) is needed for files in micrometres (STAMP's), and only for them.

    Raises
    ------
    BagError
        No usable ``coords``; or they are in micrometres and ``l0_mpp`` is not given.
    OSError
        The storage fails.
    """

    def read(file: Any) -> npt.NDArray[Any]:
        bag = open_bag(file, path)
        xy = xy_rows(bag)
        if not is_in_um(bag):
            return xy
        if l0_mpp is None:
            raise BagError(um_coords_message(path))
        return np.asarray(xy, dtype=np.float64) / l0_mpp

    return np.ascontiguousarray(np.rint(read_hdf5(path, read)[:, ::-1]).astype(np.int64))


def feature_rows(path: Path, *, may_map: bool = True, empty: Empty = np.empty) -> Features:
    """Return the features (N, D), float16 or float32, memory-mapped where that is allowed and the file holds them so.

    All are read once: their content is checked. A memory map holds no open file, and keeps in memory only the rows that
    are in use: a bag larger than the memory can be used.

    Raises
    ------
    BagError
        As `read_header`; a value is NaN or infinite (the message names the tile); or rows or coordinates are not those
        that were written, where the file carries their hash.
    OSError
        The storage fails.
    """
    return read_hdf5(path, lambda file: _checked(open_bag(file, path), may_map=may_map, empty=empty).rows)


def content_sha256(header: BagHeader) -> str:
    """Return the hash of features and coordinates: as the bag carries it, or of another tool's bag by reading it."""
    if header.content_sha256:
        return header.content_sha256
    status = file_of(header.path)[0].stat()
    return _read_sha256(header.path, (status.st_ino, status.st_size, status.st_mtime_ns))


def measured(header: BagHeader) -> BagHeader:
    """Read a bag once and return its header with what the file does not tell: content hash and moments.

    Raises
    ------
    BagError
        As `feature_rows`.
    OSError
        The storage fails.
    """
    content = read_hdf5(header.path, lambda file: _checked(open_bag(file, header.path), measured=True))
    if content.rows.shape != (header.n_tiles, header.dim):
        raise BagError(f"{header.path}: the bag was replaced while it was used: run it again")
    return replace(header, content_sha256=content.sha256, moments=content.moments)


@cache
def _read_sha256(path: Path, _state: tuple[int, int, int]) -> str:
    """Read a bag's hash; ``_state`` tells whether the file is still the one that was read."""
    return read_hdf5(path, lambda file: content_of(open_bag(file, path)).sha256)


def _checked(bag: OpenBag, *, may_map: bool = True, measured: bool = False, empty: Empty = np.empty) -> Content:
    content = content_of(bag, may_map=may_map, measured=measured, empty=empty)
    root = Attributes(bag.file, bag.path)
    written = root.text("content_sha256")
    if written != content.sha256 and (written or root.text("format") == FORMAT):
        raise BagError(f"{bag.path}: its rows are not those that were written (sha256): extract it again")
    return content


def is_intact(path: Path) -> bool:
    """Tell whether a bag of ours opens and its rows and coordinates are those that were written (sha256).

    Raises
    ------
    OSError
        The storage fails.
    """
    try:
        feature_rows(path)
        return read_header(path).content_sha256 != ""
    except BagError:
        return False


def find_bags(paths: Sequence[Path]) -> list[Path]:
    """List the bags among files, packs and folders (searched one level deep for ``*.h5``), sorted by stem.

    Raises
    ------
    RequestError
        A path does not exist, none holds a bag, or two bags have the same stem.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists() and not path.parent.is_file():
            raise RequestError(f"{path}: expected a bag (.h5) or a folder of bags, found nothing")
        inside = _bags_in(path) if path.is_dir() else _packed_in(path) if is_pack(path) else [path]
        for bag in inside:
            other = found.setdefault(bag.stem, bag)
            if other.resolve() != bag.resolve():
                raise RequestError(
                    f"two bags are named {bag.stem}: {other} and {bag}; give one of them, or join several encoders' "
                    "bags: gigamil train FOLDER FOLDER --fusion concat (or late)"
                )
    if not found:
        raise RequestError(f"no bag (*.h5) in {', '.join(map(str, paths)) or 'an empty list'}: run gigamil extract")
    return [found[stem] for stem in sorted(found)]


def is_pack(path: Path) -> bool:
    """Tell whether a file is a pack of bags."""
    try:
        return read_hdf5(path, lambda file: Attributes(file, path).text("format")) == PACK_FORMAT
    except (BagError, OSError):
        return False


def _packed_in(pack: Path) -> list[Path]:
    return [pack / f"{name}.h5" for name in read_hdf5(pack, list)]


def _bags_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.h5") if not path.name.startswith(".")]

"""How tools write bags, and how their facts are found.

- ours: see `features.bags.bag`
- CLAM: features (N,D) f32, coords (N,2) int32 level-0 px, no attributes
- TRIDENT: features (N,D), coords (N,2) int64 level-0 px, attributes on coords
- STAMP: feats (N,D) f16, coords (N,2) f32 micrometres, attributes on the file (unit='um', tile_size_um, tile_size_px)
- UNI2-h's releases: features (1,N,D), coords (1,N,2)
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.bags.hdf5 import Attributes, dataset_of
from wsi.cohort.manifest import check_id
from wsi.errors import BagError, ManifestError

FEATURE_KEYS = ("features", "feats", "patch_embeddings")
UM_PER_POWER = 10.0
"""um/px of an objective power of 1: 20x is 0.5."""
LARGEST_L0_PX = 2.0**53
"""No slide is as large; coordinates beyond it are not pixels."""
DEEPEST_JSON = 40
"""Levels of a recipe or a provenance; ours have fewer than ten."""


@dataclass(frozen=True, slots=True)
class OpenBag:
    """An open file whose datasets have been looked at."""

    path: Path
    file: Any
    features: Any
    """Dataset (N, D) or (1, N, D) of some float type."""
    coords: Any | None
    """Dataset (N, 2) or (1, N, 2) of numbers."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (N, D)."""
        n_tiles, dim = self.features.shape[-2:]
        return int(n_tiles), int(dim)


def open_bag(file: Any, path: Path) -> OpenBag:
    """Look at the datasets of an open HDF5 file.

    Raises
    ------
    BagError
        No dataset of features, values in other files, other shapes or types, or more values declared than held.
    """
    found = ((key, dataset_of(file, key, path)) for key in FEATURE_KEYS)
    key, features = next(((key, one) for key, one in found if one is not None), ("", None))
    if features is None:
        raise BagError(f"{path}: expected a dataset {' or '.join(FEATURE_KEYS)}, found {_names(file)}")
    shape = features.shape
    if not _is_table(shape) or shape[-1] < 1 or features.dtype.kind != "f":
        raise BagError(f"{path}: expected {key} as floats of shape (tiles, dim), found {shape} {features.dtype}")
    coords = dataset_of(file, "coords", path)
    if coords is not None:
        if not _is_table(coords.shape) or coords.shape[-1] != 2 or coords.dtype.kind not in "iuf":
            raise BagError(
                f"{path}: expected coords as numbers of shape (tiles, 2), found {coords.shape} {coords.dtype}"
            )
        if coords.shape[-2] != shape[-2]:
            raise BagError(
                f"{path}: expected as many coordinates as features, found {coords.shape[-2]} and {shape[-2]}"
            )
    return OpenBag(path, file, features, coords)


def _is_table(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)


def _names(file: Any) -> str:
    names = [name for name, _ in zip(file, range(10), strict=False)]
    return f"{', '.join(names)}{' ...' if len(file) > len(names) else ''}" if names else "none"


def xy_rows(bag: OpenBag) -> npt.NDArray[Any]:
    """Return ``coords`` as (N, 2), in the file's type, unit and (x, y) order; `BagError` where there are none."""
    if bag.coords is None:
        raise BagError(f"{bag.path}: expected a dataset coords, found {_names(bag.file)}")
    xy = np.asarray(bag.coords[()]).reshape(-1, 2)
    if len(xy) and not (np.abs(xy.astype(np.float64)) < LARGEST_L0_PX).all():
        raise BagError(f"{bag.path}: expected coords as pixels or micrometres on a slide, found NaN or numbers beyond")
    return xy


def um_coords_message(path: Path) -> str:
    """Say why coordinates in micrometres cannot be used as they are."""
    return (
        f"{path}: its coordinates are micrometres (STAMP's form): expected the um/px of the slide's level 0, "
        "found none; give it (column mpp of the manifest)"
    )


def is_in_um(bag: OpenBag) -> bool:
    """Tell whether coordinates are micrometres."""
    return Attributes(bag.file, bag.path).text("unit") == "um"


def header_facts(bag: OpenBag) -> dict[str, Any]:
    """Return the fields of a `BagHeader` that stand in attributes, in different places in different tools' files."""
    root, of_features, of_coords = (Attributes(one, bag.path) for one in (bag.file, bag.features, bag.coords))
    height, width = of_coords.whole("level0_height"), of_coords.whole("level0_width")
    return {
        "image_id": _image_id(root.text("image_id") or bag.path.stem, bag.path),
        "encoder": of_features.text("encoder") or root.text("extractor"),
        "tile_px_l0": _tile_px_l0(bag, root, of_coords),
        "tile_px": of_coords.number("patch_size") or root.number("tile_size_px"),
        "level0_shape_yx": None if height is None or width is None else (height, width),
        "mpp": _mpp(root, of_coords),
        "recipe": _json(root, "recipe", bag.path),
        "recipe_hash": root.text("recipe_hash"),
        "provenance": _provenance(root, bag.path),
        "content_sha256": root.text("content_sha256"),
    }


def _image_id(found: str, path: Path) -> str:
    try:
        return check_id(found, str(path))
    except ManifestError as error:
        raise BagError(str(error)) from None


def _json(root: Attributes, name: str, path: Path) -> dict[str, Any]:
    """Return a JSON object of plain values; empty where there is none."""
    try:
        content = json.loads(root.text(name) or "{}", parse_constant=_no_number)
        if isinstance(content, dict) and _depth(content) <= DEEPEST_JSON:
            return content
    except (ValueError, RecursionError):
        pass
    raise BagError(f"{path}: its {name} is not JSON as gigamil extract writes it: extract it again")


def _provenance(root: Attributes, path: Path) -> dict[str, Any]:
    """Return where the features come from: encoder and versions are objects, where they are told."""
    told = _json(root, "provenance", path)
    if not _is_object(told.get("versions")) or not _is_encoder(told.get("encoder")):
        raise BagError(f"{path}: its provenance is not as gigamil extract writes it: extract it again")
    return told


def _is_object(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _is_encoder(value: Any) -> bool:
    """Tell whether this can be said of an encoder: an object, and so are those that it is joined of or stands on."""
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(members := value.get("members", []), list):
        return False
    return None not in members and all(map(_is_encoder, [*members, value.get("tiles")]))


def _no_number(text: str) -> float:
    raise ValueError(text)


def _depth(content: Any) -> int:
    """Return how many levels of objects and lists stand in each other; counting ends above `DEEPEST_JSON`."""
    level, depth = [content], 0
    while level and depth <= DEEPEST_JSON:
        inner = [one for one in level if isinstance(one, dict | list)]
        level = [value for one in inner for value in (one.values() if isinstance(one, dict) else one)]
        depth += bool(inner)
    return depth


def _tile_px_l0(bag: OpenBag, root: Attributes, of_coords: Attributes) -> float:
    given = root.number("tile_px_l0") or of_coords.number("patch_size_level0")
    if given is not None:
        return given
    return 0.0 if bag.coords is None or is_in_um(bag) else smallest_step(xy_rows(bag))


def smallest_step(xy: npt.NDArray[Any]) -> float:
    """Return the smallest distance above 0 between coordinates of one axis: the tile side of a grid; 0.0 if none."""
    steps = [np.diff(np.unique(axis)) for axis in xy.T]
    return float(min((step.min() for step in steps if step.size), default=0.0))


def _mpp(root: Attributes, of_coords: Attributes) -> float | None:
    """Return the tiles' um/px: as written, or by TRIDENT's nominal objective powers; None where nothing tells it."""
    if (given := root.number("mpp")) is not None:
        return given
    um, px = root.number("tile_size_um"), root.number("tile_size_px")
    if um and px:
        return um / px
    if power := of_coords.number("target_magnification"):
        return UM_PER_POWER / power
    l0_power, px, l0_px = (
        of_coords.number(name) for name in ("level0_magnification", "patch_size", "patch_size_level0")
    )
    return UM_PER_POWER / l0_power * l0_px / px if l0_power and px and l0_px else None

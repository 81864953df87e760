"""How other tools write bags, and how their facts are found.

- CLAM: features (N,D) f32, coords (N,2) int32 level-0 px, no attributes
- TRIDENT: features (N,D), coords (N,2) int64 level-0 px, attributes on coords
- STAMP: feats (N,D) f16, coords (N,2) f32 micrometres, attributes on the file (unit='um', tile_size_um, tile_size_px)
- UNI2-h's releases: features (1,N,D), coords (1,N,2)
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi.errors import BagError

FEATURE_KEYS = ("features", "feats", "patch_embeddings")


def features_dataset(file: Any, path: Path) -> Any:
    """Return the dataset of features of an open HDF5 file: (N, D) or (1, N, D), any float type; else `BagError`."""
    key = next((key for key in FEATURE_KEYS if key in file), None)
    if key is None:
        raise BagError(f"{path}: expected a dataset {' or '.join(FEATURE_KEYS)}, found {', '.join(file) or 'none'}")
    dataset = file[key]
    shape: tuple[int, ...] = getattr(dataset, "shape", ())
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 1) or dataset.dtype.kind != "f":
        raise BagError(f"{path}: expected {key} as floats of shape (tiles, dim), found {shape} {_dtype(dataset)}")
    return dataset


def xy_rows(file: Any, path: Path) -> npt.NDArray[Any]:
    """Return ``coords`` as (N, 2), in the file's type, unit and (x, y) order; else `BagError`."""
    if "coords" not in file:
        raise BagError(f"{path}: expected a dataset coords, found {', '.join(file)}")
    xy = np.asarray(file["coords"][()])
    xy = xy[0] if xy.ndim == 3 and xy.shape[0] == 1 else xy
    if xy.ndim != 2 or xy.shape[1] != 2 or xy.dtype.kind not in "iuf":
        raise BagError(f"{path}: expected coords as numbers of shape (tiles, 2), found {xy.shape} {xy.dtype}")
    return xy


def um_coords_message(path: Path) -> str:
    """Say why coordinates in micrometres cannot be used as they are."""
    return (
        f"{path}: its coordinates are micrometres (STAMP's form): expected the um/px of the slide's level 0, "
        "found none; give it (column mpp of the manifest)"
    )


def header_facts(file: Any, path: Path, n_tiles: int) -> dict[str, Any]:
    """Return the fields of a `BagHeader` that stand in different places in different tools' files."""
    coords = dict(file["coords"].attrs) if "coords" in file else {}
    features = dict(features_dataset(file, path).attrs)
    root = dict(file.attrs)
    if "coords" in file and (n_coords := file["coords"].shape[-2]) != n_tiles:
        raise BagError(f"{path}: expected as many coordinates as features, found {n_coords} and {n_tiles}")
    height, width = coords.get("level0_height"), coords.get("level0_width")
    return {
        "image_id": str(root.get("image_id", path.stem)),
        "encoder": str(features.get("encoder", root.get("extractor", ""))),
        "tile_px_l0": _tile_px_l0(file, path, root, coords),
        "level0_shape_yx": None if height is None or width is None else (int(height), int(width)),
        "mpp": _mpp(root),
    }


def _tile_px_l0(file: Any, path: Path, root: dict[str, Any], coords: dict[str, Any]) -> float:
    given = root.get("tile_px_l0", coords.get("patch_size_level0"))
    if given is not None:
        return float(given)
    return 0.0 if "coords" not in file or root.get("unit") == "um" else smallest_step(xy_rows(file, path))


def smallest_step(xy: npt.NDArray[Any]) -> float:
    """Return the smallest distance above 0 between coordinates of one axis: the tile side of a grid; 0.0 if none."""
    steps = [np.diff(np.unique(axis)) for axis in xy.T]
    return float(min((step.min() for step in steps if step.size), default=0.0))


def _mpp(root: dict[str, Any]) -> float | None:
    if "mpp" in root:
        return float(root["mpp"])
    um, px = root.get("tile_size_um"), root.get("tile_size_px")
    return float(um) / float(px) if um and px else None


def _dtype(dataset: Any) -> str:
    return str(getattr(dataset, "dtype", "a group"))

"""Regions drawn in a viewer and kept as an OME-Zarr label: of a tile store, or of any OME-Zarr image."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi.errors import SlideError, one_line, says_damage
from wsi.files.regular import irregular_below

if TYPE_CHECKING:
    import zarr

_MOST_BYTES = 1 << 30
"""Of the level that is read."""
ROI_LABEL = "roi"
"""The label that is meant where a store has several."""


def is_label(path: Path) -> bool:
    """Tell whether a path is a label group: ``<store>.zarr/labels/<name>``."""
    return path.parent.name == "labels" and path.is_dir()


def label_of(store: Path) -> Path:
    """Return the label of a store that holds the regions: ``roi``, or the only one there is.

    Raises
    ------
    SlideError
        The store has no label, or several and none is called ``roi``.
    """
    names = sorted(path.name for path in (store / "labels").glob("*") if path.is_dir())
    if ROI_LABEL in names:
        return store / "labels" / ROI_LABEL
    if len(names) == 1:
        return store / "labels" / names[0]
    found = f"{len(names)} ({', '.join(names)})" if names else "none"
    raise SlideError(f"--roi {store}: expected a label called {ROI_LABEL}, or a single one; found {found}")


def read_label(path: Path, long_side: int) -> NDArray[np.integer[Any]]:
    """Return a label as a picture, (h, w), 0 = nothing: its smallest level of at least ``long_side``, else its largest.

    Raises
    ------
    SlideError
        It is no OME-Zarr label, or not a plane.
    """
    import zarr

    try:
        if odd := irregular_below(path):
            raise ValueError(odd)
        group = zarr.open_group(path, mode="r")
        attributes: dict[str, Any] = dict(group.attrs)
        scales = attributes.get("ome", attributes)["multiscales"][0]["datasets"]
        arrays = [_array(group, entry["path"]) for entry in scales]
        fitting = [array for array in arrays if max(array.shape) >= long_side]
        chosen = min(fitting, key=lambda array: max(array.shape)) if fitting else arrays[0]
        if chosen.nbytes > _MOST_BYTES:
            raise ValueError(f"it declares {chosen.shape}: expected at most {_MOST_BYTES:,} bytes")
        picture = np.asarray(chosen[...])
    except Exception as error:  # zarr raises nearly anything on what is no zarr
        if not says_damage(error):
            raise
        raise SlideError(f"--roi {path}: cannot be read as an OME-Zarr label ({one_line(error, 200)})") from None
    plane = picture.reshape(picture.shape[-2:]) if picture.ndim >= 2 and picture.size else picture
    if plane.ndim != 2 or not plane.size or plane.dtype.kind not in "iub":
        raise SlideError(f"--roi {path}: expected a plane of whole numbers, found {picture.shape} {picture.dtype}")
    return plane


def _array(group: "zarr.Group", name: Any) -> "zarr.Array[Any]":
    import zarr

    if not isinstance(name, str) or ".." in name.split("/") or name.startswith("/"):
        raise ValueError(f"path {name!r} leads out of the label")
    array = group[name]
    if not isinstance(array, zarr.Array) or not array.shape:
        raise ValueError(f"{name}: expected an array")
    return array


def label_hash(path: Path) -> str:
    """Return the sha256 of a label's files."""
    digest = hashlib.sha256()
    for file in sorted(part for part in path.rglob("*") if part.is_file()):
        digest.update(file.relative_to(path).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()

"""The small images beside a store's own: the tissue mask as an OME-Zarr label, the overview as an image of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import RGB
from wsi.pixels.resample import halve
from wsi.store.layout import FILL, group, multiscales, omero, write_json, write_small_array
from wsi.units import YX

_OVERVIEW_PX = 1024
"""Longest side of the overview's last level."""


def write_tissue_label(store: Path, mask: NDArray[Any], um: float, mpp: float, factors: Sequence[int]) -> None:
    """Write the mask into a store's folder, with as many levels as the image has, as far from each other.

    Parameters
    ----------
    mask
        (h, w) of 0 and 1.
    um, mpp
        um per pixel of the mask, and of the store's level 0.
    factors
        Of the image's levels, from 1.
    """
    folder = store / "labels" / "tissue"
    levels = [mask[::factor, ::factor] for factor in factors]
    for i, level in enumerate(levels):
        write_small_array(folder / str(i), level, ("y", "x"))
    shapes = [YX(*level.shape) for level in levels]
    label = {
        "version": "0.5",
        "multiscales": [multiscales("tissue", shapes, um, "yx", (um - mpp) / 2, averaged=False, factors=factors)],
        "image-label": {
            "colors": [{"label-value": 1, "rgba": [0, 160, 0, 96]}],
            "properties": [{"label-value": 1, "name": "tissue"}],
            "source": {"image": "../../"},
        },
    }
    write_json(folder / "zarr.json", group({"ome": label}))
    write_json(folder.parent / "zarr.json", group({"ome": {"version": "0.5", "labels": ["tissue"]}}))


def write_overview(store: Path, rgb: RGB, um: float, mpp: float) -> None:
    """Write the overview, uint8 (h, w, 3) of ``um`` per pixel, into the folder of a store of ``mpp``."""
    folder = store / "overview"
    levels = [rgb]
    while max(levels[-1].shape) > _OVERVIEW_PX and min(levels[-1].shape[:2]) > 1:
        levels.append(halve(levels[-1]))
    for i, level in enumerate(levels):
        write_small_array(folder / str(i), np.stack(cv2.split(level)), ("c", "y", "x"), FILL)
    shapes = [YX(*level.shape[:2]) for level in levels]
    scales = multiscales("overview", shapes, um, "cyx", (um - mpp) / 2)
    write_json(folder / "zarr.json", group({"ome": {"version": "0.5", "multiscales": [scales], "omero": omero()}}))

"""Labels of tiles from drawn regions: of the class in which at least half of the tile lies."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from wsi.annotations.regions import areas_by_class, tile_shares
from wsi.arrays import Ints

HALF = 0.5


def tile_labels(
    file: Path, l0_yx: Ints, l0_side: float, classes: Sequence[str] = (), rest: str | None = None
) -> dict[str, Ints]:
    """Return the positions of the tiles of each class, sorted.

    A tile has the class in which most of it lies, and no less than half; none where two classes hold it alike.

    Parameters
    ----------
    file
        GeoJSON of the slide.
    l0_yx, l0_side
        (N, 2) upper left corners of the tiles, and their side, in level-0 pixels.
    classes
        Only these; empty for all but those that QuPath ignores.
    rest
        Class of the tiles that no region touches, ignored ones included.

    Raises
    ------
    AnnotationError
        The file cannot be used.
    """
    areas, ignored = areas_by_class(file, classes)
    shares_CN = np.array([tile_shares(area, l0_yx, l0_side) for area in areas.values()]).reshape(-1, len(l0_yx))
    found: dict[str, Ints] = {}
    if areas:
        best_N = shares_CN.max(axis=0)
        sure_N = (best_N >= HALF) & ((shares_CN == best_N).sum(axis=0) == 1)
        own_N = shares_CN.argmax(axis=0)
        found = {name: np.flatnonzero(sure_N & (own_N == i)) for i, name in enumerate(areas)}
    if rest is not None:
        boxes = tile_shares(shapely.union_all([*areas.values(), ignored]), l0_yx, l0_side)
        found[rest] = np.union1d(found.get(rest, np.empty(0, np.int64)), np.flatnonzero(boxes == 0))
    return {name: tiles for name, tiles in found.items() if len(tiles)}

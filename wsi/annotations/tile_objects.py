"""Tiles with a number or more for each, as QuPath's `tile` objects: what its measurement maps show."""

import json
import uuid
from collections.abc import Iterator, Mapping
from itertools import repeat

import numpy as np

from wsi.annotations.geojson import NAMESPACE
from wsi.arrays import Features, Floats, Ints

_AT_ONCE = 4096
_BITS = 0xFFFFFF
"""Of a place's whole pixels, which end an id: no slide is wider."""


def tile_lines(
    l0_yx: Floats | Ints | Features, l0_side: float, values: Mapping[str, Features], seed: str
) -> Iterator[bytes]:
    """Yield each tile as a feature of GeoJSON, for `wsi.annotations.geojson.write_geojson`.

    Parameters
    ----------
    l0_yx
        (n, 2), each tile's upper left corner in level-0 pixels of the slide.
    l0_side
        Side of a tile, level-0 pixels.
    values
        Measurements by name, each (n); NaN where a tile has none.
    seed
        What the ids are made of, with a tile's place: the image id, so that the same tile keeps its id.
    """
    base = str(uuid.uuid5(NAMESPACE, f"{seed} {l0_side:.16g}"))[:24]
    names = [json.dumps(name) for name in values]
    for start in range(0, len(l0_yx), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        top_left = np.asarray(l0_yx[part], np.float64)
        corners = np.concatenate([top_left, top_left + l0_side], axis=1)
        columns = [_column(name, values[own][part]) for name, own in zip(names, values, strict=True)]
        told = (",".join(filter(None, own)) for own in zip(*columns, strict=True)) if columns else repeat("")
        places = [[f"{own:.16g}" for own in column] for column in corners.T.tolist()]
        nodes = [f"{int(y) & _BITS:06x}{int(x) & _BITS:06x}" for y, x in top_left.tolist()]
        for node, y0, x0, y1, x1, measured in zip(nodes, *places, told, strict=False):
            yield (
                f'{{"type":"Feature","id":"{base}{node}","geometry":{{"type":"Polygon","coordinates":[[[{x0},{y0}],'
                f'[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]]}},"properties":{{"objectType":"tile",'
                f'"measurements":{{{measured}}}}}}}'
            ).encode()


def _column(name: str, values: Features) -> list[str]:
    """Return ``"name":value`` for each tile, in digits that give float32 back; nothing where there is no value."""
    finite = np.isfinite(values)
    told = [f"{name}:{value:.9g}" for value in np.asarray(values, np.float64).tolist()]
    return told if finite.all() else [own if there else "" for own, there in zip(told, finite, strict=True)]

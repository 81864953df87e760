"""What a page says of a slide: one JSON object, the same in a folder of pages and on a server.

Positions are in pixels of level 0 as shown, (x, y) in rings; tiles are told by row and column. Arrays are base64 of
little-endian bytes; a value that is not known is NaN.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi.arrays import Mask
from wsi.recipe import Json
from wsi.store.tile_store import TileStore
from wsi.viewing.picture import Picture

VERSION = 1
"""Of both documents; the front end goes by it."""
Kind = Literal["factor", "rank", "absolute", "push", "disagreement", "score"]
GALLERY = 12
"""Tiles of the highest and of the lowest values that a page shows."""
_MOST_POINTS = 20_000
"""Of a tissue outline; a finer one is simplified further."""
SCORES: dict[str, tuple[str, bool, str]] = {
    "focus": ("Sharpness", True, "Fine structure against coarse structure of the tile; blurred tissue has little."),
    "texture": ("Texture", True, "How much the brightness varies within 8 \N{MICRO SIGN}m; empty glass has little."),
    "tissue": ("Tissue share", False, "Part of the tile that the tissue mask covers."),
    "darkness": ("Darkness", False, "Mean optical density of the tile: how much light it absorbs."),
    "pen": ("Pen", False, "Part of the tile that looks like ink on the glass."),
    "fold": ("Fold", False, "Part of the tile that looks like folded tissue."),
    "bubble": ("Bubble or dirt", False, "Part of the tile that is dark without a stain's colour."),
    "duplicate": (
        "Repeated section",
        False,
        "Which piece of tissue repeats another one of this slide; 0: none.",
    ),
}
"""Tile scores of a store in the order in which they are offered: name, whether on a log scale, meaning."""


def slide_document(picture: Picture, store: TileStore | None) -> Json:
    """Return what a page says of a slide without any model.

    Parameters
    ----------
    picture
        What is shown.
    store
        The tile store of the same picture, which knows tissue and scores; None where there is none.

    Raises
    ------
    ItemError
        The slide or store is damaged.
    """
    height, width = picture.levels[0]
    layers = [] if store is None else score_layers(store)
    return {
        "version": VERSION,
        "id": picture.image_id,
        "patient": None,
        "title": picture.image_id,
        "width": width,
        "height": height,
        "levels": [list(shape) for shape in picture.levels],
        "factors": list(picture.factors),
        "tile_px": picture.tile_px,
        "mpp": picture.mpp if math.isfinite(picture.mpp) else None,
        "l0_per_px": picture.l0_px_per_px,
        "background": list(picture.background),
        "present": [_bits(picture, level) for level in range(len(picture.levels))],
        "outline": [] if store is None else tissue_outline(*store.tissue_mask(), picture.mpp),
        "store_tile_px": picture.tile_px,
        "n": 0 if store is None else store.n_tiles,
        "places": packed(np.zeros((0, 2)) if store is None else store.tiles_yx, "<i4"),
        "layers": layers,
        **gallery(layers),
        "prediction": None,
        "facts": facts(picture, store),
        "warnings": [] if store is None else [str(line) for line in store.provenance.get("warnings", ())],
        "icc": None if store is None else _icc(store),
        "home": "../../index.html",
    }


def cohort_document(title: str, said: str, columns: Sequence[Json], slides: Sequence[Json]) -> Json:
    """Return what the page of a cohort says: its columns, and its slides in the order in which they first stand."""
    return {"version": VERSION, "title": title, "said": said, "columns": list(columns), "slides": list(slides)}


def column(key: str, name: str, kind: str, *, sort: str | None = None, choices: bool = False) -> Json:
    """Return a column of a cohort's table.

    Parameters
    ----------
    kind
        ``text``, ``number``, ``share`` (0 to 1, shown in percent) or ``yesno``.
    sort
        ``up`` or ``down``: how it sorts when asked for; None: it does not.
    choices
        Slides can be chosen by it.
    """
    return {"key": key, "name": name, "kind": kind, "sort": sort, "filter": choices}


def cohort_row(image_id: str, patient: str | None, values: Mapping[str, Any]) -> Json:
    """Return a slide's row of a cohort's table."""
    place = f"slides/{quoted(image_id)}"
    links = {"href": f"{place}/index.html", "thumb": f"{place}/thumb.jpg"}
    return {"id": image_id, "patient": patient, **links, "values": dict(values)}


def quoted(image_id: str) -> str:
    """Return an id as a part of a URL."""
    from urllib.parse import quote

    return quote(image_id, safe="")


def script(call: Literal["slide", "cohort"], document: Json) -> bytes:
    """Return a document as the script that hands it to the front end: what a page opened from a folder may load."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f"gigamil.{call}({text});\n".encode()


def packed(values: NDArray[Any], dtype: str) -> str:
    """Return an array as base64 of its bytes in C order."""
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


def layer(
    key: str,
    name: str,
    kind: Kind,
    values: NDArray[Any],
    how: str,
    *,
    class_name: str | None = None,
    window: tuple[float, float] | None = None,
    centre: float | None = None,
    log: bool = False,
) -> Json:
    """Return one layer of tile values.

    Parameters
    ----------
    values
        One for each listed tile (n,); NaN where it is not known.
    how
        How they were computed, as a sentence.
    window
        Values at the ends of the colours; the least and the most that there is where not given, of log scales above 0.
    centre
        What the colours diverge from.
    """
    known = values[np.isfinite(values) & ((values > 0) | (not log))]
    low, high = window or ((float(known.min()), float(known.max())) if len(known) else (0.0, 1.0))
    return {
        "key": key,
        "name": name,
        "kind": kind,
        "class": class_name,
        "values": packed(values, "<f4"),
        "low": low,
        "high": high,
        "centre": centre,
        "scale": "log" if log and low > 0 else "linear",
        "how": how,
    }


def score_layers(store: TileStore) -> list[Json]:
    """Return the store's tile scores as layers; those that are the same everywhere, or nowhere known, say nothing."""
    found = {"tissue": store.tissue, **store.scores}
    order = sorted(found, key=lambda name: (list(SCORES).index(name) if name in SCORES else len(SCORES), name))
    told = []
    for name in order:
        known = found[name][np.isfinite(found[name])]
        if len(known) and (name == "tissue" or known.min() < known.max()):
            title, log, how = SCORES.get(name, (name, False, f"The tile score {name} of the store."))
            told.append(layer(name, title, "score", found[name], how, log=log))
    return told


def gallery(layers: Sequence[Json]) -> Json:
    """Return the tiles of the highest and of the lowest values of the first layer, ``top`` and ``bottom``.

    Of multiples of a mean the highest are above it: what is below does not stand out.
    """
    if not layers:
        return {"top": [], "bottom": []}
    values = np.frombuffer(base64.b64decode(layers[0]["values"]), "<f4")
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(-values[known], kind="stable")]
    count = min(GALLERY, -(-len(order) // 2))
    if layers[0]["kind"] == "factor":
        count = min(count, max(1, int((values[known] > 1).sum())))
    top = order[:count]
    return {"top": top.tolist(), "bottom": order[len(top) :][::-1][:GALLERY].tolist()}


def tissue_outline(mask: Mask, mask_mpp: float, mpp: float) -> list[list[list[int]]]:
    """Return the outline of the tissue as rings of (x, y) in pixels of ``mpp``; holes are rings of their own."""
    contours, _ = cv2.findContours((mask > 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    tolerance, rings = 0.75, list(contours)
    while True:
        simple = [cv2.approxPolyDP(ring, tolerance, closed=True)[:, 0] for ring in rings]
        rings = [ring for ring, kept in zip(rings, simple, strict=True) if len(kept) > 2]
        simple = [kept for kept in simple if len(kept) > 2]
        if sum(map(len, simple)) <= _MOST_POINTS:
            break
        tolerance *= 2
    return [np.rint((kept + 0.5) * (mask_mpp / mpp)).astype(int).tolist() for kept in simple]


def facts(picture: Picture, store: TileStore | None) -> list[list[str]]:
    """Return facts of the slide as pairs of name and text."""
    height, width = picture.levels[0]
    pixels = f"{width:,} \N{MULTIPLICATION SIGN} {height:,} pixels"
    if not math.isfinite(picture.mpp):
        return [["Size", pixels], ["Resolution", "not known: the file does not say it"]]
    sides = " \N{MULTIPLICATION SIGN} ".join(f"{side * picture.mpp / 1000:.1f}" for side in (width, height))
    told = [
        ["Size", f"{sides} mm ({pixels})"],
        ["Resolution", f"{picture.mpp:.4g} \N{MICRO SIGN}m per pixel"],
    ]
    if store is None:
        return told
    provenance = store.provenance
    if provenance.get("mpp_source"):
        told[1][1] += f" (from: {provenance['mpp_source']})"
    mask, mask_mpp = store.tissue_mask()
    told.append(["Tissue", f"{float((mask > 0).sum()) * mask_mpp**2 / 1e6:.1f} mm\N{SUPERSCRIPT TWO}"])
    told.append(["Tiles", f"{store.n_tiles:,} of {picture.tile_px * picture.mpp:.0f} \N{MICRO SIGN}m a side"])
    if damaged := provenance.get("damaged_tiles"):
        told.append(["Damaged tiles", f"{damaged}, shown in magenta"])
    return told


def _bits(picture: Picture, level: int) -> str:
    return base64.b64encode(np.packbits(picture.present(level).ravel(), bitorder="little").tobytes()).decode()


def _icc(store: TileStore) -> Json | None:
    told = store.meta.get("icc")
    return {"applied": bool(told.get("applied"))} if isinstance(told, dict) else None

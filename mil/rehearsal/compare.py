"""What differs between the plain and the production settings' outputs, and whether it may."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from features.bags.bag import read_coords, read_features, read_header
from mil.rehearsal.options import Rehearsed
from wsi.arrays import Floats
from wsi.errors import GigamilError
from wsi.files.csv_table import read_records
from wsi.progress.outcome import Outcome, Status
from wsi.store.tile_store import TileStore

_TILES = 64
"""Read at once."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which the production settings are not as the plain ones."""

    stage: str
    """As `gigamil run` names it, with the encoder or experiment."""
    item: str
    """Slide, or pair of slides."""
    what: str
    """In words: what differs, by how much, and what was allowed."""
    found: float | None = None
    tolerance: float | None = None

    def __str__(self) -> str:
        return f"{self.stage}, {self.item}: {self.what}"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        own = asdict(self)
        return own | {key: None for key in ("found", "tolerance") if own[key] is not None and not isfinite(own[key])}


def endings(stage: str, plain: Sequence[Outcome], production: Sequence[Outcome]) -> list[Difference]:
    """Return the items that ended well under one of the settings only."""
    ways = [{own.item_id: own for own in outcomes} for outcomes in (plain, production)]
    found = []
    for item in dict.fromkeys((*ways[0], *ways[1])):
        one, other = (way.get(item) for way in ways)
        if (one is None or one.status is Status.FAILED) == (other is None or other.status is Status.FAILED):
            continue
        worse, name = (other, "production") if one is not None and one.status is not Status.FAILED else (one, "plain")
        why = worse.reason if worse is not None else "it was not made"
        found.append(Difference(stage, item, f"failed under the {name} settings only: {why}"))
    return found


def stores(stage: str, plain: Path, production: Path) -> list[Difference]:
    """Return in what two folders of stores differ; nothing may."""
    found = []
    for path in sorted(plain.glob("*.zarr")):
        other = production / path.name
        if other.exists() and (what := _store(TileStore(path), TileStore(other))):
            found.append(Difference(stage, path.stem, what))
    return found


def _store(plain: TileStore, production: TileStore) -> str:
    if plain.mpp != production.mpp or plain.shape_yx != production.shape_yx:
        told = f"{production.shape_yx} at {production.mpp} um/px, plainly {plain.shape_yx} at {plain.mpp}"
        return f"another size or scale: {told}"
    ours, theirs = ({tuple(own) for own in store.tiles_yx.tolist()} for store in (plain, production))
    if ours != theirs:
        where = min(ours ^ theirs)
        return (
            f"other tiles: {len(theirs)} where {len(ours)} were expected, "
            f"the first of {len(ours ^ theirs)} that differ at (row, column) {where}"
        )
    count, first, most = 0, None, 0
    for start in range(0, plain.n_tiles, _TILES):
        at = np.arange(start, min(start + _TILES, plain.n_tiles))
        apart = np.abs(plain.read_tiles(at).astype(np.int16) - production.read_tiles(at)).reshape(len(at), -1).max(1)
        if apart.any() and first is None:
            first = tuple(plain.tiles_yx[at[np.flatnonzero(apart)[0]]].tolist())
        count, most = count + int((apart > 0).sum()), max(most, int(apart.max()))
    if count:
        return f"other pixels in {count} of {plain.n_tiles} tiles, by up to {most} grey levels, the first at {first}"
    return ""


def bags(stage: str, plain: Path, production: Path, asked: Rehearsed) -> tuple[list[Difference], dict[str, float]]:
    """Return in what two folders of bags differ beyond the tolerance, and the largest figures that were seen."""
    found, seen = [], {"features": 0.0, "cosine": 1.0}
    for path in sorted(plain.glob("*.h5")):
        if not (production / path.name).exists():
            continue
        try:
            own = _bag(stage, path, production / path.name, asked, seen)
        except GigamilError as error:
            own = [Difference(stage, path.stem, f"cannot be compared: {error}")]
        found += own
    return found, seen


def _bag(stage: str, plain: Path, production: Path, asked: Rehearsed, seen: dict[str, float]) -> list[Difference]:
    name = plain.stem
    if not np.array_equal(read_coords(plain), read_coords(production)):
        return [Difference(stage, name, "other tiles, or in another order")]
    ours, theirs = (read_features(path).astype(np.float64) for path in (plain, production))
    if ours.shape != theirs.shape:
        return [Difference(stage, name, f"features of {theirs.shape[1]} values, plainly {ours.shape[1]}")]
    if not len(ours):
        return []
    sizes = np.maximum(np.linalg.norm(ours, axis=1), 1e-12)
    relative = float(np.median(np.linalg.norm(ours - theirs, axis=1) / sizes))
    cosine_N = (ours * theirs).sum(1) / (sizes * np.maximum(np.linalg.norm(theirs, axis=1), 1e-12))
    cosine = float(cosine_N.min())
    seen["features"], seen["cosine"] = max(seen["features"], relative), min(seen["cosine"], cosine)
    precision = str(read_header(production).recipe.get("precision", "fp32"))
    allowed = float(getattr(asked, precision))
    if relative > allowed:
        what = (
            f"features differ by {relative:.2%} (median of {len(ours)} tiles), allowed for {precision}: {allowed:.2%}"
        )
        return [Difference(stage, name, what, relative, allowed)]
    if cosine < asked.cosine:
        what = (
            f"features of tile {int(cosine_N.argmin())} point elsewhere: cosine {cosine:.4f}, allowed: {asked.cosine}"
        )
        return [Difference(stage, name, what, cosine, asked.cosine)]
    return []


def told_of(oof: Path) -> dict[str, Floats]:
    """Return what a run tells of each slide out of fold, by image id."""
    rows = [row for row in read_records(oof) if row["level"] == "slide"]
    return {row["image_id"]: np.array([float(row[key]) for key in row if key.startswith("p_")]) for row in rows}


def scores(
    stage: str, plain: Mapping[str, Floats], production: Mapping[str, Floats], tolerance: float
) -> tuple[list[Difference], float]:
    """Return in what the answers to slides differ beyond the tolerance, and the largest difference.

    Numbers that are no probabilities count in units of their spread. The order: no two slides change places that the
    plain answers hold apart by more than the tolerance.
    """
    ids = sorted(set(plain) & set(production))
    if not ids:
        return [], 0.0
    ours, theirs = (np.stack([told[name] for name in ids]) for told in (plain, production))
    if ours.min() < 0 or ours.max() > 1:
        spread = np.maximum(ours.std(axis=0), 1e-12)
        ours, theirs = ours / spread, theirs / spread
    apart = np.nan_to_num(np.abs(ours - theirs), nan=np.inf).max(1)
    worst = int(apart.argmax())
    largest = float(apart[worst])
    if largest <= tolerance:
        return [], largest
    beyond = int((apart > tolerance).sum())
    what = f"what is told differs by {largest:.3f}, allowed: {tolerance:g}; so it is for {beyond} of {len(ids)} slides"
    found = [Difference(stage, ids[worst], what, largest, tolerance)]
    first, second = ours[:, 0], theirs[:, 0]
    swapped = ((first[:, None] - first[None]) > tolerance) & (second[:, None] < second[None])
    if swapped.any():
        a, b = np.argwhere(swapped)[0].tolist()
        what = f"{int(swapped.sum())} pairs of slides are in the other order, these two the first"
        found.append(Difference(stage, f"{ids[a]} and {ids[b]}", what))
    return found, largest

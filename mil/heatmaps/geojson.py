"""`gigamil export RUN --geojson`: the scores of a slide's tiles as objects of QuPath, which its measurement maps show.

Each tile is a ``tile`` object with its scores as measurements. Before them stand annotations, one for each connected
region of the tiles of most attention. Coordinates are level-0 pixels of the slide.
"""

import time
import uuid
from itertools import chain
from pathlib import Path

import numpy as np
import shapely
from scipy.ndimage import label

from features.bags.bag import BagHeader
from mil.heatmaps.each_slide import EachSlide
from mil.heatmaps.layers import coloured
from mil.heatmaps.options import GeojsonOptions
from mil.heatmaps.slides import find_slides
from mil.heatmaps.tile_scores import TileScores, tile_scores, top_tiles
from mil.run.folder import RunFolder
from mil.run.outputs import Tables
from wsi.annotations.annotation import Annotation
from wsi.annotations.geojson import NAMESPACE, feature_lines, write_geojson
from wsi.annotations.tile_objects import tile_lines
from wsi.arrays import Features, Floats, Ints
from wsi.errors import RequestError
from wsi.files.atomic import check_folder
from wsi.files.claim import claim
from wsi.files.regular import file_sha256
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary, failed
from wsi.recipe import Json, Recipe
from wsi.store.tile_store import TileStore

MARK = "gigamil-geojson-1"
"""``format`` of geojson.json, which says what each file was made from."""
_COLOUR = (253, 231, 37)
_CORNERS = np.ones((3, 3), int)
"""Tiles that touch by a corner are one region."""


@stage
def export_geojson(options: GeojsonOptions, progress: Progress | None = None) -> Summary:
    """Write a GeoJSON for each slide; a slide that fails is named and the others go on.

    Raises
    ------
    RequestError
        The run is not finished, the bags were not made as the run's bags were, or a wanted slide has no bag.
    """
    start, progress = time.monotonic(), progress or Silent()
    check_folder(options.out)
    run = RunFolder(options.run)
    slides = find_slides(run, options.bags, options.stores, options.image_ids)
    if slides.left_out and not options.image_ids:
        progress.note(slides.left_out)
    with claim(options.out):
        writer = _Writer(options)
        progress.begin("export", len(slides.pairs), "slides")
        outcomes = []
        for pair in slides.pairs:
            outcomes.append(writer(pair))
            progress.advance(1)
        progress.end()
    return Summary("export", [*outcomes, *failed(slides.broken)], time.monotonic() - start)


class _Writer(EachSlide[GeojsonOptions]):
    """Writes the files, and keeps the record of what was written."""

    suffix = ".geojson"

    def __init__(self, options: GeojsonOptions) -> None:
        super().__init__(options)
        self._tables = Tables(options.out / "geojson.json", (), MARK)
        told = self._tables.told() or {}
        self._stamps: Json = dict(told.get("slides", {}))
        self._sums = {options.out / name: str(own) for name, own in told.get("sha256", {}).items()}

    def asked(self) -> Recipe:
        return {"top_share": self.options.top_share, "least_tissue": self.options.least_tissue, "format": MARK}

    def is_there(self, target: Path, stamp: str) -> bool:
        if not target.exists():
            return False
        known = self._stamps.get(target.stem)
        whole = target in self._sums and file_sha256(target) == self._sums[target]
        if known == stamp and whole:
            return True
        stopped = known is not None and target not in self._sums
        if not (self.options.overwrite or stopped):
            what = "was changed since it was written" if known == stamp else "is there and holds something else"
            raise RequestError(f"{target} {what}: choose another --out, or give --overwrite to replace it")
        return False

    def write(self, header: BagHeader, store: TileStore, target: Path, stamp: str) -> Outcome:
        scores = tile_scores(self.ensemble, header, store, self.known)
        regions = top_regions(scores, self.options.top_share, self.options.least_tissue)
        self._sums.pop(target, None)
        self._stamps[header.image_id] = stamp
        self._vouch()  # from here on the file is ours
        tiles = tile_lines(scores.l0_yx, scores.l0_tile_px, measurements(scores), header.image_id)
        write_geojson(target, chain(feature_lines(regions), tiles))
        self._sums[target] = file_sha256(target)
        self._vouch()
        return Outcome(header.image_id, Status.DONE, facts={"tiles": len(scores), "regions": len(regions)})

    def _vouch(self) -> None:
        recipe: Json = {"run": self.ensemble.run.config["recipe_hash"]}
        self._tables.vouch(recipe, {"slides": self._stamps}, self._sums)


def measurements(scores: TileScores) -> dict[str, Features]:
    """Return the scores of the tiles (N,) by the names that QuPath shows."""
    found: dict[str, Features] = {}
    if scores.attends:
        found = {
            "Attention (share)": scores.attention_N,
            "Attention factor": scores.factor_N,
            "Attention percentile": scores.percentile_N,
        }
    if scores.disagreement_N is not None:
        found["Disagreement"] = scores.disagreement_N
    found["Tissue"] = scores.tissue_N
    if scores.push_CN is not None:
        found |= {f"Push: {name}": push_N for name, push_N in zip(scores.outputs, scores.push_CN, strict=True)}
    return found


def top_regions(scores: TileScores, share: float, least_tissue: float) -> list[Annotation]:
    """Return an annotation for each connected region of the tiles that stand out, the weightiest first.

    They are the ``share`` of tiles with the most attention, as far as that is above the slide's mean; of a head without
    attention those that push most towards what is told the highest. Tiles that touch by a corner are connected.
    """
    weight_N, mean, what = _standing_out(scores)
    fit_N = coloured(scores, least_tissue) & (weight_N > mean)
    most = max(1, round(share * len(scores)))
    top_N = top_tiles(np.where(fit_N, weight_N, -np.inf), min(most, int(fit_N.sum())))
    parts = _connected(scores, top_N)
    parts.sort(key=lambda rows: -float(weight_N[rows].sum()))
    return [_region(scores, rows, number, what) for number, rows in enumerate(parts, start=1)]


def _standing_out(scores: TileScores) -> tuple[Floats, float, str]:
    """Return the tiles' weights (N,), above which they count, and what they tell."""
    if scores.attends:
        return scores.factor_N, 1.0, "High attention"
    if scores.push_CN is None:
        return np.zeros(len(scores)), 0.0, ""
    highest = int(np.argmax(scores.outputs_C))
    return scores.push_CN[highest], 0.0, f"Pushes towards {scores.outputs[highest]}"


def _connected(scores: TileScores, top_N: Ints) -> list[Ints]:
    """Return the positions of the tiles of each connected region."""
    if not len(top_N):
        return []
    tiles_yx = scores.tiles_yx[top_N]
    first = tiles_yx.min(axis=0)
    there = np.zeros(tiles_yx.max(axis=0) - first + 1, bool)
    there[tuple((tiles_yx - first).T)] = True
    number_N = label(there, _CORNERS)[0][tuple((tiles_yx - first).T)]
    order = np.argsort(number_N, kind="stable")
    return np.split(top_N[order], np.flatnonzero(np.diff(number_N[order])) + 1)


def _region(scores: TileScores, rows: Ints, number: int, what: str) -> Annotation:
    side = scores.l0_tile_px
    y, x = scores.tiles_yx[rows].T
    shape = shapely.union_all(shapely.box(x * side, y * side, (x + 1) * side, (y + 1) * side)).simplify(0)
    told: dict[str, float] = {"Tiles": len(rows)}
    if scores.attends:
        told |= {
            "Attention (share)": float(scores.attention_N[rows].sum()),
            "Attention factor, mean": float(scores.factor_N[rows].mean()),
            "Attention factor, highest": float(scores.factor_N[rows].max()),
        }
    if scores.push_CN is not None:
        pushes = scores.push_CN[:, rows].sum(axis=1).tolist()
        told |= {f"Push: {name}": push for name, push in zip(scores.outputs, pushes, strict=True)}
    return Annotation(
        geometry=shape,
        id=str(uuid.uuid5(NAMESPACE, f"{scores.image_id} {what} {scores.tiles_yx[rows[0]].tolist()} {len(rows)}")),
        name=f"{what} {number}",
        class_name=what,
        class_color=_COLOUR,
        locked=True,
        measurements=told,
        metadata={"Push": scores.push_how, "Models": _models(scores)},
    )


def _models(scores: TileScores) -> str:
    return f"{scores.models}, none of which has seen the patient" if scores.out_of_fold else f"{scores.models}"

"""`gigamil report --annotations`: the attention of a run against what a person drew, slide by slide."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from features.bags.bag import BagHeader
from mil.data.cohort import read_headers
from mil.data.splits import Known, known_slides
from mil.evaluation.localisation import INSIDE, MEASURES, Localised, localised, summarised
from mil.heatmaps.tile_scores import tile_scores
from mil.models.ensemble import Ensemble, check_bags_fit, load_ensemble
from mil.run.folder import RunFolder
from wsi.annotations.regions import annotation_file, region_of, tile_shares
from wsi.errors import GigamilError, RequestError, StoreError
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text
from wsi.files.documents import parse_json, read_document
from wsi.progress.outcome import Outcome, Progress, Status
from wsi.recipe import Json
from wsi.store.tile_store import TileStore, find_stores

_TABLE, _SUMMARY = "localisation.csv", "localisation.json"


@dataclass(frozen=True, slots=True)
class Localisation:
    """What is asked: of which run, on what."""

    run: Path
    bags: tuple[Path, ...]
    stores: tuple[Path, ...]
    annotations: Path
    """Folder of ``<image_id>.geojson``."""
    classes: tuple[str, ...] = ()
    """Only regions of these classes; empty for all but those that QuPath ignores."""
    device: str = "auto"


def localise(asked: Localisation, progress: Progress) -> tuple[list[Localised], list[Outcome]]:
    """Compare the attention of a run with every annotated slide; return what was found, and what failed.

    Raises
    ------
    RequestError
        No slide is annotated, the run's head has no attention, or it has seen vectors of slides and no tiles.
    """
    run = RunFolder(asked.run)
    run.check_tiles("the attention on tiles")
    headers, failures = read_headers(asked.bags)
    stores = {store.image_id: store for store in find_stores(asked.stores)}
    files = {i: file for i in sorted({*headers, *failures}) if (file := annotation_file(asked.annotations, i))}
    if not files:
        raise RequestError(f"--annotations {asked.annotations}: expected <image id>.geojson of a slide with a bag")
    check_bags_fit(run, {image_id: headers[image_id] for image_id in files if image_id in headers})
    ensemble, known = load_ensemble(run, asked.device), known_slides(run.path)
    found, failed = [], []
    progress.begin("annotations", len(files), "slides")
    for image_id, file in files.items():
        try:
            if image_id in failures or image_id not in stores:
                raise StoreError(failures.get(image_id, "no tile store of this slide was found"))
            found.append(_of_slide(ensemble, headers[image_id], stores[image_id], known, file, asked.classes))
        except (GigamilError, OSError) as error:
            failed.append(Outcome(image_id, Status.FAILED, str(error)))
        progress.advance(1)
    progress.end()
    return found, failed


def _of_slide(
    ensemble: Ensemble, header: BagHeader, store: TileStore, known: Known, file: Path, classes: Sequence[str]
) -> Localised:
    region = region_of(file, classes)
    scores = tile_scores(ensemble, header, store, known)
    if not scores.attends:
        raise RequestError(f"the run's head {ensemble.run.head} weighs no tiles: there is no attention to compare")
    share_N = tile_shares(region, scores.l0_yx, scores.l0_tile_px)
    return Localised(
        image_id=header.image_id,
        patient_id=known.patients.get(header.image_id, header.image_id),
        tiles=len(scores),
        out_of_fold=scores.out_of_fold,
        **localised(scores.attention_N, share_N),  # type: ignore[arg-type]
    )


def write_localisation(run: Path, slides: Sequence[Localised], classes: Sequence[str]) -> None:
    """Write what was found into the run's folder: a row for each slide, and the summary that the report shows."""
    rows = [list(asdict(row).values()) for row in slides]
    write_text(run / _TABLE, csv_text([[own.name for own in fields(Localised)], *rows]))
    told = {
        "classes": list(classes),
        "inside": INSIDE,
        "summary": summarised(slides),
        "slides": [asdict(row) for row in slides],
    }
    write_text(run / _SUMMARY, json.dumps(told, indent=1))


def read_localisation(run: Path) -> Json | None:
    """Return what the run's folder holds of it, for the report; None where nothing was compared."""
    path = run / _SUMMARY
    if not path.exists():
        return None
    try:
        told = parse_json(read_document(path, RequestError))
        told["slides"] = sorted(told["slides"], key=lambda own: (own["auc"] is None, own["auc"] or 0.0))
        return {**told, "measures": [(MEASURES[name], told["summary"][name]) for name in MEASURES]}
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path}: cannot be read ({error}): run gigamil report --annotations again") from None

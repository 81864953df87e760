"""`gigamil classify-tiles`: a classifier of tiles, learnt from drawn regions, and its scores of every tile.

Slides whose patient was learnt from are scored by the model of the fold that has not seen the patient, others by the
model fitted on all.

    <out>/classifier.json           the models, as plain numbers; `--classifier` takes it
    <out>/metrics.json              AUC of each class by fold, patients held out; recipe
    <out>/scores/<image_id>.csv     level-0 y and x of each tile, probability of each class
    <out>/scores/<image_id>.geojson.gz   the same as QuPath's tile objects, on request
"""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from features.bags.bag import BagHeader, read_coords
from features.slide_encoders.spec import refuse_vector
from mil.data.cohort import cohort_digest, load_rows, making_of, read_headers
from mil.tiles.classifier import TileClassifier, classifier_text, read_classifier
from mil.tiles.learning import gather, learn
from mil.tiles.options import ClassifyTilesOptions
from wsi.annotations.geojson import write_geojson
from wsi.annotations.regions import annotation_file
from wsi.annotations.tile_objects import tile_lines
from wsi.cohort.manifest import ManifestRow, check_id, load_manifest, parse_columns
from wsi.errors import BagError, GigamilError, RequestError
from wsi.files.atomic import replacing, write_text
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.files.documents import parse_json, read_document
from wsi.files.replace import refuse_input
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary, failed
from wsi.recipe import Json, Recipe, refuse_other_recipe

FORMAT = "gigamil-tile-scores-1"
METRICS, CLASSIFIER = "metrics.json", "classifier.json"


@stage
def classify_tiles(options: ClassifyTilesOptions, progress: Progress | None = None) -> Summary:
    """Learn from annotated slides, or take a classifier, and score every tile; a slide that fails is named.

    Raises
    ------
    RequestError
        No slide is annotated, a class has too few patients, bags were not made alike, or hold vectors of slides.
    RecipeMismatchError
        The folder was made with other settings, bags or annotations, and ``overwrite`` is not given.
    """
    start, progress = time.monotonic(), progress or Silent()
    headers, failures = read_headers(options.bags)
    for header in headers.values():
        refuse_vector(header)
    rows = _rows(options, headers)
    headers = {image_id: header for image_id, header in sorted(headers.items()) if image_id in rows}
    if not headers:
        raise RequestError("expected bags of slides, found none that the manifest names and that can be read")
    recipe = _recipe(options, headers, rows)
    refuse_input(options.out, [*options.bags, *filter(None, [options.annotations, options.classifier])])
    with claim(options.out):
        if options.out.exists() and not options.overwrite:
            refuse_other_recipe(options.out, _earlier(options.out), recipe)
            return Summary("classify-tiles", [Outcome(str(options.out), Status.SKIPPED)], time.monotonic() - start)
        with replacing(options.out, _is_ours) as folder:
            outcomes = _write(options, folder, headers, rows, recipe, progress)
    return Summary("classify-tiles", [*outcomes, *failed(failures)], time.monotonic() - start)


def _rows(options: ClassifyTilesOptions, headers: Mapping[str, BagHeader]) -> dict[str, ManifestRow]:
    """Return the slides to use; without a manifest each slide counts as a patient."""
    if options.manifest is None:
        return {image_id: ManifestRow(image_id, image_id) for image_id in headers}
    columns = parse_columns(options.columns) if options.columns else None
    return {row.image_id: row for row in load_manifest(options.manifest, columns)}


def _recipe(options: ClassifyTilesOptions, headers: Mapping[str, BagHeader], rows: Mapping[str, ManifestRow]) -> Recipe:
    """Return what shapes the result."""
    recipe: Recipe = {
        "format": FORMAT,
        "bags": cohort_digest([rows[image_id] for image_id in headers], headers),
        "geojson": options.geojson,
    }
    if options.classifier is not None:
        return recipe | {"classifier": _sha256(options.classifier)}
    assert options.annotations is not None
    files = {i: file for i in headers if (file := annotation_file(options.annotations, i))}
    names = ("rest", "folds", "most_tiles", "c", "seed")
    return recipe | {
        "annotations": {image_id: _sha256(file) for image_id, file in files.items()},
        "annotation_class": sorted(options.annotation_class),
        **{name: getattr(options, name) for name in names},
    }


def _sha256(file: Path) -> str:
    return hashlib.sha256(read_document(file, RequestError, 1 << 30)).hexdigest()


def _earlier(out: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(read_document(out / METRICS, RequestError))["recipe"])
    except (ValueError, KeyError, TypeError):
        return {"format": "not written by this command"}


def _is_ours(out: Path) -> bool:
    return _earlier(out).get("format") == FORMAT


def _write(
    options: ClassifyTilesOptions, folder: Path, headers: Mapping[str, BagHeader], rows: Mapping[str, ManifestRow],
    recipe: Recipe, progress: Progress,
) -> list[Outcome]:  # fmt: skip
    told: Json = {}
    outcomes: list[Outcome] = []
    if options.classifier is None:
        making = making_of(headers)
        for header in headers.values():
            making.check(header, str(next(iter(headers.values())).path))
        if options.manifest is None:
            progress.note("no --manifest: each slide counts as a patient of its own")
        patients = {image_id: row.patient_id for image_id, row in rows.items()}
        found, outcomes = gather(options, headers, progress)
        classifier, told = learn(options, headers, patients, found, progress)
        write_text(folder / CLASSIFIER, classifier_text(classifier))
    else:
        classifier = read_classifier(options.classifier)
    progress.begin("score", len(headers), "slides")
    for image_id, header in headers.items():
        outcomes.append(_scored(options, classifier, header, rows[image_id].patient_id, folder / "scores"))
        progress.advance(1)
    progress.end()
    write_text(folder / METRICS, json.dumps({"recipe": recipe, **told}, indent=1, allow_nan=False) + "\n")
    return outcomes


def _scored(
    options: ClassifyTilesOptions, classifier: TileClassifier, header: BagHeader, patient: str, folder: Path
) -> Outcome:
    """Score the tiles of one slide."""
    try:
        name = check_id(header.image_id, str(header.path))
        classifier.check(header, f"those of {options.classifier or 'the annotated slides'}")
        if options.geojson and not header.tile_px_l0:
            raise BagError(f"{header.path}: does not tell how large its tiles are, as --geojson needs")
        l0_yx = read_coords(header.path)
        model = classifier.model_of(header.image_id, patient)
        told_NC = model.probabilities(load_rows(header))
    except (GigamilError, OSError) as error:
        return Outcome(header.image_id, Status.FAILED, str(error))
    columns = [f"p_{own}" for own in classifier.classes]
    table = [
        [*place, *(f"{own:.6g}" for own in row)] for place, row in zip(l0_yx.tolist(), told_NC.tolist(), strict=True)
    ]
    write_text(folder / f"{name}.csv", csv_text([["l0_y", "l0_x", *columns], *table]))
    if options.geojson:
        values = {own: told_NC[:, i].astype(np.float32) for i, own in enumerate(columns)}
        lines = tile_lines(l0_yx, header.tile_px_l0, values, header.image_id)
        write_geojson(folder / f"{name}.geojson.gz", lines)
    return Outcome(
        header.image_id, Status.DONE, facts={"tiles": len(l0_yx), "out_of_fold": model is not classifier.whole}
    )

"""`gigamil similar`: the known cases most like a new slide, and an alarm for slides that are like none of them.

Every model of the run makes a point of each slide. A model's gallery are the slides of the patients that it was
trained on; the slides of its test fold, which it has not seen, say how familiar a known slide looks that is new to it:
so the threshold comes from patients whom no model that judged them had seen. New slides are judged by all models,
averaged. A slide is no neighbour of itself: a query that is a known slide, by its id or by its picture, is looked up
among the others. Models that were trained on it judge it, too, which flatters it, and is told.

    <out>            query, rank, image_id, patient_id, label, similarity (mean cosine over the models)
    <out>.json       familiarity of each query, the threshold, MAP@k of the known slides, what failed
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.bags.bag import BagHeader
from mil.data.cohort import cohort_digest, load_rows, read_headers
from mil.data.duplicates import pictures
from mil.data.splits import Known, known_slides
from mil.evaluation.refusal.familiar import about_unlike
from mil.inference.options import SimilarOptions
from mil.inference.retrieval import embed_bags, familiarity, map_at_k
from mil.models.ensemble import NOT_FINITE, check_bags_fit, load_ensemble
from mil.ragged.packing import Rows
from mil.run.folder import RunFolder
from mil.run.outputs import Tables
from wsi.arrays import Bools, Floats
from wsi.cohort.manifest import ManifestRow
from wsi.errors import BagError, RequestError
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.options import stage
from wsi.pages import plural
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary, failed
from wsi.recipe import Recipe

MARK = "gigamil-similar-1"


@dataclass(frozen=True, slots=True)
class _Slides:
    """Slides with whole bags; the fields run in parallel."""

    image_ids: tuple[str, ...]
    bags: tuple[Rows, ...]

    def without(self, lost_N: Bools) -> "_Slides":
        """Return those that are not lost."""
        kept = np.flatnonzero(~lost_N).tolist()
        return _Slides(tuple(self.image_ids[i] for i in kept), tuple(self.bags[i] for i in kept))


@dataclass(frozen=True, slots=True)
class _Points:
    """The points (n, H) that one model makes of slides."""

    fold: int
    """The fold that the model has not seen."""
    known_NH: Floats
    queries_QH: Floats


@dataclass(frozen=True, slots=True)
class _Found:
    """What the models say together."""

    cosines_QN: Floats
    """Mean over the models whose gallery holds the slide; -inf for the query itself."""
    familiarity_Q: Floats
    threshold: float
    map_at_k: float


@stage
def similar(options: SimilarOptions, progress: Progress | None = None) -> Summary:
    """Look slides up among the known ones; one row for each slide and neighbour.

    A slide whose bag is damaged or empty fails, and is named; so does a known one.

    Raises
    ------
    RequestError
        The run is not finished, its head makes no single point of a bag, bags were made otherwise than the run's, too
        few known slides are given, or the table is there and was written by something else.
    RecipeMismatchError
        The table was made with other settings or bags, and ``overwrite`` is not given.
    """
    start, progress = time.monotonic(), progress or Silent()
    run = RunFolder(options.run)
    run.check_classes("looking up similar cases")
    run.read_json("calibration.json")  # an unfinished run: before the work
    (known, lost), (asked, failures) = (read_headers(paths) for paths in (options.known, options.bags))
    failures = lost | failures
    for headers in (known, asked):
        check_bags_fit(run, headers)
    recipe = _recipe(run, options, known, asked)
    with claim(options.out):
        earlier = _tables(options).earlier(recipe, overwrite=options.overwrite)
        if earlier is None:
            outcome = _write(run, options, recipe, (known, asked), failures, progress)
        else:
            outcome, failures = _tables(options).skipped, earlier["failures"]
    return Summary("similar", [outcome, *failed(failures)], time.monotonic() - start)


def _recipe(run: RunFolder, options: SimilarOptions, *sets: Mapping[str, BagHeader]) -> Recipe:
    """Return what shapes the table."""
    digests = [cohort_digest([ManifestRow(i, i) for i in headers], headers) for headers in sets]
    settings = {"most": options.most, "refused": options.refused}
    return {"run": run.config["recipe_hash"], "known": digests[0], "queries": digests[1], **settings}


def _write(
    run: RunFolder,
    options: SimilarOptions,
    recipe: Recipe,
    sets: tuple[Mapping[str, BagHeader], Mapping[str, BagHeader]],
    failures: dict[str, str],
    progress: Progress,
) -> Outcome:
    """Look up, and write the table and its sidecar."""
    truth = known_slides(run.path)
    known = _opened({i: header for i, header in sets[0].items() if i in truth.folds and header.n_tiles}, failures)
    known, queries, points = _points(run, options, known, _opened(sets[1], failures), failures, progress)
    found = _look_up(options, known, points, truth, _same(queries, known, *(pictures(own) for own in sets)))
    told = dict(zip(queries.image_ids, found.familiarity_Q.tolist(), strict=True))
    unknown = [name for name, own in told.items() if own < found.threshold]
    trained = [name for name in told if name in truth.folds]
    about = {
        "familiarity": told,
        "threshold": found.threshold,
        "like_none_of_the_known": unknown,
        "trained_on": trained,
        f"map_at_{options.most}_of_the_known": found.map_at_k if np.isfinite(found.map_at_k) else None,
        "failures": failures,
    }
    _tables(options).write(recipe, {options.out: _table(options, known, truth, queries, found)}, about)
    if unknown:
        progress.note(about_unlike(unknown, len(told), len(known.image_ids), options.refused))
    if trained:
        progress.note(
            f"{plural(len(trained), 'slide', verb='were')} in the run's training, which flatters their familiarity"
        )
    return Outcome(str(options.out), Status.DONE, facts={"slides": len(told), "like_none_of_the_known": unknown})


def _opened(headers: Mapping[str, BagHeader], failures: dict[str, str]) -> _Slides:
    """Return the slides whose features are whole."""
    bags = {}
    for image_id, header in headers.items():
        try:
            if header.n_tiles == 0:
                raise BagError(f"{header.path}: no tile with tissue: expected some")
            bags[image_id] = load_rows(header)
        except BagError as error:
            failures[image_id] = str(error)
    return _Slides(tuple(bags), tuple(bags.values()))


def _points(
    run: RunFolder,
    options: SimilarOptions,
    known: _Slides,
    queries: _Slides,
    failures: dict[str, str],
    progress: Progress,
) -> tuple[_Slides, _Slides, list[_Points]]:
    """Return the slides of which every model makes a point of finite numbers, and these points."""
    if not queries.image_ids:
        raise RequestError("no slide can be looked up: expected one or more bags with tiles")
    if not known.image_ids:
        raise RequestError("--known: expected bags of the run's own slides, of two folds or more; found none")
    ensemble = load_ensemble(run, options.device)
    progress.begin("similar", 2 * len(ensemble.members), "models")
    points = []
    for member in ensemble.members:
        known_NH, queries_QH = (embed_bags(member.model, own.bags, ensemble.compute.device) for own in (known, queries))
        points.append(_Points(member.fold, known_NH, queries_QH))
        progress.advance(2)
    progress.end()
    lost_N = ~np.all([np.isfinite(own.known_NH).all(axis=1) for own in points], axis=0)
    lost_Q = ~np.all([np.isfinite(own.queries_QH).all(axis=1) for own in points], axis=0)
    if lost_N.all() or lost_Q.all():
        raise RequestError(f"{run.path}: its models make points of no finite numbers: train the run again")
    for slides, lost in ((known, lost_N), (queries, lost_Q)):
        failures |= {slides.image_ids[i]: NOT_FINITE for i in np.flatnonzero(lost)}
    kept = [_Points(own.fold, own.known_NH[~lost_N], own.queries_QH[~lost_Q]) for own in points]
    return known.without(lost_N), queries.without(lost_Q), kept


def _same(queries: _Slides, known: _Slides, known_by: Mapping[str, str], asked_by: Mapping[str, str]) -> Bools:
    """Return which known slide is the query itself (Q, N), by its id or by its picture."""
    theirs = [{image_id, known_by.get(image_id, image_id)} for image_id in known.image_ids]
    return np.array([[bool({own, asked_by.get(own, own)} & other) for other in theirs] for own in queries.image_ids])


def _look_up(
    options: SimilarOptions, known: _Slides, points: Sequence[_Points], truth: Known, same_QN: Bools
) -> _Found:
    folds = np.array([truth.folds[image_id] for image_id in known.image_ids], np.int64)
    if len(np.unique(folds)) < 2:
        raise RequestError("--known: expected bags of the run's own slides, of two folds or more; found too few")
    labels = np.unique([truth.labels[image_id] for image_id in known.image_ids], return_inverse=True)[1]
    patients = [truth.patients[image_id] for image_id in known.image_ids]
    sums, counts, judged = np.zeros(same_QN.shape), np.zeros(len(folds)), np.zeros(len(folds))
    familiar, own_familiar, maps = np.zeros(len(same_QN)), np.zeros(len(folds)), []
    for model in points:
        seen, held_out = np.flatnonzero(folds != model.fold), np.flatnonzero(folds == model.fold)
        gallery_SH, held_out_MH = model.known_NH[seen], model.known_NH[held_out]
        cosines = model.queries_QH @ gallery_SH.T
        sums[:, seen] += cosines
        counts[seen] += 1
        familiar += familiarity(np.where(same_QN[:, seen], -np.inf, cosines), options.most)
        own_familiar[held_out] += familiarity(held_out_MH @ gallery_SH.T, options.most)
        judged[held_out] += 1
        if len(held_out) > 1:
            maps.append(map_at_k(held_out_MH, labels[held_out], options.most, [patients[i] for i in held_out])[0])
    shared = own_familiar[judged > 0] / judged[judged > 0]
    found = [value for value in maps if np.isfinite(value)]
    return _Found(
        np.where(same_QN, -np.inf, sums / np.maximum(counts, 1)),
        familiar / len(points),
        float(np.quantile(shared, options.refused)),
        float(np.mean(found)) if found else float("nan"),
    )


def _table(options: SimilarOptions, known: _Slides, truth: Known, queries: _Slides, found: _Found) -> str:
    rows: list[list[Any]] = [["query", "rank", "image_id", "patient_id", "label", "similarity"]]
    for query, cosines in zip(queries.image_ids, found.cosines_QN, strict=True):
        order = [i for i in np.argsort(-cosines, kind="stable").tolist() if np.isfinite(cosines[i])][: options.most]
        for rank, i in enumerate(order, start=1):
            name = known.image_ids[i]
            rows.append([query, rank, name, truth.patients[name], truth.labels[name], f"{cosines[i]:.6f}"])
    return csv_text(rows)


def _tables(options: SimilarOptions) -> Tables:
    """Return the files to write."""
    return Tables(options.out.with_suffix(".json"), (options.out,), MARK)

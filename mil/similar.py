"""`gigamil similar`: the known cases most like a new slide, and an alarm for slides that are like none of them.

Every model of the run makes a point of each slide. A model's gallery are the slides of the patients that it was
trained on; the slides of its test fold, which it has not seen, say how familiar a known slide looks that is new to it:
so the threshold comes from patients whom no model that judged them had seen. New slides are judged by all models,
averaged.

    <out>            query, rank, image_id, patient_id, label, similarity (mean cosine over the models)
    <out>.json       familiarity of each query, the threshold, MAP@k of the known slides
"""

import csv
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.bag import BagHeader, find_bags, read_header
from mil.cohort import load_rows
from mil.ensemble import check_bags_fit, load_ensemble
from mil.metrics import Floats, Ints
from mil.options import TrainOptions, resolve
from mil.retrieval import embed_bags, map_at_k, nearest
from mil.run import RunFolder
from mil.splits import read_labels, read_patients, read_splits
from wsi.atomic import write_text
from wsi.errors import BagError, RequestError
from wsi.outcome import Outcome, Progress, Silent, Status, Summary


@dataclass(frozen=True, kw_only=True)
class SimilarOptions:
    """Options of `similar`."""

    run: Path
    bags: tuple[Path, ...]
    """The slides to look up."""
    known: tuple[Path, ...]
    """The bags that the run was trained on, or those among them that may be found."""
    out: Path
    """The table to write."""
    most: int = 5
    """Cases told for each slide, and neighbours that say how familiar it is."""
    refused: float = 0.05
    """Share of known slides that may be called unknown."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.out.suffix != ".csv":
            raise RequestError(f"--out {self.out}: expected a name that ends in .csv")
        if self.most < 1 or not 0 < self.refused < 1:
            raise RequestError(
                f"expected --most of 1 or more and --refused between 0 and 1, found {self.most}, {self.refused}"
            )


@dataclass(frozen=True, slots=True)
class _Known:
    """The slides that may be found."""

    image_ids: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[str, ...]
    folds: Ints


@dataclass(frozen=True, slots=True)
class _Found:
    """What the models say together."""

    cosines_QN: Floats
    """Mean over the models whose gallery holds the slide."""
    familiarity_Q: Floats
    threshold: float
    map_at_k: float


def similar(options: SimilarOptions, progress: Progress | None = None) -> Summary:
    """Look slides up among the known ones; one row for each slide and neighbour.

    A slide whose bag is damaged or empty fails, and is named.

    Raises
    ------
    RequestError
        The run is not finished, its head makes no single point of a bag, bags were made otherwise than the run's, or
        too few known slides are given.
    """
    start, progress = time.monotonic(), progress or Silent()
    run = RunFolder(options.run)
    run.check_classes("looking up similar cases")
    known_headers, headers = _headers(run, options.known), _headers(run, options.bags)
    known, known_bags = _known(run, known_headers)
    queries, outcomes = _queries(headers)
    progress.begin("similar", 2 * int(run.recipe["folds"]) * run.models_per_fold, "models")
    found = _look_up(run, options, known, known_bags, [bag for _, bag in queries], progress)
    progress.end()
    write_text(options.out, _table(options, known, [name for name, _ in queries], found))
    unknown = [name for (name, _), own in zip(queries, found.familiarity_Q, strict=True) if own < found.threshold]
    about = {
        "familiarity": {name: float(own) for (name, _), own in zip(queries, found.familiarity_Q, strict=True)},
        "threshold": found.threshold,
        "like_none_of_the_known": unknown,
        f"map_at_{options.most}_of_the_known": found.map_at_k if np.isfinite(found.map_at_k) else None,
    }
    write_text(options.out.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    for name in unknown:
        progress.note(f"{name} is like none of the known slides: do not trust what is predicted of it")
    facts: dict[str, Any] = {"slides": len(queries), "like_none_of_the_known": unknown}
    return Summary(
        "similar", [Outcome(str(options.out), Status.DONE, facts=facts), *outcomes], time.monotonic() - start
    )


def _headers(run: RunFolder, paths: Sequence[Path]) -> list[BagHeader]:
    headers = [read_header(path) for path in find_bags(paths)]
    check_bags_fit(run, headers)
    return headers


def _known(run: RunFolder, headers: Sequence[BagHeader]) -> tuple[_Known, list[Any]]:
    table = run.path / "splits.csv"
    folds, labels, patients = read_splits(table), read_labels(table), read_patients(table)
    rows = [header for header in headers if header.image_id in folds and header.n_tiles]
    if len({folds[header.image_id] for header in rows}) < 2:
        raise RequestError("--known: expected bags of the run's own slides, of two folds or more; found too few")
    ids = tuple(header.image_id for header in rows)
    known = _Known(
        ids,
        tuple(patients[i] for i in ids),
        tuple(labels[i] for i in ids),
        np.array([folds[i] for i in ids], np.int64),
    )
    return known, [load_rows(header) for header in rows]


def _queries(headers: Sequence[BagHeader]) -> tuple[list[tuple[str, Any]], list[Outcome]]:
    queries, outcomes = [], []
    for header in headers:
        try:
            if header.n_tiles == 0:
                raise BagError(f"{header.path}: no tile with tissue: expected some")
            queries.append((header.image_id, load_rows(header)))
        except BagError as error:
            outcomes.append(Outcome(header.image_id, Status.FAILED, str(error)))
    if not queries:
        raise RequestError("no slide can be looked up: expected one or more bags with tiles")
    return queries, outcomes


def _look_up(
    run: RunFolder, options: SimilarOptions, known: _Known, known_bags: list[Any], bags: list[Any], progress: Progress
) -> _Found:
    device = resolve(TrainOptions(bags=(Path(),), manifest=Path(), out=Path(), device=options.device))
    ensemble = load_ensemble(run, device)
    sums, counts = np.zeros((len(bags), len(known.image_ids))), np.zeros(len(known.image_ids))
    familiarity, own_familiarity, maps = np.zeros(len(bags)), np.zeros(len(known.image_ids)), []
    seeds = np.zeros(len(known.image_ids))
    labels = np.unique(np.array(known.labels), return_inverse=True)[1]
    for member in ensemble.members:
        points, queries = (embed_bags(member.model, own, device.device) for own in (known_bags, bags))
        progress.advance(2)
        seen, held_out = np.flatnonzero(known.folds != member.fold), np.flatnonzero(known.folds == member.fold)
        sums[:, seen] += queries @ points[seen].T
        counts[seen] += 1
        familiarity += nearest(queries, points[seen], options.most)[1].mean(axis=1)
        if len(held_out):
            own_familiarity[held_out] += nearest(points[held_out], points[seen], options.most)[1].mean(axis=1)
            seeds[held_out] += 1
        if len(held_out) > 1:
            maps.append(
                map_at_k(points[held_out], labels[held_out], options.most, [known.patients[i] for i in held_out])[0]
            )
    judged = seeds > 0
    threshold = float(np.quantile(own_familiarity[judged] / seeds[judged], options.refused))
    cosines = sums / np.maximum(counts, 1)
    maps = [value for value in maps if np.isfinite(value)]
    return _Found(
        cosines, familiarity / len(ensemble.members), threshold, float(np.mean(maps)) if maps else float("nan")
    )


def _table(options: SimilarOptions, known: _Known, queries: Sequence[str], found: _Found) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "rank", "image_id", "patient_id", "label", "similarity"])
    for query, cosines in zip(queries, found.cosines_QN, strict=True):
        others = np.array([image_id != query for image_id in known.image_ids])
        order = [i for i in np.argsort(-cosines, kind="stable").tolist() if others[i]][: options.most]
        for rank, i in enumerate(order, start=1):
            writer.writerow([query, rank, known.image_ids[i], known.patients[i], known.labels[i], f"{cosines[i]:.6f}"])
    return text.getvalue()

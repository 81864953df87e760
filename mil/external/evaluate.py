"""`gigamil evaluate`: a finished run on another labelled cohort: the same report, and nothing fitted anew.

    report.html      the report, with how the cohort differs from the training's, and what recalibration would mend
    checklists.html  what reporting guidelines ask for, and checklists.csv: the same as a table
    scores.csv       what all models together tell of each slide and patient, as oof.csv has it; fold -1: of none
    evaluation.json  the same as numbers

Probabilities are calibrated, cut and turned into sets of classes by what the run's own patients gave, out of fold.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields

from mil.checklists.page import PAGE, TABLE
from mil.data.cohort import Cohort, cohort_digest
from mil.data.duplicates import check_pictures
from mil.data.flow import NO_BAG, Flow
from mil.data.several_encoders import open_cohorts
from mil.evaluation.oof import oof_rows
from mil.evaluation.subgroups import columns_of
from mil.external.beside import ABOUT, SCORES, judged_beside
from mil.external.options import EvaluateOptions
from mil.external.overlap import Overlap, find_overlap, find_same_tiles, flow_without, refuse_overlap
from mil.external.page import External, external_pages
from mil.external.recalibration import recalibrated
from mil.external.scoring import Elsewhere, scored
from mil.external.shift import Shift, shift_of
from mil.inference.inputs import Asked, given_bags, made_bags, sort_items
from mil.inference.judge import Judged, judge
from mil.inference.options import PredictOptions, SlideOptions
from mil.models.ensemble import load_ensemble
from mil.run.evidence import Evidence, read_evidence
from mil.run.folder import RunFolder
from mil.run.known import KnownSlides, read_known
from mil.run.outputs import Tables
from wsi.cohort.manifest import ManifestRow, load_manifest
from wsi.errors import RequestError
from wsi.files.atomic import check_folder, make_folder
from wsi.files.claim import claim
from wsi.files.csv_table import csv_text
from wsi.options import stage
from wsi.pages import plural
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary, failed
from wsi.recipe import Recipe, recipe_hash
from wsi.store.tile_store import TileStore, find_stores

MARK = "gigamil-evaluate-1"


@dataclass(frozen=True, slots=True)
class _Cohort:
    """The slides that are judged, with what is true of them."""

    rows: tuple[ManifestRow, ...]
    asked: Asked
    cohorts: tuple[Cohort, ...]
    overlap: Overlap
    """Who was left out."""
    notes: tuple[str, ...]
    flow: Flow
    """Who of the table is among them, and why others are not."""


@stage
def evaluate(options: EvaluateOptions, progress: Progress | None = None) -> Summary:
    """Judge the labelled patients of another cohort by all models of a run, and write report, scores and numbers.

    Raises
    ------
    RequestError
        The run is not finished, was trained on patients of the cohort (unless these are to be left out), its bags were
        made otherwise, nobody of the manifest has a label and a bag, or the folder holds something else.
    RecipeMismatchError
        The evaluation is there, of something else, and ``overwrite`` is not given.
    """
    start, progress = time.monotonic(), progress or Silent()
    run = RunFolder(options.run)
    evidence, rows = read_evidence(run), _labelled(run, options)
    stores = find_stores(options.stores) if options.stores else []
    check_folder(options.out)
    with claim(options.out), ExitStack() as held:
        asked = _asked(run, options, start, held, progress)
        known = read_known(run.path)
        cohort = _without_overlap(run, options, rows, asked, known)
        outcomes = _evaluated(options, evidence, cohort, known, stores, progress)
    return Summary("evaluate", outcomes, time.monotonic() - start)


def _labelled(run: RunFolder, options: EvaluateOptions) -> list[ManifestRow]:
    """Return the rows of the manifest of which the truth is known."""
    rows = [row for row in load_manifest(options.manifest) if getattr(row, run.predicts.column) is not None]
    if not rows:
        raise RequestError(f"{options.manifest}: expected slides with a {run.predicts.column}, found none")
    if run.unit_column == "patient_id":
        run.predicts.check_patients(rows, str(options.manifest))
    return rows


def _asked(run: RunFolder, options: EvaluateOptions, start: float, held: ExitStack, progress: Progress) -> Asked:
    """Return the bags of the slides, given or made here as `gigamil predict` makes them."""
    shared = {field.name: getattr(options, field.name) for field in fields(SlideOptions)}
    request = PredictOptions(
        items=options.items,
        run=(options.run,),
        out=_tables(options).files[0],
        manifest=options.manifest,
        overwrite=options.overwrite,
        **shared,
    )
    _, bags, slides = sort_items(request)
    make_folder(options.out)
    found = given_bags((run,), request, bags) if bags else made_bags((run,), request, slides, start, held, progress)
    return found[0]


def _without_overlap(
    run: RunFolder, options: EvaluateOptions, labelled: Sequence[ManifestRow], asked: Asked, known: KnownSlides | None
) -> _Cohort:
    """Return the cohort without the patients whom the run was trained on, which are refused unless left out."""
    there = {name for own in asked.sets for name in (*own.headers, *own.failures)}
    rows = with_bags = [row for row in labelled if row.image_id in there]
    notes = []
    if len(rows) < len(labelled):
        notes.append(f"{plural(len(labelled) - len(rows), 'labelled slide', 'without a bag', 'were')} left out")
    headers = asked.sets[0].headers
    overlap = find_overlap(run, rows, headers, known)
    if options.overlap == "refuse" and all(row.patient_id in overlap.reasons for row in rows):
        refuse_overlap(overlap, run)
    rows = _new(rows, overlap, options)
    cohorts = _opened(run, rows, asked)
    overlap = find_same_tiles(cohorts[0], known, overlap)
    if options.overlap == "refuse":
        refuse_overlap(overlap, run)
    left = _new(rows, overlap, options)
    if len(left) < len(rows):
        rows, cohorts = left, _opened(run, left, asked)
    harm = "one patient would count as two"
    notes += dict.fromkeys(note for own in asked.sets for note in check_pictures(rows, own.headers, harm))
    flow = Flow.of(load_manifest(options.manifest)).leaving(f"nothing stands under {run.predicts.column}", labelled)
    flow = flow_without(flow.leaving(NO_BAG, with_bags), with_bags, overlap)
    return _Cohort(tuple(rows), asked, cohorts, overlap, tuple(notes), flow)


def _new(rows: Sequence[ManifestRow], overlap: Overlap, options: EvaluateOptions) -> list[ManifestRow]:
    left = [row for row in rows if row.patient_id not in overlap.reasons]
    if not left:
        why = "all were trained on" if rows else "none has a bag"
        raise RequestError(f"{options.manifest}: expected labelled slides of new patients, found none: {why}")
    return left


def _opened(run: RunFolder, rows: Sequence[ManifestRow], asked: Asked) -> tuple[Cohort, ...]:
    target, _ = run.predicts.read(rows, run.classes, 1)
    return open_cohorts(rows, asked.sets, run.fusion, target, trusting=not _is_joined(run))


def _is_joined(run: RunFolder) -> bool:
    """Tell whether a patient's slides are one bag: then what is wrong with one of them is found beforehand."""
    return run.recipe.get("aggregate") == "bag"


def _evaluated(
    options: EvaluateOptions,
    evidence: Evidence,
    cohort: _Cohort,
    known: KnownSlides | None,
    stores: Sequence[TileStore],
    progress: Progress,
) -> list[Outcome]:
    """Judge, measure, compare, and write, unless it is all there."""
    run, tables, recipe = evidence.run, _tables(options), _recipe(options, evidence, cohort, stores)
    earlier = tables.earlier(recipe, overwrite=options.overwrite)
    if earlier is not None:
        return [tables.skipped, *failed(earlier["metrics"]["failures"])]
    judged = judge(load_ensemble(run, options.device), cohort.cohorts, progress)
    means = {} if _is_joined(run) else judged.means
    shift = shift_of(judged.slides, cohort.asked.sets[0].headers, stores, known, _seed(evidence), means)
    notes = [*cohort.notes, *shift.notes, *_told_of_overlap(cohort.overlap)]
    found = scored(evidence, judged, notes)
    for note in notes:
        progress.note(note)
    external = _external(options, evidence, found, cohort, judged, shift)
    scores = csv_text(oof_rows(judged.cohort, found.folds_S, found.patients, found.oof))
    texts = dict(zip(tables.files, (scores, *external_pages(evidence, external)), strict=True))
    tables.write(recipe, texts, external.told())
    first = found.evidence.truth.shown[0]
    facts = {"patients": found.evidence.metrics["patients"], first: found.evidence.first(found.evidence.head)}
    return [Outcome(str(options.out), Status.DONE, facts=facts), *failed(judged.slides.failures)]


def _external(
    options: EvaluateOptions, evidence: Evidence, found: Elsewhere, cohort: _Cohort, judged: Judged, shift: Shift
) -> External:
    answered = found.answered
    fine = found.evidence.scored_P
    ids = [row["patient_id"] for row, own in zip(found.evidence.patients, fine, strict=True) if own]
    by_slide = found.evidence.run.unit_column == "image_id"
    source = str(options.manifest)
    return External(
        columns=columns_of(cohort.rows, ids, options.subgroups, by_slide=by_slide, source=source),
        found=found,
        name=options.manifest.stem,
        overlap=tuple(cohort.overlap.lines()),
        flow=_flow(cohort, judged.slides),
        shift=shift.told,
        recalibration=recalibrated(answered.questions, answered.groups, answered.seed),
        operating=options.operating,
        horizons=options.horizons,
        own=evidence,
        beside=judged_beside(options.out, str(evidence.config["recipe_hash"]), found.evidence, MARK),
    )


def _flow(cohort: _Cohort, slides: Cohort) -> Flow:
    """Return the flow with those of whom there is nothing to look at."""
    usable = {i for i, fine in zip(slides.image_ids, slides.usable_N, strict=True) if fine}
    return cohort.flow.with_unjudged(slides.image_ids, slides.groups, usable, set(slides.failures) - usable)


def _told_of_overlap(overlap: Overlap) -> list[str]:
    return [f"left out, as the run was trained on them: {line}" for line in overlap.lines()]


def _seed(evidence: Evidence) -> int:
    return int(evidence.config["recipe"].get("seed", 0))


def _recipe(options: EvaluateOptions, evidence: Evidence, cohort: _Cohort, stores: Sequence[TileStore]) -> Recipe:
    """Return what shapes the evaluation."""
    truth = [[getattr(row, name) for name in evidence.run.predicts.digested] for row in cohort.rows]
    return {
        "run": evidence.config["recipe_hash"],
        "slides": len(cohort.rows),
        "cohort": [cohort_digest(cohort.rows, own.headers) for own in cohort.asked.sets],
        "truth": recipe_hash({"truth": truth}),
        "left_out": len(cohort.overlap.reasons),
        "operating": list(options.operating),
        **({"horizons": list(options.horizons)} if options.horizons else {}),
        "subgroups": [list(options.subgroups), recipe_hash({"facts": [dict(row.facts) for row in cohort.rows]})],
        "stores": sorted(store.image_id for store in stores),
    }


def _tables(options: EvaluateOptions) -> Tables:
    """Return the files to write."""
    files = (SCORES, "report.html", PAGE, TABLE)
    return Tables(options.out / ABOUT, tuple(options.out / name for name in files), MARK)

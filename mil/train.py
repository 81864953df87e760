"""`gigamil train`: bags and a manifest in, a run folder out."""

import time
from collections.abc import Sequence

import numpy as np

from mil.cohort import Cohort
from mil.evaluate import evaluate, evidence_of
from mil.fit import FitJob
from mil.material import Material, gather
from mil.metrics import Ints
from mil.options import TrainOptions, resolve
from mil.report import ReportOptions, report
from mil.run import RunFolder, prepare_run
from mil.splits import write_splits
from mil.workers import fit_all, is_whole
from wsi.claim import claim
from wsi.errors import RequestError
from wsi.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import recipe_hash
from wsi.store import TileStore, find_stores

__all__ = ["TrainOptions", "train"]


def train(options: TrainOptions, progress: Progress | None = None) -> Summary:
    """Train every fold and seed of the head and its baselines, evaluate out of fold, and write the run folder.

    Raises
    ------
    RequestError
        The manifest, the bags, the splits or the options do not fit each other.
    RecipeMismatchError
        ``out`` holds a run made with other settings, and ``overwrite`` is not given.
    ClaimedError
        Another process trains into ``out``.
    """
    start, progress = time.monotonic(), progress or Silent()
    options = resolve(options)
    material = gather(options)
    stores = find_stores(options.stores) if options.stores else []
    recipe = material.recipe(options)
    with claim(options.out):
        run = prepare_run(options.out, recipe, material.about(), overwrite=options.overwrite)
        jobs = [
            FitJob(
                head=head,
                fold=fold,
                seed=seed,
                folder=run.model(head, fold, seed),
                options=options,
                recipe_hash=recipe_hash(recipe),
            )
            for head in options.heads
            for fold in range(options.folds)
            for seed in range(options.seeds)
        ]
        if _is_finished(run, jobs, stores):
            outcomes = [_skipped(job) for job in jobs] + _failed(run.read_json("metrics.json")["failures"])
        else:
            outcomes = _train_and_report(run, options, jobs, material, stores, progress)
    return Summary("train", outcomes, time.monotonic() - start)


def _train_and_report(
    run: RunFolder,
    options: TrainOptions,
    jobs: Sequence[FitJob],
    material: Material,
    stores: Sequence[TileStore],
    progress: Progress,
) -> list[Outcome]:
    cohort = material.open()
    _check_trainable(cohort, material.folds)
    notes = list(material.notes)
    if cohort.empty:
        notes.append(f"{len(cohort.empty)} slides without tiles, not trained on: {', '.join(cohort.empty)}")
    for note in notes:
        progress.note(note)
    labels = [row.label or "" for row in material.rows]
    write_splits(
        run.path / "splits.csv", cohort.image_ids, cohort.patient_ids, labels, cohort.center_ids, material.folds
    )
    outcomes = _fit_missing(jobs, cohort, material, progress)
    progress.begin("evaluate", 2, "steps")
    evaluate(run, options, cohort, material.folds, stores, notes)
    progress.advance(1)
    drawn = report(ReportOptions(run=run.path, bags=options.bags, stores=options.stores)).ended(Status.FAILED)
    progress.advance(1)
    progress.end()
    return outcomes + _failed(cohort.failures) + drawn


def _check_trainable(cohort: Cohort, folds: Ints) -> None:
    """Raise `RequestError` unless every training fold has two patients of every class with tiles."""
    for fold in np.unique(folds):
        chosen = (folds != fold) & cohort.usable_N
        for number, name in enumerate(cohort.classes):
            patients = {cohort.patient_ids[i] for i in np.flatnonzero(chosen & (cohort.labels_N == number))}
            if len(patients) < 2:
                raise RequestError(
                    f"class {name} has {len(patients)} patients with tiles outside fold {fold}: expected two or more "
                    "(one trains, one validates); give more patients or fewer --folds"
                )


def _is_finished(run: RunFolder, jobs: Sequence[FitJob], stores: Sequence[TileStore]) -> bool:
    """Tell whether nothing is left to do: all models, the evaluation with these stores, the report."""
    if not all(is_whole(job) for job in jobs) or not (run.path / "report.html").exists():
        return False
    try:
        return bool(run.read_json("metrics.json")["seen_stores"] == evidence_of(stores))
    except RequestError:
        return False


def _name(job: FitJob) -> str:
    return f"{job.head} fold {job.fold} seed {job.seed}"


def _skipped(job: FitJob) -> Outcome:
    return Outcome(_name(job), Status.SKIPPED)


def _done(job: FitJob, facts: dict[str, float]) -> Outcome:
    return Outcome(_name(job), Status.DONE, facts=dict(facts))


def _failed(failures: dict[str, str]) -> list[Outcome]:
    return [Outcome(image_id, Status.FAILED, reason) for image_id, reason in failures.items()]


def _fit_missing(jobs: Sequence[FitJob], cohort: Cohort, material: Material, progress: Progress) -> list[Outcome]:
    """Train what is missing, side by side where ``jobs`` asks for it; the result does not depend on how many."""
    todo = [job for job in jobs if not is_whole(job)]
    facts: dict[str, dict[str, float]] = {}
    progress.begin("train", len(jobs), "models")
    progress.advance(len(jobs) - len(todo))
    for job, result in fit_all(todo, cohort, material.folds):
        facts[_name(job)] = result
        progress.advance(1)
    progress.end()
    return [_done(job, facts[_name(job)]) if _name(job) in facts else _skipped(job) for job in jobs]

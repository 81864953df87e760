"""`gigamil train`: bags and a manifest in, a run folder out."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from features.distributed import Place, process_group, torchrun_place
from features.encoders.device import device_of_rank
from mil.data.cohort import Cohort
from mil.data.duplicates import OTHERS, pictures
from mil.data.splits import write_splits
from mil.evaluation.evaluate import evaluate, evidence_of
from mil.repeat import train_repeatedly
from mil.report.evaluate_target import evaluate_target
from mil.report.options import ReportOptions
from mil.report.report import report
from mil.run.evidence import read_history
from mil.run.folder import RunFolder, prepare_run
from mil.run.trackers import check_trackers, publish
from mil.targets.metrics import Ints
from mil.training.distil import check_teacher
from mil.training.jobs import FitJob
from mil.training.options import TrainOptions, resolve
from mil.training.training_data import Material, gather
from mil.training.workers import fit_all, fit_in_group, is_whole
from wsi.cohort.manifest import ManifestRow
from wsi.errors import GigamilError, RequestError
from wsi.files.claim import claim
from wsi.options import stage
from wsi.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import recipe_hash
from wsi.store.tile_store import TileStore, find_stores

__all__ = ["TrainOptions", "train"]


@stage
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
    train_once = _train if options.repeats == 1 else partial(train_repeatedly, train=_train)
    return train_once(options, progress=progress or Silent())


def _train(options: TrainOptions, progress: Progress) -> Summary:
    """Train one run."""
    start, options = time.monotonic(), resolve(options)
    check_trackers(options.track)
    material = gather(options)
    place = torchrun_place()
    if place is None:
        outcomes = _train_here(options, material, progress)
    elif options.nproc > 1 or options.workers > 1:
        raise RequestError("torchrun excludes --nproc and --workers: it has started the processes already")
    else:
        outcomes = _train_under_torchrun(options, material, place, progress)
    return Summary("train", outcomes, time.monotonic() - start)


@dataclass(frozen=True, slots=True)
class _Task:
    """A run to make or to go on with, and the models it holds."""

    options: TrainOptions
    material: Material
    run: RunFolder
    jobs: list[FitJob]
    stores: list[TileStore]


def _prepare(options: TrainOptions, material: Material) -> _Task:
    """Make the run folder, or take up the one of the same recipe; the caller holds the claim."""
    stores = find_stores(options.stores) if options.stores else []
    recipe = material.recipe(options)
    if options.teacher is not None:
        recipe["teacher"] = RunFolder(options.teacher).config["recipe_hash"]
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
        for seed in range(options.models_per_fold)
    ]
    return _Task(options, material, run, jobs, stores)


def _train_here(options: TrainOptions, material: Material, progress: Progress) -> list[Outcome]:
    with claim(options.out):
        task = _prepare(options, material)
        if _is_finished(task):
            return _all_skipped(task)
        cohorts, notes = _open(task, progress)
        results = _Results(task, progress)
        fit_all(results.todo, cohorts, material.folds, results.take)
        return _report(task, cohorts[0], notes, results.outcomes(), progress)


def _train_under_torchrun(options: TrainOptions, material: Material, place: Place, progress: Progress) -> list[Outcome]:
    """Train as one of the ranks that torchrun started: all fit together, rank 0 writes and tells."""
    device = device_of_rank(torch.device(options.device), place.local_rank)
    with ExitStack() as held, process_group(place, device) as group:
        prepared: _Task | GigamilError | None = None
        if place.rank == 0:
            try:
                held.enter_context(claim(options.out))
                prepared = _prepare(options, material)
            except GigamilError as error:
                prepared = error
        told = group.from_first(_todo(prepared))
        if isinstance(prepared, GigamilError):
            raise prepared
        if isinstance(told, GigamilError):
            return []  # rank 0 tells
        if place.rank > 0 or prepared is None:
            cohorts = material.open_all()
            for _ in fit_in_group(told, cohorts, material.folds, group, device):
                pass
            return []
        if _is_finished(prepared):
            return _all_skipped(prepared)
        cohorts, notes = _open(prepared, progress)
        results = _Results(prepared, progress)
        for number, facts in fit_in_group(told, cohorts, material.folds, group, device):
            results.take(told[number], facts)
        return _report(prepared, cohorts[0], notes, results.outcomes(), progress)


def _todo(prepared: _Task | GigamilError | None) -> list[FitJob] | GigamilError | None:
    """Return the models to be trained, for rank 0 to tell the others."""
    if not isinstance(prepared, _Task):
        return prepared
    return [job for job in prepared.jobs if not is_whole(job)]


def _open(task: _Task, progress: Progress) -> tuple[tuple[Cohort, ...], list[str]]:
    """Open the bags, check that they can be trained on, write splits.csv; return them, and notes on what is missing."""
    material = task.material
    cohorts = material.open_all()
    cohort = cohorts[0]
    check_trainable(cohort, material.folds)
    if task.options.teacher is not None:
        check_teacher(RunFolder(task.options.teacher), cohort, material.folds)
    notes = list(material.notes)
    if cohort.empty:
        notes.append(f"{len(cohort.empty)} slides without tiles, not trained on: {', '.join(cohort.empty)}")
    for note in notes:
        progress.note(note)
    tested = material.tested_rows
    picture_of = pictures(material.bags.headers)
    _write_splits(task.run.path / "splits.csv", material.rows[:tested], material.row_folds[:tested], picture_of)
    if tested < len(material.rows):
        _write_splits(task.run.path / OTHERS, material.rows[tested:], material.row_folds[tested:], picture_of)
    return cohorts, notes


def _write_splits(path: Path, rows: Sequence[ManifestRow], folds: Ints, picture_of: dict[str, str]) -> None:
    write_splits(
        path,
        [row.image_id for row in rows],
        [row.patient_id for row in rows],
        [row.label or row.value or row.time or "" for row in rows],
        [row.center_id for row in rows],
        folds,
        picture_of,
    )


class _Results:
    """The models as they are finished: shown, sent to the trackers, and told as outcomes."""

    def __init__(self, task: _Task, progress: Progress) -> None:
        self._task, self._progress = task, progress
        self.todo = [job for job in task.jobs if not is_whole(job)]
        self._facts: dict[str, dict[str, float]] = {}
        progress.begin("train", len(task.jobs), "models")
        progress.advance(len(task.jobs) - len(self.todo))

    def take(self, job: FitJob, facts: dict[str, float]) -> None:
        """Take in a finished model."""
        self._facts[_name(job)] = facts
        self._progress.advance(1)
        if self._task.options.track:
            self._publish(job)

    def _publish(self, job: FitJob) -> None:
        """Send a model's history to the trackers; what goes wrong there is told, and stops nothing."""
        options, path = self._task.options, self._task.run.path
        try:
            publish(options.track, path, _name(job), options.recipe(), read_history(job.folder / "history.csv"))
        except Exception as error:  # foreign packages, their services and files: anything may be raised
            self._progress.note(f"--track {', '.join(options.track)}: {type(error).__name__}: {error}")

    def outcomes(self) -> list[Outcome]:
        """Return one outcome for each model of the run."""
        self._progress.end()
        names = [(job, self._facts.get(_name(job))) for job in self._task.jobs]
        return [_skipped(job) if facts is None else _done(job, facts) for job, facts in names]


def _report(
    task: _Task, cohort: Cohort, notes: Sequence[str], outcomes: list[Outcome], progress: Progress
) -> list[Outcome]:
    """Evaluate out of fold and write the report; return the outcomes of the run."""
    options = task.options
    progress.begin("evaluate", 2, "steps")
    failures = cohort.failures
    folds, cohort = task.material.folds[: task.material.tested], cohort.first(task.material.tested)
    if cohort.target is not None:
        evaluate_target(task.run, options, cohort, folds, notes, evidence_of(task.stores))
        progress.advance(2)
        progress.end()
        return outcomes + _failed(failures)
    evaluate(task.run, options, cohort, folds, task.stores, notes)
    progress.advance(1)
    drawn = report(ReportOptions(run=task.run.path, bags=options.bags, stores=options.stores)).ended(Status.FAILED)
    progress.advance(1)
    progress.end()
    return outcomes + _failed(failures) + drawn


def check_trainable(cohort: Cohort, folds: Ints) -> None:
    """Raise `RequestError` unless every training fold has two patients of every class with tiles."""
    if cohort.target is not None:
        return  # `mil.targets.task` has counted the patients
    for fold in np.unique(folds[folds >= 0]):
        chosen = (folds != fold) & (folds >= 0) & cohort.usable_N
        for number, name in enumerate(cohort.classes):
            patients = {cohort.groups[i] for i in np.flatnonzero(chosen & (cohort.labels_N == number))}
            if len(patients) < 2:
                raise RequestError(
                    f"class {name} has {len(patients)} patients with tiles outside fold {fold}: expected two or more "
                    "(one trains, one validates); give more patients or fewer --folds"
                )


def _is_finished(task: _Task) -> bool:
    """Tell whether nothing is left to do: all models, the evaluation with these stores, the report."""
    if not all(is_whole(job) for job in task.jobs) or not (task.run.path / "report.html").exists():
        return False
    try:
        return bool(task.run.read_json("metrics.json")["seen_stores"] == evidence_of(task.stores))
    except RequestError:
        return False


def _all_skipped(task: _Task) -> list[Outcome]:
    return [_skipped(job) for job in task.jobs] + _failed(task.run.read_json("metrics.json")["failures"])


def _name(job: FitJob) -> str:
    return f"{job.head} fold {job.fold} seed {job.seed}"


def _skipped(job: FitJob) -> Outcome:
    return Outcome(_name(job), Status.SKIPPED)


def _done(job: FitJob, facts: dict[str, float]) -> Outcome:
    return Outcome(_name(job), Status.DONE, facts=dict(facts))


def _failed(failures: dict[str, str]) -> list[Outcome]:
    return [Outcome(image_id, Status.FAILED, reason) for image_id, reason in failures.items()]

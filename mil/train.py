"""`gigamil train`: bags and a manifest in, a run folder out."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from features.agreement import agree, facts_of
from features.distributed import Place, process_group, torchrun_place
from features.encoders.device import device_of_rank
from mil.auto.choose import planned
from mil.data.cohort import Cohort
from mil.data.duplicates import OTHERS, pictures
from mil.data.splits import write_splits
from mil.evaluation.evaluate import evaluate, evidence_of
from mil.nested.choose import choose_heads, inner_of
from mil.repeat import train_repeatedly
from mil.report.options import ReportOptions
from mil.report.report import report
from mil.run.evidence import read_history
from mil.run.folder import NESTED, RunFolder, prepare_run
from mil.run.record import read_record, session_recorded, write_record
from mil.run.trackers import check_trackers, publish
from mil.training.checkpoint import remove_checkpoint
from mil.training.jobs import FitJob
from mil.training.methods.distil import check_teacher
from mil.training.options import TrainOptions, resolve
from mil.training.processes import Done, fit_all, fit_in_group
from mil.training.training_data import TrainingData, gather
from wsi.arrays import Ints
from wsi.errors import BagError, GigamilError, RequestError
from wsi.files.claim import claim
from wsi.options import stage
from wsi.pages import plural
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary, failed
from wsi.progress.stage_events import known_ended
from wsi.recipe import Json, recipe_hash
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
    progress, about = progress or Silent(), dict[str, Any]()
    if options.auto:
        plan = planned(options)
        options, about = plan.options, {"auto": plan.about()}
        progress.note(plan.note)
    train_once = partial(_train, about=about)
    return train_once(options, progress) if options.repeats == 1 else train_repeatedly(options, train_once, progress)


def _train(options: TrainOptions, progress: Progress, about: Json) -> Summary:
    """Train one run; ``about``: what is kept beside its recipe."""
    start, options = time.monotonic(), resolve(options)
    check_trackers(options.track)
    data = replace(gather(options), more_about=about)
    place = torchrun_place()
    if place is not None:
        if options.nested:
            raise RequestError("torchrun excludes --nested: train with --workers or --nproc")
        return Summary("train", _train_under_torchrun(data, place, progress), time.monotonic() - start)
    with claim(options.out):
        outcomes = _train_without_damaged(data, progress)
    return Summary("train", outcomes, time.monotonic() - start)


def _train_without_damaged(data: TrainingData, progress: Progress) -> list[Outcome]:
    """Train the run; where a bag's rows turn out to be damaged only when they are read, begin anew without them."""
    while True:
        run = _prepare(data)
        try:
            return _finish(run, progress, partial(_fit_here, run))
        except BagError as error:
            again = data.without_damaged(error)
            if again is None:
                raise
            progress.end()
            progress.note(f"{error}; its slide is left out, and models that are not finished begin anew")
            for job in run.todo:
                remove_checkpoint(job.folder)
            data = again


def _fit_here(run: "_Run", cohorts: Sequence[Cohort], done: Done) -> None:
    fit_all(run.todo, cohorts, run.data.folds, done)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run to make or to go on with, and the models it holds."""

    data: TrainingData
    folder: RunFolder
    jobs: list[FitJob]
    todo: list[FitJob]
    """Those that are not whole."""
    stores: list[TileStore]
    stamp: str
    """The recipe's hash."""

    @property
    def is_finished(self) -> bool:
        """Tell whether nothing is left to do: all models, the evaluation with these stores, the report."""
        if self.todo or not (self.folder.path / "report.html").exists():
            return False
        try:
            return bool(self.folder.read_json("metrics.json")["seen_stores"] == evidence_of(self.stores))
        except RequestError:
            return False


def _prepare(data: TrainingData) -> _Run:
    """Make the run folder, or take up the one of the same recipe; the caller holds the claim."""
    options, recipe = data.options, data.recipe()
    stores = find_stores(options.stores) if options.stores else []
    if options.teacher is not None:
        recipe["teacher"] = RunFolder(options.teacher).config["recipe_hash"]
    folder = prepare_run(options.out, recipe, data.about(), overwrite=options.overwrite)
    models, stamp = product(options.heads, range(options.folds), range(options.models_per_fold)), recipe_hash(recipe)
    jobs = [
        FitJob(head=h, fold=f, seed=s, folder=folder.model(h, f, s), options=options, recipe_hash=stamp)
        for h, f, s in models
    ]
    return _Run(data, folder, jobs, [job for job in jobs if not job.is_whole], stores, stamp)


def _train_under_torchrun(data: TrainingData, place: Place, progress: Progress) -> list[Outcome]:
    """Train as one of the ranks that torchrun started: all fit together, rank 0 writes and tells."""
    if max(data.options.nproc, data.options.workers, data.options.together) > 1:
        raise RequestError(
            "torchrun excludes --nproc, --workers and --together: its processes train each model together"
        )
    device = device_of_rank(torch.device(data.options.device), place.local_rank)
    with process_group(place, device) as group, ExitStack() as held:
        agree(group, facts_of(device, data.options.precision))
        if place.rank > 0:
            todo = group.from_first(None)
            if todo is not None:  # else rank 0 tells why
                deque(fit_in_group(todo, data.open(), data.folds, group, device), maxlen=0)
            return []
        try:
            held.enter_context(claim(data.options.out))
            run = _prepare(data)
        except GigamilError:
            group.from_first(None)
            raise
        group.from_first(run.todo)

        def fit_together(cohorts: Sequence[Cohort], done: Done) -> None:
            for fitted in fit_in_group(run.todo, cohorts, data.folds, group, device):
                done(*fitted)

        return _finish(run, progress, fit_together)


def _finish(run: _Run, progress: Progress, fit_models: Callable[[Sequence[Cohort], Done], None]) -> list[Outcome]:
    """Train what is missing, evaluate, report; return one outcome for each model, and those that failed."""
    facts: dict[str, dict[str, float]] = {}

    def done(job: FitJob, found: dict[str, float]) -> None:
        facts[job.name] = found
        known_ended([job.name])
        _publish(run, job, progress)
        progress.advance(1)

    if run.is_finished:
        left_out = failed(run.folder.read_json("metrics.json")["failures"])
    else:
        cohorts, notes = _open(run, progress)
        options = run.data.options
        with session_recorded(run.folder.path, options.device, max(options.workers, options.nproc), facts):
            _choose(run, cohorts[0], progress)
            progress.begin("train", len(run.jobs), "models")
            progress.advance(len(run.jobs) - len(run.todo))
            fit_models(cohorts, done)
        progress.end()
        left_out = _report(run, cohorts[0], notes, progress)
    status = dict.fromkeys(facts, Status.DONE)
    return [
        *(Outcome(job.name, status.get(job.name, Status.SKIPPED), facts=facts.get(job.name, {})) for job in run.jobs),
        *left_out,
    ]


def _open(run: _Run, progress: Progress) -> tuple[tuple[Cohort, ...], list[str]]:
    """Open the bags, check that they can be trained on, write splits.csv; return them, and notes on what is missing."""
    data, teacher = run.data, run.data.options.teacher
    cohorts = data.open()
    check_trainable(cohorts[0], data.folds)
    if teacher is not None:
        check_teacher(RunFolder(teacher), cohorts[0], data.folds)
    notes, empty = list(data.notes), cohorts[0].empty
    if empty:
        notes.append(f"{plural(len(empty), 'slide')} without tiles, not trained on: {', '.join(empty)}")
    for note in notes:
        progress.note(note)
    tested, picture_of = data.tested_rows, pictures(data.bags.headers)
    write_splits(run.folder.path / "splits.csv", data.rows[:tested], data.row_folds[:tested], picture_of)
    if tested < len(data.rows):
        write_splits(run.folder.path / OTHERS, data.rows[tested:], data.row_folds[tested:], picture_of)
    return cohorts, notes


def _choose(run: _Run, cohort: Cohort, progress: Progress) -> None:
    """Choose the head of each fold on inner folds, where that is asked for, and write nested.json."""
    options = run.data.options
    if not options.nested or (run.folder.path / NESTED).exists():
        return
    every = inner_of(options, cohort, run.data.folds)
    for own in every:
        check_trainable(own.part, own.folds)
    progress.begin("choose heads", options.nested * options.folds * len(options.heads), "models")
    told = choose_heads(options, cohort, run.data.folds, every, run.folder.path, run.stamp, progress.advance)
    progress.end()
    run.folder.write_json(NESTED, told)


def _publish(run: _Run, job: FitJob, progress: Progress) -> None:
    """Send a model's history to the trackers asked for; what goes wrong there is told, and stops nothing."""
    options = run.data.options
    if not options.track:
        return
    try:
        history = read_history(job.folder / "history.csv")
        publish(options.track, run.folder.path, job.name, options.recipe(), history)
    except Exception as error:  # foreign packages, their services and files: anything may be raised
        progress.note(f"--track {', '.join(options.track)}: {type(error).__name__}: {error}")


def _report(run: _Run, cohort: Cohort, notes: Sequence[str], progress: Progress) -> list[Outcome]:
    """Evaluate out of fold and write the report; return what failed."""
    options, data = run.data.options, run.data
    folds = data.folds[data.folds >= 0]
    tested = cohort.take(range(len(folds)))
    _record_flow(run, cohort)
    progress.begin("evaluate", 2, "steps")
    evaluate(run.folder, options, tested, folds, run.stores, notes, data.bags.headers)
    progress.advance(1)
    drawn = report(ReportOptions(run=run.folder.path, bags=options.bags, stores=options.stores)).ended(Status.FAILED)
    progress.advance(1)
    progress.end()
    return [*failed(cohort.failures), *drawn]


def _record_flow(run: _Run, cohort: Cohort) -> None:
    """Keep who of the table took part, and why others did not; ``cohort``: all bags that were opened."""
    rows = run.data.rows[: run.data.tested_rows]
    ids = [row.image_id for row in rows]
    damaged = {i for i in ids if i in cohort.failures}
    headers = [own.headers for own in run.data.sets]
    usable = {i for i in ids if all(i in own and own[i].n_tiles for own in headers)} - damaged
    flow = run.data.flow.with_unjudged(ids, [row.patient_id for row in rows], usable, damaged)
    division = "drawn" if run.data.options.splits is None else "given"
    write_record(run.folder.path, replace(read_record(run.folder.path), flow=flow, division=division))


def check_trainable(cohort: Cohort, folds: Ints) -> None:
    """Raise `RequestError` unless every training fold has two patients of every class with tiles."""
    for fold in np.unique(folds[folds >= 0]):
        chosen = (folds != fold) & (folds >= 0) & cohort.usable_N
        for number, name in enumerate(cohort.target.groups):
            patients = {cohort.groups[i] for i in np.flatnonzero(chosen & (cohort.target.groups_N == number))}
            if len(patients) < 2:
                raise RequestError(
                    f"class {name} has {plural(len(patients), 'patient')} with tiles outside fold {fold}: expected "
                    "two or more (one trains, one validates); give more patients or fewer --folds"
                )

"""`gigamil tune`: a search for hyper-parameters whose reported score is honest, because it is nested.

For every outer fold a search of its own sees the patients of the other folds only, scores each setting on inner folds
among them, and its best setting is trained once on all of them and asked about the outer fold. Those answers, together,
are the score that is reported: of the procedure "search, then train". A last search over everybody gives the settings
to use; its own best score is flattering, and is told as such.

Settings are proposed by a tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), and dropped between inner
folds by successive halving (Jamieson and Talwalkar, AISTATS 2016, arXiv 1502.07943), both of Optuna (Akiba et al. 2019,
arXiv 1907.10902).
"""

import json
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from features.folds import outer_folds
from mil.data.cohort import Cohort
from mil.evaluation.bootstrap import draw_groups, estimates
from mil.evaluation.calibrate import fit_calibration
from mil.run.scores import Scores, patient_logits, read_scores
from mil.search import Search
from mil.targets import ClassTarget
from mil.targets.calibration import Calibration
from mil.targets.metrics import METRICS, ones
from mil.train import check_trainable
from mil.training.fit import fit
from mil.training.jobs import FitJob
from mil.training.options import TrainOptions, resolve
from mil.training.processes import deterministic
from mil.training.training_data import TrainingData, gather
from mil.training.tune_options import TuneOptions
from wsi.arrays import Floats, Ints
from wsi.errors import RequestError
from wsi.files.atomic import check_folder, make_folder, write_text
from wsi.files.claim import claim
from wsi.files.replace import remove
from wsi.machine.interrupt import Leaving
from wsi.options import stage
from wsi.progress.outcome import Outcome, Progress, Silent, Status, Summary
from wsi.recipe import Json, Recipe, recipe_hash, refuse_other_recipe

ALGORITHM = 1
"""Raised when the same options come to mean another search."""
_EVERYBODY = -1
"""In place of an outer fold: the last search, which leaves nobody out."""


def _recipe(options: TuneOptions, data: TrainingData) -> Recipe:
    """Return what shapes the result but the number of trials: a search may be gone on with."""
    own = {"algorithm": ALGORITHM, "inner_folds": options.inner_folds, "heads": list(options.heads)}
    return {"tune": own, "train": data.recipe()}


@stage
def tune(options: TuneOptions, progress: Progress | None = None) -> Summary:
    """Search, and write tune.json: the nested score with intervals, the settings of each fold, the settings to use.

    A search that was stopped goes on to the same result; more ``trials`` go on from those that are there.

    Raises
    ------
    RequestError
        The manifest, the bags or the options do not fit each other.
    RecipeMismatchError
        ``out`` holds another search, and ``overwrite`` is not given.
    """
    start, progress = time.monotonic(), progress or Silent()
    options = resolve(options)
    data = gather(options.train)
    out = options.train.out
    check_folder(out)
    with claim(out):
        recipe = _recipe(options, data)
        cohort = data.open()[0]
        _check_searchable(options, cohort, data.folds)
        _take_up(out, recipe, options.trials, overwrite=options.train.overwrite)
        tuner = _Tuner(options, cohort, data.folds, recipe_hash(recipe), progress)
        progress.begin("tune", options.trials * (options.train.folds + 1), "trials")
        outer = [tuner.outer_fold(fold) for fold in range(options.train.folds)]
        last = tuner.search(_EVERYBODY)
        progress.end()
        told = _told(options, recipe, outer, last, _patients(cohort, outer, options))
        write_text(out / "tune.json", json.dumps(told, indent=1, allow_nan=False) + "\n")
    facts = {"settings": last.best.params, "nested": told["nested_score"]}
    outcomes = [Outcome(str(out / "tune.json"), Status.DONE, facts=facts)]
    outcomes += [Outcome(i, Status.FAILED, reason) for i, reason in cohort.failures.items()]
    return Summary("tune", outcomes, time.monotonic() - start)


def _check_searchable(options: TuneOptions, cohort: Cohort, folds: Ints) -> None:
    """Raise `RequestError` unless every search has patients enough for its inner folds: before anything is written."""
    check_trainable(cohort, folds)
    for fold in (*range(options.train.folds), _EVERYBODY):
        part = cohort.take(np.flatnonzero(folds != fold))
        check_trainable(part, _inner_folds(part, options))


def _inner_folds(cohort: Cohort, options: TuneOptions) -> Ints:
    return outer_folds(cohort.strata, cohort.center_ids, cohort.groups, options.inner_folds, options.train.seed)


def _take_up(out: Path, recipe: Recipe, trials: int, *, overwrite: bool) -> None:
    """Refuse a folder of another or a longer search, or with ``overwrite`` delete what another one left."""
    make_folder(out)
    path = out / "recipe.json"
    if path.exists():
        found = _known_recipe(path)
        if overwrite and found != recipe:
            for file in [path, out / "tune.json", *out.glob("search_*.json"), out / "outer", out / "trial"]:
                remove(file)
        else:
            refuse_other_recipe(out, found, recipe)
            longest = max((len(Search(file, (), ())) for file in out.glob("search_*.json")), default=0)
            if longest > trials:
                raise RequestError(
                    f"--trials {trials}: {out} holds a search of {longest}: give --trials {longest} or more, or choose "
                    "another --out"
                )
    elif any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise RequestError(f"{out}: the folder is not empty and holds no search: choose another --out")
    write_text(path, json.dumps(recipe, indent=1) + "\n")


def _known_recipe(path: Path) -> Recipe:
    """Return the recipe of the search that is there."""
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: expected the recipe of a search, found {error}: choose another --out") from None
    if not isinstance(found, dict) or "tune" not in found:
        raise RequestError(f"{path}: expected the recipe of a search, found none: choose another --out")
    return found


@dataclass(frozen=True, slots=True)
class _Outer:
    """What an outer fold gave."""

    fold: int
    search: Search
    tables: tuple[Scores, ...]
    """Of the best setting, one for each seed; the test part is the outer fold."""


class _Tuner:
    """The searches, and the models of their best settings."""

    def __init__(self, options: TuneOptions, cohort: Cohort, folds: Ints, recipe_hash: str, progress: Progress) -> None:
        self._options, self._cohort, self._folds = options, cohort, folds
        self._hash, self._progress, self._out = recipe_hash, progress, options.train.out

    def outer_fold(self, fold: int) -> _Outer:
        """Search without the fold's patients, train the best setting on the others, score the fold."""
        found = self.search(fold)
        best = self._settings(found.best.params)
        stamp = recipe_hash({"run": self._hash, "settings": found.best.params})
        tables = []
        for seed in range(best.seeds):
            folder = self._out / "outer" / f"fold{fold}" / f"seed{seed}"
            job = FitJob(head=best.head, fold=fold, seed=seed, folder=folder, options=best, recipe_hash=stamp)
            tables.append(self._scores(job, self._cohort, self._folds))
        return _Outer(fold, found, tuple(tables))

    def search(self, fold: int) -> Search:
        """Search among the patients outside the fold."""
        options = self._options
        name = "everybody" if fold == _EVERYBODY else f"fold{fold}"
        cohort = self._cohort.take(np.flatnonzero(self._folds != fold))
        inner = _inner_folds(cohort, options)
        search = Search(self._out / f"search_{name}.json", options.heads, [options.train.seed, fold + 1])
        self._progress.advance(min(len(search), options.trials))

        def loss(params: Json, part: int) -> float:
            settings = self._settings(params)
            folder, stopped = self._out / "trial", False
            # What a killed process left there is gone on with by this very fold of this very setting alone.
            stamp = recipe_hash({"run": self._hash, "search": name, "settings": params, "fold": part})
            job = FitJob(head=settings.head, fold=part, seed=0, folder=folder, options=settings, recipe_hash=stamp)
            try:
                return _loss(self._scores(job, cohort, inner), cohort)
            except (KeyboardInterrupt, Leaving):
                stopped = True  # what is there is for the run that goes on
                raise
            finally:
                if not stopped:
                    with suppress(OSError):
                        remove(folder)

        while len(search) < options.trials:
            search.one_more(loss, options.inner_folds)
            self._progress.advance(1)
        return search

    def _settings(self, params: Json) -> TrainOptions:
        return replace(self._options.train, **params)

    def _scores(self, job: FitJob, cohort: Cohort, folds: Ints) -> Scores:
        """Return the model's scores, trained here unless they are there."""
        table = job.folder / "scores.csv"
        if not job.is_whole:
            with deterministic([job]):
                fit(job, cohort, folds)
        return read_scores(table, cohort.image_ids, len(cohort.target.names))


def _loss(table: Scores, cohort: Cohort) -> float:
    """Return the weighted log loss of a model's test patients, calibrated on its validation patients."""
    _, labels, logits = _by_patient(table, cohort, test=True)
    probs = _calibration([table], cohort).probabilities(logits)
    return float(METRICS["weighted_log_loss"](labels, probs, ones(len(labels)))[0])


def _calibration(tables: list[Scores] | tuple[Scores, ...], cohort: Cohort) -> Calibration:
    parts = [_by_patient(table, cohort, test=False) for table in tables]
    logits_NC = np.concatenate([logits for _, _, logits in parts])
    return fit_calibration("temperature", logits_NC, np.concatenate([own for _, own, _ in parts]))


def _by_patient(table: Scores, cohort: Cohort, *, test: bool) -> tuple[list[str], Ints, Floats]:
    """Return the patients of one part, their labels (P,) and mean logits (P, C), of slides with tiles."""
    number = {image_id: i for i, image_id in enumerate(cohort.image_ids)}
    chosen = [i for i, own in enumerate(table.test_S) if own == test]
    slides = [number[table.image_ids[i]] for i in chosen]
    patients = tuple(cohort.patient_ids[i] for i in slides)
    names, logits_PC = patient_logits(table.logits_SC[chosen], patients, cohort.usable_N[slides])
    label_of = dict(zip(patients, cohort.target.groups_N[slides].tolist(), strict=True))
    return names, np.array([label_of[name] for name in names], np.int64), logits_PC


def _patients(cohort: Cohort, outer: list[_Outer], options: TuneOptions) -> Json:
    """Return the nested score: every patient scored once, by a setting found without the patient."""
    labels, probs, groups = [], [], []
    person_of = dict(zip(cohort.patient_ids, cohort.groups, strict=True))
    for part in outer:
        own = [_by_patient(table, cohort, test=True) for table in part.tables]
        labels.append(own[0][1])
        groups += [person_of[name] for name in own[0][0]]
        mean_PC = np.mean([logits for _, _, logits in own], axis=0)
        probs.append(_calibration(part.tables, cohort).probabilities(mean_PC))
    labels_P, probs_PC = np.concatenate(labels), np.concatenate(probs)
    truth = ClassTarget(labels_P, cohort.target.names)
    return estimates(truth.measures(probs_PC), draw_groups(groups, options.train.seed))


def _told(options: TuneOptions, recipe: Recipe, outer: list[_Outer], last: Search, nested: Json) -> Json:
    return {
        "recipe": recipe,
        "trials": options.trials,
        "nested_score": nested,
        "nested_score_is": "of search and training together, each patient scored without any part in either",
        "settings": last.best.params,
        "settings_are_of": "a last search over all patients",
        "flattering_search_loss": last.best.value,
        "folds": [
            {"fold": part.fold, "settings": part.search.best.params, "search_loss": part.search.best.value}
            for part in outer
        ],
    }

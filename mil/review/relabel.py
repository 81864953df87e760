"""What relabelling suspects would do to a run, by training again, without a look at whom it is judged on.

For each fold, suspects are sought among the patients of the other folds alone, by models of their own in an inner
cross-validation; the surest take the class that is suggested; models trained on these labels are asked of the fold's
patients. Theirs, the judges', are the classes that were given: none of them was relabelled, and none had a part in
choosing whom to relabel.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from features.folds import outer_folds
from mil.data.cohort import Cohort
from mil.evaluation.bootstrap import draw_groups
from mil.evaluation.calibrate import fit_calibration
from mil.evaluation.oof import patients_of
from mil.review.confident import suspects
from mil.review.options import WorklistOptions
from mil.run.evidence import Evidence, read_evidence
from mil.run.folder import RunFolder
from mil.run.scores import patient_logits, read_scores
from mil.targets import ClassTarget
from mil.targets.metrics import ones, softmax
from mil.targets.questions import at_prevalence
from mil.training.fit import fit
from mil.training.jobs import FitJob
from mil.training.options import TrainOptions, resolve
from mil.training.processes import deterministic
from mil.training.training_data import TrainingData, gather
from wsi.arrays import Floats, Ints
from wsi.errors import RequestError
from wsi.progress.outcome import Progress
from wsi.recipe import Json

INNER_FOLDS = 5
_NOT_OPTIONS = ("bags", "splits", "teacher")
"""Of a recipe: what stands under an option's name and is no value of it."""


def relabelled(run: RunFolder, options: WorklistOptions, progress: Progress) -> Json:
    """Train each fold's models again with ``options.most`` suspects relabelled; return what it did to the AUC.

    Raises
    ------
    RequestError
        Bags and manifest are not those of the run, or the run learnt from a teacher or from other slides.
    """
    with TemporaryDirectory(prefix="gigamil-relabel-") as folder:
        data = _data(run, options, Path(folder) / "run")
        trial = _Trial(data, data.open()[0], Path(folder), progress)
        progress.begin("relabel", data.options.folds, "folds")
        found = [trial.fold(fold, options.most) for fold in range(data.options.folds)]
        progress.end()
    return _told(read_evidence(run), found, options.most)


def _data(run: RunFolder, options: WorklistOptions, out: Path) -> TrainingData:
    """Return what the run was trained on."""
    recipe, known = run.recipe, {own.name for own in fields(TrainOptions)} - {*_NOT_OPTIONS}
    if "teacher" in recipe or recipe.get("other_label"):
        raise RequestError(f"{run.path}: --retrain is for runs without a teacher and without other slides")
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items() if name in known
    }
    assert options.manifest is not None
    asked = TrainOptions(
        **settings | {"baselines": (), "device": options.device, "columns": options.columns},
        bags=options.bags,
        manifest=options.manifest,
        splits=run.path / "splits.csv",
        out=out,
    )
    data = gather(resolve(asked))
    if data.recipe()["cohort"] != recipe["cohort"]:
        raise RequestError(
            f"--retrain: expected the bags and the manifest that {run.path} was trained on, found others"
        )
    return data


@dataclass(frozen=True, slots=True)
class _Fold:
    """What a fold's patients are told by models of relabelled patients."""

    patients: list[str]
    logits_PC: Floats
    changed: int
    """Patients of the other folds who were relabelled."""


class _Trial:
    """The trainings of one request."""

    def __init__(self, data: TrainingData, cohort: Cohort, folder: Path, progress: Progress) -> None:
        self._options, self._folds, self._cohort = data.options, data.folds, cohort
        self._folder, self._progress = folder, progress

    def fold(self, fold: int, most: int) -> _Fold:
        """Relabel among the other folds' patients, train on them, and ask of the fold's."""
        others = self._cohort.take(np.flatnonzero(self._folds != fold))
        share = round(most * (1 - 1 / self._options.folds))
        changes = dict(list(self._suspects(others, f"inner{fold}"))[: max(1, share)])
        cohort = _with_labels(self._cohort, changes)
        scored = [self._logits(cohort, self._folds, fold, seed, f"outer{fold}") for seed in range(self._options.seeds)]
        self._progress.advance(1)
        return _Fold(scored[0][0], np.mean([logits_PC for _, logits_PC in scored], axis=0), len(changes))

    def _suspects(self, cohort: Cohort, name: str) -> Iterator[tuple[str, int]]:
        """Give the suspects of some patients, by models of these patients alone: who, and the suggested class."""
        least = min(np.unique(cohort.target.groups_N, return_counts=True)[1].tolist())
        count = max(2, min(INNER_FOLDS, least // 2))
        seed = self._options.seed
        inner = outer_folds(cohort.strata, cohort.center_ids, cohort.groups, count, seed)
        logits: dict[str, Floats] = {}
        for part in range(count):
            logits |= dict(zip(*self._logits(cohort, inner, part, 0, name), strict=True))
        patients = patients_of(cohort, inner)
        chosen = [p for p, who in enumerate(patients.ids) if who in logits]
        labels_P, folds_P = patients.target.groups_N[chosen], patients.folds_P[chosen]
        logits_PC = np.array([logits[patients.ids[p]] for p in chosen])
        probs_PC = np.zeros_like(logits_PC)
        for part in range(count):
            seen, mine = folds_P != part, folds_P == part
            probs_PC[mine] = fit_calibration("temperature", logits_PC[seen], labels_P[seen]).probabilities(
                logits_PC[mine]
            )
        counts_C = np.bincount(labels_P, minlength=logits_PC.shape[1]).astype(np.float64)
        rows, suggested = suspects(labels_P, at_prevalence(probs_PC, counts_C / counts_C.sum()))
        for row, label in zip(rows.tolist(), suggested.tolist(), strict=True):
            yield patients.ids[chosen[row]], label

    def _logits(self, cohort: Cohort, folds: Ints, fold: int, seed: int, name: str) -> tuple[list[str], Floats]:
        """Train one model; return the patients of its fold and their logits."""
        options, folder = self._options, self._folder / name / f"fold{fold}" / f"seed{seed}"
        job = FitJob(head=options.head, fold=fold, seed=seed, folder=folder, options=options, recipe_hash=name)
        with deterministic([job]):
            fit(job, cohort, folds)
        table = read_scores(folder / "scores.csv", cohort.image_ids, len(cohort.target.names))
        number = {image_id: i for i, image_id in enumerate(cohort.image_ids)}
        tested = np.flatnonzero(table.test_S)
        rows = [number[table.image_ids[i]] for i in tested.tolist()]
        who = tuple(cohort.patient_ids[row] for row in rows)
        return patient_logits(table.logits_SC[tested], who, cohort.usable_N[rows], options.aggregate)


def _with_labels(cohort: Cohort, changes: dict[str, int]) -> Cohort:
    """Return the cohort with other classes for some patients."""
    target = cohort.target
    assert isinstance(target, ClassTarget)
    labels_N = np.array([changes.get(who, own) for who, own in zip(cohort.patient_ids, target.labels_N, strict=True)])
    names = (*target.names, *("",) * target.extra)
    strata = tuple(
        names[label] if who in changes else own
        for who, label, own in zip(cohort.patient_ids, labels_N, cohort.strata, strict=True)
    )
    return replace(cohort, target=replace(target, labels_N=labels_N.astype(np.int64)), strata=strata)


def _told(evidence: Evidence, found: list[_Fold], most: int) -> Json:
    """Return the AUC before and after, on the classes that were given, and the difference with its interval."""
    after = {who: own for part in found for who, own in zip(part.patients, part.logits_PC, strict=True)}
    ids, names = [row["patient_id"] for row in evidence.patients], [f"logit_{name}" for name in evidence.classes]
    before_PC = np.array([[float(row[name]) for name in names] for row in evidence.patients])
    after_PC = np.array([after[own] for own in ids])
    draws_BP = np.concatenate([ones(len(ids)), draw_groups(evidence.groups, 0)])
    both = [evidence.truth.measures(softmax(own), evidence.folds_P)["auc"](draws_BP) for own in (before_PC, after_PC)]
    difference_B = both[1] - both[0]
    low, high = np.nanquantile(difference_B[1:], [0.025, 0.975])
    changed = [part.changed for part in found]
    told: Json = {
        "auc_before": float(both[0][0]),
        "auc_after": float(both[1][0]),
        "difference": {"value": float(difference_B[0]), "low": float(low), "high": float(high)},
        "relabelled_per_fold": changed,
    }
    return told | {"said": _said(told, most)}


def _said(told: Json, most: int) -> str:
    own = told["difference"]
    return (
        f"relabelling about {most} suspects moves the AUC from {told['auc_before']:.3f} to {told['auc_after']:.3f}, by "
        f"{own['value']:+.3f} (95 % interval {own['low']:+.3f} to {own['high']:+.3f}); they were sought and relabelled "
        "among the training patients of each fold alone, and the fold's patients judge by the classes that they were "
        "given: where these are wrong themselves, what is gained looks smaller than it is; every suspect took the "
        "suggested class, as nobody has looked at them yet"
    )

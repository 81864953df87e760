"""What the models of one run say of patients, from their slides' bags: the one way from rows to what is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from features.bags.rows import LazyRows
from mil.data.cohort import Cohort
from mil.evaluation.probe import mean_of
from mil.models.ensemble import NOT_FINITE, Ensemble
from mil.ragged.packing import BagRows, Rows
from mil.run.scores import patient_logits
from wsi.arrays import Bools, Floats
from wsi.errors import BagError, RequestError
from wsi.progress.outcome import Progress

_CHUNK = 64
"""Bags scored between two steps of the progress bar."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one run says of the patients, or of the slides where each is judged by itself."""

    patients: list[str]
    """Sorted."""
    values_PC: Floats
    """Calibrated probabilities, or of other targets what is told: a value, a log risk."""
    known_P: Bools
    """Patients of whom a slide could be judged; the others stand at what is best said of anybody."""
    slides: Cohort
    """Those that could not be read, or have no finite answer, failed and without tiles."""
    cohort: Cohort
    """The same as they are judged: each slide, or a patient's slides as one bag."""
    means: Mapping[str, Floats]
    """Image id of `cohort` -> mean features (`mean_of`), of those that were at hand as they were judged."""
    logits_SC: Floats
    """Of what `cohort` holds, uncalibrated; zeros without tiles."""
    logits_PC: Floats
    logits_FPC: Floats
    """Of the patients by the models of each of the training's folds alone; zeros of who is not known."""


def judge(ensemble: Ensemble, slides: Sequence[Cohort], progress: Progress) -> Judged:
    """Ask all models of the run; mean logits over the models and the patient's slides, calibrated.

    Parameters
    ----------
    ensemble
        The run's models.
    slides
        The slides with the bags of each encoder: one cohort, or several of the same slides where bags are fused late.

    Raises
    ------
    RequestError
        No slide is answered with finite numbers.
    """
    run = ensemble.run
    how = str(run.recipe.get("aggregate", "mean"))
    cohorts = [own.judged(str(run.recipe.get("unit", "patient")), how) for own in slides]
    each_MNC, damaged, means = _logits(ensemble, cohorts, progress)
    names = slides[0].patient_ids if how == "bag" else slides[0].image_ids
    cohort, whole = _without(cohorts[0], cohorts[0].image_ids, damaged), _without(slides[0], names, damaged)
    logits = np.mean(each_MNC, axis=0)
    finite_N: Bools = np.asarray(np.isfinite(logits).all(axis=1))
    if cohort.usable_N.any() and not finite_N[cohort.usable_N].any():
        raise RequestError(f"{run.path}: its models answer no slide with finite numbers: train the run again")
    unanswered = {own: NOT_FINITE for own, fine in zip(cohort.image_ids, finite_N, strict=True) if not fine}
    cohort, whole = _without(cohort, cohort.image_ids, unanswered), _without(whole, names, unanswered)
    patients, logits_PC = patient_logits(logits, cohort.patient_ids, cohort.usable_N, how)
    by_fold = (patient_logits(own, cohort.patient_ids, cohort.usable_N, how)[1] for own in _folds(ensemble, each_MNC))
    usable = {patient for patient, fine in zip(cohort.patient_ids, cohort.usable_N, strict=True) if fine}
    known_P = np.array([patient in usable for patient in patients], bool)
    values_PC = ensemble.told(logits_PC)
    if not np.isfinite(values_PC).all():
        raise RequestError(f"{run.path}: its calibration gives no finite number: train the run again")
    default = run.predicts.default(lambda: run.read_json("metrics.json"), len(run.classes))
    told_PC = np.where(known_P[:, None], values_PC, default)
    return Judged(
        patients,
        told_PC,
        known_P,
        whole,
        cohort,
        means,
        np.where(finite_N[:, None], logits, 0.0),
        logits_PC,
        np.stack(list(by_fold)),
    )


def _logits(
    ensemble: Ensemble, cohorts: Sequence[Cohort], progress: Progress
) -> tuple[Floats, dict[str, str], dict[str, Floats]]:
    """Return the logits (M, N, C) of each model; why, of bags that are found damaged by reading them; mean features."""
    damaged, means = dict[str, str](), dict[str, Floats]()
    found = [np.zeros((len(ensemble.members), 0, len(ensemble.run.classes)))]
    progress.begin("predict", len(cohorts[0]), "slides")
    for first in range(0, len(cohorts[0]), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        names, views = cohorts[0].image_ids[chunk], [own.bags[chunk] for own in cohorts]

        def seen(position: int, rows: Rows, names: Sequence[str] = names) -> None:
            means[names[position]] = mean_of(rows)

        try:
            found.append(ensemble.of_each(*views, seen=seen))
        except BagError:
            whys = {name: why for name, *bags in zip(names, *views, strict=True) if (why := _damage(bags))}
            if not whys:
                raise
            found.append(ensemble.of_each(*(_emptied(bags, names, whys) for bags in views), seen=seen))
            damaged |= whys
        progress.advance(len(names))
    progress.end()
    return np.concatenate(found, axis=1), damaged, means


def _damage(bags: Sequence[BagRows]) -> str:
    """Return why one of a slide's bags cannot be read; an empty text where all can."""
    try:
        for bag in bags:
            if isinstance(bag, LazyRows):
                bag.check()
    except BagError as error:
        return str(error)
    return ""


def _folds(ensemble: Ensemble, each_MNC: Floats) -> list[Floats]:
    """Return the mean logits (N, C) of the models of each fold."""
    folds = np.array([member.fold for member in ensemble.members])
    return [np.asarray(each_MNC[folds == fold].mean(axis=0)) for fold in np.unique(folds)]


def _emptied(bags: Sequence[BagRows], names: Sequence[str], whys: Mapping[str, str]) -> tuple[BagRows, ...]:
    return tuple(bag[:0] if name in whys else bag for bag, name in zip(bags, names, strict=True))


def _without(cohort: Cohort, names: Sequence[str], whys: Mapping[str, str]) -> Cohort:
    """Return the cohort with those of its slides failed and without tiles whose name has a reason."""
    lost = {image_id: whys[name] for image_id, name in zip(cohort.image_ids, names, strict=True) if name in whys}
    failures = cohort.failures | lost
    ordered = {image_id: failures[image_id] for image_id in cohort.image_ids if image_id in failures}
    return replace(cohort, bags=_emptied(cohort.bags, names, whys), failures=ordered | failures)

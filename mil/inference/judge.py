"""What the models of one run say of patients, from their slides' bags: the one way from rows to what is told."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mil.data.cohort import Cohort
from mil.models.ensemble import NOT_FINITE, Ensemble
from mil.run.scores import patient_logits
from wsi.arrays import Bools, Floats
from wsi.errors import RequestError
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
    """Those without a finite answer failed, and without tiles."""
    cohort: Cohort
    """The same as they are judged: each slide, or a patient's slides as one bag."""
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
    empty = np.zeros((len(ensemble.members), 0, len(run.classes)))
    each_MNC = np.concatenate([empty, *_logits(ensemble, cohorts, progress)], axis=1)
    logits = np.mean(each_MNC, axis=0)
    finite_N: Bools = np.asarray(np.isfinite(logits).all(axis=1))
    cohort = cohorts[0]
    if cohort.usable_N.any() and not finite_N[cohort.usable_N].any():
        raise RequestError(f"{run.path}: its models answer no slide with finite numbers: train the run again")
    unanswered = {own for own, fine in zip(cohort.image_ids, finite_N, strict=True) if not fine}
    cohort, whole = _without(cohort, unanswered), _without(slides[0], unanswered)
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
        np.where(finite_N[:, None], logits, 0.0),
        logits_PC,
        np.stack(list(by_fold)),
    )


def _logits(ensemble: Ensemble, cohorts: Sequence[Cohort], progress: Progress) -> Iterator[Floats]:
    count = len(cohorts[0])
    progress.begin("predict", count, "slides")
    for first in range(0, count, _CHUNK):
        chunk, *others = [own.bags[first : first + _CHUNK] for own in cohorts]
        yield ensemble.of_each(chunk, *others)
        progress.advance(len(chunk))
    progress.end()


def _folds(ensemble: Ensemble, each_MNC: Floats) -> list[Floats]:
    """Return the mean logits (N, C) of the models of each fold."""
    folds = np.array([member.fold for member in ensemble.members])
    return [np.asarray(each_MNC[folds == fold].mean(axis=0)) for fold in np.unique(folds)]


def _without(cohort: Cohort, unanswered: set[str]) -> Cohort:
    """Return the cohort with these slides, or these patients' slides, failed and without tiles."""
    ids = zip(cohort.image_ids, cohort.patient_ids, strict=True)
    lost = [image_id if {image_id, patient_id} & unanswered else "" for image_id, patient_id in ids]
    return replace(
        cohort,
        bags=tuple(bag[:0] if own else bag for bag, own in zip(cohort.bags, lost, strict=True)),
        failures=cohort.failures | {image_id: NOT_FINITE for image_id in lost if image_id},
    )

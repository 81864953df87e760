"""What inner folds are made of, and what a model is worth on one.

Nothing here knows an outer fold's patients: not their features, not what is true of them. Strata of values and times
are quantiles over everybody, so inner folds of those targets are drawn without strata.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from features.folds import outer_folds, patient_folds
from mil.data.cohort import Cohort
from mil.data.preserved_site import preserved_site_folds
from mil.evaluation.calibrate import fit_calibration
from mil.run.protocol import WHOLE_CENTERS
from mil.run.scores import Scores, patient_logits
from mil.targets.calibration import Calibration
from mil.targets.metrics import METRICS, ones
from mil.training.options import TrainOptions
from wsi.arrays import Floats, Ints


def without_fold(cohort: Cohort, folds: Ints, fold: int) -> tuple[Cohort, Ints]:
    """Return the cohort without a fold's slides, and the folds of the others."""
    kept = np.flatnonzero(folds != fold)
    part = cohort.take(kept)
    return (part if part.target.groups else replace(part, strata=("",) * len(kept))), folds[kept]


def inner_view(options: TrainOptions, cohorts: Sequence[Cohort], folds: Ints, fold: int) -> tuple[Cohort, Ints]:
    """Return what the inner models of an outer fold are trained on, and its inner folds; raises as `inner_folds`."""
    part, outer = without_fold(cohorts[0], folds, fold)
    return part, inner_folds(part, outer, options)


def inner_folds(part: Cohort, outer: Ints, options: TrainOptions) -> Ints:
    """Return the inner fold of each slide, -1 of those that are trained on only: divided as the outer ones are.

    Whole centers where whole centers are held out outside, as long as there are enough; else patients.

    Raises
    ------
    RequestError
        A class has fewer patients than inner folds.
    """
    asked = np.flatnonzero(outer >= 0).tolist()
    strata, patients = ([own[i] for i in asked] for own in (part.strata, part.groups))
    centers = [part.center_ids[i] for i in asked]
    inner = np.full(len(outer), -1, np.int64)
    if options.split in WHOLE_CENTERS and all(centers) and len(set(centers)) >= options.nested:
        inner[asked] = preserved_site_folds(strata, centers, patients, options.nested)[0]
    elif part.target.groups:
        inner[asked] = outer_folds(strata, centers, patients, options.nested, options.seed)
    else:
        inner[asked] = patient_folds(strata, patients, options.nested, options.seed)
    return inner


def loss_of(table: Scores, part: Cohort, how: str) -> float:
    """Return the loss of a model's test patients: of classes the weighted log loss, calibrated on its validation."""
    rows, logits_PC = by_patient(table, part, how, test=True)
    if not part.target.calibrated:
        return float(part.target.validation(rows, logits_PC)["loss"])
    probs = calibration_of(table, part, how).probabilities(logits_PC)
    return float(METRICS["weighted_log_loss"](part.target.groups_N[rows], probs, ones(len(rows)))[0])


def calibration_of(table: Scores, part: Cohort, how: str) -> Calibration:
    """Return the temperature that a model's validation patients ask for."""
    rows, logits_PC = by_patient(table, part, how, test=False)
    return fit_calibration("temperature", logits_PC, part.target.groups_N[rows])


def by_patient(table: Scores, part: Cohort, how: str, *, test: bool) -> tuple[Ints, Floats]:
    """Return a row of the cohort for each patient of one part with tiles, and the patients' logits (P, C)."""
    number = {image_id: i for i, image_id in enumerate(part.image_ids)}
    chosen = [i for i, own in enumerate(table.test_S) if own == test and part.usable_N[number[table.image_ids[i]]]]
    slides = [number[table.image_ids[i]] for i in chosen]
    patients = tuple(part.patient_ids[i] for i in slides)
    names, logits_PC = patient_logits(table.logits_SC[chosen], patients, part.usable_N[slides], how)
    row_of = {part.patient_ids[i]: i for i in reversed(slides)}
    return np.array([row_of[name] for name in names], np.int64), logits_PC

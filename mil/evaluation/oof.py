"""Out-of-fold predictions: every patient scored by models that never saw that patient.

A fold's logits are averaged over its seeds, a patient's over the slides. What calibrates a fold's scores is fitted on
the logits of the patients of all other folds, each told by models that had not seen the patient, and never on the
patients who are being scored; what calibrates new patients, on those of all folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mil.data.cohort import Cohort
from mil.evaluation.calibrate import Calibration, fit_calibration
from mil.run.folder import RunFolder
from mil.run.scores import patient_logits, read_scores
from mil.targets.metrics import Floats, Ints
from mil.training.options import TrainOptions
from wsi.files.atomic import write_text
from wsi.files.csv_table import csv_text


@dataclass(frozen=True, slots=True)
class Patients:
    """The patients of a cohort, sorted by id; the fields run in parallel."""

    ids: tuple[str, ...]
    labels_P: Ints
    centers: tuple[str | None, ...]
    folds_P: Ints
    groups: tuple[str, ...]
    """Who hang together and are drawn together: themselves, or the patients of slides judged by themselves."""


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Out-of-fold scores of one head."""

    slide_logits_SC: Floats
    """Mean over seeds, uncalibrated; zeros for a slide without tiles."""
    slide_probs_SC: Floats
    patient_logits_PC: Floats
    patient_probs_PC: Floats
    calibrations: dict[int, Calibration]
    """By fold, each fitted on the patients of the others."""
    calibration: Calibration
    """Fitted on all patients, for new ones."""


def patients_of(cohort: Cohort, folds: Ints) -> Patients:
    """Return the cohort's patients."""
    first = {patient: i for i, patient in reversed(list(enumerate(cohort.patient_ids)))}
    ids = tuple(sorted(first))
    rows = [first[patient] for patient in ids]
    centers = tuple(cohort.center_ids[i] for i in rows)
    return Patients(ids, cohort.labels_N[rows], centers, folds[rows], tuple(cohort.groups[i] for i in rows))


def collect(
    run: RunFolder,
    head: str,
    cohort: Cohort,
    folds: Ints,
    options: TrainOptions,
) -> OutOfFold:
    """Gather one head's scores.csv files into out-of-fold predictions, calibrated fold by fold."""
    logits_SC = _slide_logits(run, head, cohort, options)
    patients = patients_of(cohort, folds)
    _, patient_PC = patient_logits(logits_SC, cohort.patient_ids, cohort.usable_N, options.aggregate)
    usable = {patient for patient, fine in zip(cohort.patient_ids, cohort.usable_N, strict=True) if fine}
    known_P = np.array([patient in usable for patient in patients.ids])

    def fitted(chosen_P: NDArray[np.bool_]) -> Calibration:
        chosen_P = chosen_P & known_P
        return fit_calibration(options.calibrate, patient_PC[chosen_P], patients.labels_P[chosen_P], options.seed)

    calibrations = {fold: fitted(patients.folds_P != fold) for fold in range(options.folds)}
    slide_probs = _calibrated(logits_SC, folds, cohort.usable_N, calibrations)
    patient_probs = _calibrated(patient_PC, patients.folds_P, known_P, calibrations)
    return OutOfFold(logits_SC, slide_probs, patient_PC, patient_probs, calibrations, fitted(known_P))


def _slide_logits(run: RunFolder, head: str, cohort: Cohort, options: TrainOptions) -> Floats:
    """Return each slide's logits (S, C), the mean over the models of the fold that tests it."""
    number = {image_id: i for i, image_id in enumerate(cohort.image_ids)}
    logits_SC = np.zeros((len(cohort), len(cohort.classes)))
    for fold in range(options.folds):
        for seed in range(options.models_per_fold):
            table = read_scores(run.model(head, fold, seed) / "scores.csv", number, len(cohort.classes))
            rows = [number[i] for i, test in zip(table.image_ids, table.test_S, strict=True) if test]
            logits_SC[rows] += table.logits_SC[table.test_S] / options.models_per_fold
    return logits_SC


def _calibrated(
    logits_NC: Floats, folds_N: Ints, known_N: NDArray[np.bool_], calibrations: Mapping[int, Calibration]
) -> Floats:
    """Return probabilities, each row's by its fold's calibration; equal ones for who could not be judged."""
    probs_NC = np.full(logits_NC.shape, 1 / logits_NC.shape[1])
    for fold, calibration in calibrations.items():
        rows = known_N & (folds_N == fold)
        probs_NC[rows] = calibration.probabilities(logits_NC[rows])
    return probs_NC


def write_oof(path: Path, cohort: Cohort, folds: Ints, patients: Patients, oof: OutOfFold) -> None:
    """Write oof.csv: first the slides, then the patients; logits uncalibrated, probabilities calibrated."""
    rows: list[list[Any]] = [
        ["level", "patient_id", "image_id", "center_id", "label", "fold", "n_tiles"]
        + [f"logit_{name}" for name in cohort.classes]
        + [f"p_{name}" for name in cohort.classes]
    ]
    tiles: dict[str, int] = dict.fromkeys(patients.ids, 0)
    for i, image_id in enumerate(cohort.image_ids):
        tiles[cohort.patient_ids[i]] += len(cohort.bags[i])
        row = ["slide", cohort.groups[i], image_id, cohort.center_ids[i] or "", cohort.classes[cohort.labels_N[i]]]
        scores = [*oof.slide_logits_SC[i].tolist(), *oof.slide_probs_SC[i].tolist()]
        rows.append([*row, int(folds[i]), len(cohort.bags[i]), *scores])
    for p, patient in enumerate(patients.ids):
        row = ["patient", patient, "", patients.centers[p] or "", cohort.classes[patients.labels_P[p]]]
        scores = [*oof.patient_logits_PC[p].tolist(), *oof.patient_probs_PC[p].tolist()]
        rows.append([*row, int(patients.folds_P[p]), tiles[patient], *scores])
    write_text(path, csv_text(rows))


def write_all_models(path: Path, patients: Patients, classes: Sequence[str], probs: Mapping[str, Floats]) -> None:
    """Write baselines/oof.csv: out-of-fold patient probabilities of every model and baseline."""
    rows: list[list[Any]] = [["model", "patient_id", "label", "fold", *(f"p_{name}" for name in classes)]]
    for model, probs_PC in probs.items():
        for p, patient in enumerate(patients.ids):
            label, fold = classes[patients.labels_P[p]], int(patients.folds_P[p])
            rows.append([model, patient, label, fold, *probs_PC[p].tolist()])
    write_text(path, csv_text(rows))

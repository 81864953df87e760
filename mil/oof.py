"""Out-of-fold predictions: every patient scored by models that never saw that patient.

A fold's logits are averaged over its seeds, a patient's over the slides; the temperature of a fold comes from the inner
validation patients of that fold's own models, never from its test patients.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mil.calibrate import Calibration, fit_calibration
from mil.cohort import Cohort
from mil.metrics import Floats, Ints
from mil.options import TrainOptions
from mil.run import RunFolder
from mil.scores import Scores, patient_logits, read_scores
from wsi.atomic import write_text


@dataclass(frozen=True, slots=True)
class Patients:
    """The patients of a cohort, sorted by id; the fields run in parallel."""

    ids: tuple[str, ...]
    labels_P: Ints
    centers: tuple[str | None, ...]
    folds_P: Ints


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Out-of-fold scores of one head."""

    slide_logits_SC: Floats
    """Mean over seeds, uncalibrated; zeros for a slide without tiles."""
    slide_probs_SC: Floats
    patient_logits_PC: Floats
    patient_probs_PC: Floats
    calibrations: dict[int, Calibration]
    """By fold."""


def patients_of(cohort: Cohort, folds: Ints) -> Patients:
    """Return the cohort's patients."""
    first = {patient: i for i, patient in reversed(list(enumerate(cohort.patient_ids)))}
    ids = tuple(sorted(first))
    rows = [first[patient] for patient in ids]
    centers = tuple(cohort.center_ids[i] for i in rows)
    return Patients(ids, cohort.labels_N[rows], centers, folds[rows])


def collect(
    run: RunFolder,
    head: str,
    cohort: Cohort,
    folds: Ints,
    options: TrainOptions,
) -> OutOfFold:
    """Gather one head's scores.csv files into out-of-fold predictions, calibrated fold by fold."""
    number = {image_id: i for i, image_id in enumerate(cohort.image_ids)}
    logits_SC = np.zeros((len(cohort), len(cohort.classes)))
    calibrations: dict[int, Calibration] = {}
    n_seeds = options.models_per_fold
    for fold in range(options.folds):
        tables = [read_scores(run.model(head, fold, seed) / "scores.csv") for seed in range(n_seeds)]
        for table in tables:
            rows = [number[i] for i, test in zip(table.image_ids, table.test_S, strict=True) if test]
            logits_SC[rows] += table.logits_SC[table.test_S] / n_seeds
        calibrations[fold] = _calibration(tables, cohort, number, options)
    names, patient_PC = patient_logits(logits_SC, cohort.patient_ids, cohort.usable_N, options.aggregate)
    fold_of = dict(zip(cohort.patient_ids, folds.tolist(), strict=True))
    folds_P = np.array([fold_of[name] for name in names])
    slide_probs, patient_probs = np.zeros_like(logits_SC), np.zeros_like(patient_PC)
    for fold, calibration in calibrations.items():
        slide_probs[folds == fold] = calibration.probabilities(logits_SC[folds == fold])
        patient_probs[folds_P == fold] = calibration.probabilities(patient_PC[folds_P == fold])
    return OutOfFold(logits_SC, slide_probs, patient_PC, patient_probs, calibrations)


def _calibration(
    tables: Sequence[Scores], cohort: Cohort, number: Mapping[str, int], options: TrainOptions
) -> Calibration:
    """Fit the calibration on the inner validation patients of all seeds of a fold."""
    logits, labels = [], []
    for table in tables:
        rows = [number[i] for i, test in zip(table.image_ids, table.test_S, strict=True) if not test]
        patients = tuple(cohort.patient_ids[i] for i in rows)
        names, patient_PC = patient_logits(
            table.logits_SC[~table.test_S], patients, np.ones(len(rows), bool), options.aggregate
        )
        label_of = dict(zip(patients, cohort.labels_N[rows], strict=True))
        logits.append(patient_PC)
        labels += [label_of[name] for name in names]
    return fit_calibration(options.calibrate, np.concatenate(logits), np.array(labels, np.int64), options.seed)


def write_oof(path: Path, cohort: Cohort, folds: Ints, patients: Patients, oof: OutOfFold) -> None:
    """Write oof.csv: first the slides, then the patients; logits uncalibrated, probabilities calibrated."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["level", "patient_id", "image_id", "center_id", "label", "fold", "n_tiles"]
        + [f"logit_{name}" for name in cohort.classes]
        + [f"p_{name}" for name in cohort.classes]
    )
    tiles: dict[str, int] = dict.fromkeys(patients.ids, 0)
    for i, image_id in enumerate(cohort.image_ids):
        tiles[cohort.patient_ids[i]] += len(cohort.bags[i])
        row = ["slide", cohort.patient_ids[i], image_id, cohort.center_ids[i] or "", cohort.classes[cohort.labels_N[i]]]
        numbers = [
            int(folds[i]),
            len(cohort.bags[i]),
            *oof.slide_logits_SC[i].tolist(),
            *oof.slide_probs_SC[i].tolist(),
        ]
        writer.writerow(row + [repr(value) for value in numbers])
    for p, patient in enumerate(patients.ids):
        row = ["patient", patient, "", patients.centers[p] or "", cohort.classes[patients.labels_P[p]]]
        scores = [*oof.patient_logits_PC[p].tolist(), *oof.patient_probs_PC[p].tolist()]
        writer.writerow(row + [repr(value) for value in [int(patients.folds_P[p]), tiles[patient], *scores]])
    write_text(path, text.getvalue())


def write_all_models(path: Path, patients: Patients, classes: Sequence[str], probs: Mapping[str, Floats]) -> None:
    """Write baselines/oof.csv: out-of-fold patient probabilities of every model and baseline."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "patient_id", "label", "fold", *(f"p_{name}" for name in classes)])
    for model, probs_PC in probs.items():
        for p, patient in enumerate(patients.ids):
            label, fold = classes[patients.labels_P[p]], int(patients.folds_P[p])
            writer.writerow([model, patient, label, fold, *map(repr, probs_PC[p].tolist())])
    write_text(path, text.getvalue())
